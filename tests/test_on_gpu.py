"""What needs a GPU. All other tests compute on the CPU, also on a machine that has one.

One process runs the commands one after the other, because each start takes seconds.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest
from conftest import GPUS, SHORT

pytestmark = pytest.mark.skipif(
    shutil.which("nvidia-smi") is None or GPUS == "", reason="there is no GPU"
)

TRAINED = {
    "plain": "",
    "bf16": "--mixed-precision bf16",
    "taught": "--model.gated-fusion.strategy grounded --loss-gate 1",
    "reads-words": "--model.gated-fusion.strategy attentive --model.gated-fusion.reads qformer",
    "scales": "--model.visual-scales 0.5 1.0 --model.scale-fusion absi --loss-scale 0.5",
    "layers": "--model.visual-layers -1 -3 --model.layer-fusion dynamic --model.neck pyramid",
    "tower": "--train-vision --gradient-checkpointing --cache-features none",
    "parts": "--accumulate 2 --loss rcl --ema 0.9 --warmup 0",
    "on-the-gpu": "--cache-device gpu --cache-features memory",
    "fp16": "--mixed-precision fp16",
    "compiled": "--compile",
}
LATER = {
    "bank": "--stage bank --from plain",
    "rerank": "--stage rerank --from plain --rerank 5 --rerank-negatives 2",
}
SCRIPT = """
import json, sys, traceback
from gatedcir.commands.main import main
said = {}
for name, words in json.load(sys.stdin).items():
    try:
        main(words)
        said[name] = ""
    except BaseException:
        said[name] = traceback.format_exc()
json.dump(said, open(sys.argv[1], "w"))
"""


def in_one_process(folder, commands, visible):
    """Run commands in a folder. Returns what each one failed with."""
    said = folder / f"said{visible}.json"
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": visible}
    if visible == "all":
        del environment["CUDA_VISIBLE_DEVICES"]
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(said)],
        input=json.dumps(commands),
        env=environment,
        cwd=folder,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(said.read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gpu")


@pytest.fixture(scope="module")
def said(home, folder):
    """What failed: of the trainings, of the later stages, and of the commands on a run."""
    data = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset")]
    train = ["train", *data, *SHORT, "--device", "cuda", "--num-epochs", "1"]
    commands = {name: [*train, *flags.split(), "--output", name] for name, flags in TRAINED.items()}
    stage = ["train", *SHORT[2:], "--device", "cuda", "--num-epochs", "1"]
    commands |= {name: [*stage, *flags.split(), "--output", name] for name, flags in LATER.items()}
    on = ["--device", "cuda", "--model-path"]
    commands["evaluate"] = ["evaluate", *on, "plain", *data, "--json", "cuda.json"]
    commands["gates"] = ["gates", *on, "taught", *data, "--measure", "--json", "gates.json"]
    return in_one_process(folder, commands, GPUS)


@pytest.mark.parametrize("name", [*TRAINED, *LATER, "evaluate", "gates"])
def test_the_command_runs_on_a_gpu(said, name):
    assert not said[name]


def test_a_model_has_the_same_recall_on_both_devices(home, said, folder):
    flags = [
        "--model-path",
        "plain",
        "--dataset",
        "CIRR",
        "--data-path",
        str(home / "cirr_dataset"),
    ]
    command = ["evaluate", *flags, "--device", "cpu", "--json", "cpu.json"]
    assert in_one_process(folder, {"cpu": command}, "") == {"cpu": ""}
    on_gpu, on_cpu = (json.loads((folder / f"{name}.json").read_text()) for name in ("cuda", "cpu"))
    assert on_gpu["metrics"] == on_cpu["metrics"]
