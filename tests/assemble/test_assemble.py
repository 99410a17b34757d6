"""Putting the parts of a run together."""

import copy

import pytest
import torch

from gatedcir.assemble import data
from gatedcir.assemble.evaluator import place
from gatedcir.assemble.model import build
from gatedcir.device import Device
from gatedcir.errors import UserError
from gatedcir.options.checks import check_ranges
from gatedcir.options.config import Config
from gatedcir.options.parsing import parse


@pytest.mark.parametrize(("computes", "precision"), [(True, torch.bfloat16), (False, None)])
def test_gpus_compute_in_bf16_where_they_have_it_and_in_float32_elsewhere(
    monkeypatch, computes, precision
):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: computes)
    assert Device.of("auto", torch.device("cuda")).precision is precision
    assert Device.of("fp16", torch.device("cuda")).precision is torch.float16


@pytest.mark.parametrize(("name", "precision"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_only_a_frozen_tower_is_kept_in_half_precision(name, precision):
    flags = ["--dataset", "CIRR", "--mixed-precision", name]
    config = parse(Config, flags, description="")
    model, _ = build(config)
    whole = copy.deepcopy(model).eval()
    place(model, torch.device("cpu"), config)
    halved = {name for name, weight in model.state_dict().items() if weight.dtype == precision}
    tower = "backbone.vision_model."
    last = tower + "post_layernorm."
    assert halved == {n for n in model.state_dict() if n.startswith(tower) and last not in n}
    assert {w.dtype for n, w in model.state_dict().items() if n not in halved} == {torch.float32}
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with Device(torch.device("cpu"), precision).autocast():
        found = model.eval().encode_target(pixels)
    assert found.dtype == torch.float32
    similar = (found * whole.encode_target(pixels)).sum(-1)
    assert similar.min() > 0.99

    config = parse(Config, [*flags, "--train-vision"], description="")
    model = place(build(config)[0], torch.device("cpu"), config)
    assert {w.dtype for w in model.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    ("room", "workers", "found"),
    [
        (64 * 2**20, 2, 0),  # Docker's default
        (5 * 128 * 3 * 64 * 64 * 4, 2, 2),  # exactly two batches a worker, and one in use
        (5 * 128 * 3 * 64 * 64 * 4 - 1, 2, 0),
        (0, 0, 0),
        (None, 2, 2),  # no /dev/shm
    ],
)
def test_no_loading_processes_where_shared_memory_is_too_small(
    monkeypatch, capsys, room, workers, found
):
    monkeypatch.setattr(data, "shared_memory", lambda: room)
    flags = ["--dataset", "CIRR", "--num-workers", str(workers)]
    config = parse(Config, flags, description="")
    model, _ = build(config)
    capsys.readouterr()
    size = 128 if room is None or room < 64 * 2**20 else 1000
    assert data.with_workers_that_fit(config, model, size).data.num_workers == found
    printed = capsys.readouterr().out
    assert ("--num-workers 0" in printed and "--shm-size" in printed) == (found < workers)


def test_no_loading_processes_if_a_batch_is_larger_than_a_file_may_be(monkeypatch, capsys):
    flags = ["--dataset", "CIRR", "--num-workers", "2"]
    config = parse(Config, flags, description="")
    model, _ = build(config)
    size = 8 * 3 * 64 * 64 * 4
    for most, workers in ((size, 2), (size - 1, 0)):
        monkeypatch.setattr(data, "largest_file", lambda most=most: most)
        assert data.with_workers_that_fit(config, model, 8).data.num_workers == workers
    assert "(ulimit -f): images are loaded without processes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            "--image-size 1000000",
            "--image-size 1000000 makes 15,625,000,000 visual tokens of an image",
        ),
        ("--model.visual-scales 1 1000 --model.scale-fusion mean", "more than 65536; change --mod"),
        ("--model.visual-scales 1 1e308 --model.scale-fusion mean", "makes inf visual tokens"),
        ("--image-size 12", "12 is no multiple of a patch's 8 px; the weights' own is"),
    ],
)
def test_an_image_of_too_many_tokens_is_refused(flags, words):
    config = parse(Config, ["--dataset", "CIRR", *flags.split()], description="")
    with pytest.raises(UserError) as error:
        build(config)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--image-size 0", "--image-size 0 is out of range"),
        ("--model.visual-scales 0 1 --model.scale-fusion mean", "must be positive"),
        ("--model.visual-scales nan 1 --model.scale-fusion mean", "must be positive, finite"),
        ("--model.visual-scales 1 inf --model.scale-fusion mean", "must be positive, finite"),
        ("--model.visual-layers -1 -1 --model.layer-fusion mean", "names a layer twice"),
        ("--model.gated-fusion.strategy nowhere:Fusion", "needs the module nowhere"),
    ],
)
def test_what_no_weights_can_mend_is_refused_without_them(flags, words):
    with pytest.raises(UserError) as error:
        check_ranges(parse(Config, ["--dataset", "CIRR", *flags.split()], description=""))
    assert words in str(error.value)


def test_a_folder_of_other_things_keeps_no_features(tmp_path):
    def check(place):
        flags = ["--dataset", "CIRR", "--cache-features", str(place)]
        check_ranges(parse(Config, flags, description=""))

    (tmp_path / "captions").mkdir()
    with pytest.raises(UserError, match=r"--cache-features .* holds captions and no features"):
        check(tmp_path)
    check(tmp_path / "captions")
    check(tmp_path / "new" / "folder")
    (tmp_path / "vision-0123").mkdir()
    check(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"--cache-features needs the folder .*file, which is a"):
        check(tmp_path / "file")
