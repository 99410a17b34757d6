"""Changed inputs of every kind are read or refused in words; and the cases that once were not."""

import json
import random
import sys

import fuzz_inputs
import mutate_inputs
import pytest
from conftest import bad
from mutate_inputs import KINDS, Kind, mutate, mutate_json, run, run_all
from PIL import Image

from gatedcir.benchmarks.circo import parse_circo
from gatedcir.benchmarks.cirr import CIRR, parse_cirr
from gatedcir.benchmarks.load import load_splits
from gatedcir.commands import evaluate, train
from gatedcir.doctor.images import look
from gatedcir.errors import UserError, run_command


# tests/page/test_in_browser.py has a page for the requests.
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "requests"])
def test_changed_inputs_have_no_faults(kind):
    inputs = 15 if kind in ("flags", "YAML") else 55
    [(_, found)] = run_all(inputs, 0, [kind])
    assert found.faults == []
    assert found.read + found.refused == inputs


def test_faults_are_found(tmp_path, monkeypatch):
    def write(folder):
        folder.mkdir()
        (folder / "a").write_bytes(b"good")
        return [folder / "a"]

    def read(folder):
        content = (folder / "a").read_bytes()
        if content != b"good":
            raise {0: ValueError, 1: UserError}[len(content) % 2]("two\nlines")

    found = run(Kind(write, read), tmp_path / "input", inputs=20, seed="0")
    assert any("ValueError" in fault for fault in found.faults)
    assert any("several lines" in fault for fault in found.faults)

    def writes(folder):
        if (folder / "a").read_bytes() != b"good":
            (folder.parent / "b").touch()

    (tmp_path / "more").mkdir()
    found = run(Kind(write, writes), tmp_path / "more" / "input", inputs=2, seed="0")
    assert any("wrote a file" in fault for fault in found.faults)
    monkeypatch.setattr(mutate_inputs, "MOST_SECONDS", -1)
    (tmp_path / "slow").mkdir()
    found = run(Kind(write, lambda _: None), tmp_path / "slow" / "input", inputs=1, seed="0")
    assert "it took" in found.faults[0]


def test_the_fuzzer_names_what_it_lacks(monkeypatch):
    bad(fuzz_inputs, ["--kinds", "YAML", "XML"], "there are no kinds ['XML']", "FashionIQ")
    monkeypatch.setitem(sys.modules, "atheris", None)  # not installed
    bad(fuzz_inputs, ["--seconds", "1"], "needs atheris; install it with pip install atheris")


def test_the_same_seed_gives_the_same_input():
    content = json.dumps({"a": [1, {"b": "c"}]}).encode()
    for change in (mutate, mutate_json):
        made = [change(content, random.Random(seed)) for seed in (0, 0, 1, 2, 3)]
        assert made[0] == made[1] and len(set(made)) > 2


@pytest.fixture
def cirr(home, tmp_path):
    """A copy of the annotations whose first image's path is another."""

    def make(path):
        for name in ("captions/cap.rc2.val.json", "image_splits/split.rc2.val.json"):
            content = json.loads((home / "cirr_dataset" / "cirr" / name).read_bytes())
            if isinstance(content, dict):
                content[next(iter(content))] = path
            file = tmp_path / "cirr" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(content))
        return tmp_path

    return make


@pytest.mark.parametrize(
    "path", ["", "\x00/a.png", "\ud83d/a.png", "\ud83d.png", "a" * 5000 + "/b.png"]
)
def test_image_paths_that_no_system_takes_are_missing_images(cirr, path):
    root = cirr(path)
    assert len(parse_cirr(root, "val").paths) > 2
    for skip in (False, True):
        with pytest.raises(UserError):
            load_splits("CIRR", root, ["val"], skip_unreadable=skip)


def test_a_name_with_control_characters_is_printed_on_one_line(tmp_path, capsys):
    file = tmp_path / "mine.jsonl"
    file.write_text(json.dumps({"reference": "a", "re\nfer\x1b[2Jence": 1, "text": "x"}) + "\n")
    words = ["--model-path", str(tmp_path), "--dataset", str(file)]
    bad(evaluate, words)
    for name in ("a\nb", "a\x0bb\x1b[2J"):

        def fails(name=name):
            raise UserError(f"there is no {name}; name another.")

        with pytest.raises(SystemExit):
            run_command(fails)
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "\x1b" not in said and "\x0b" not in said


def test_deep_yaml_and_long_names(tmp_path):
    file = tmp_path / "deep.yaml"
    file.write_text("[" * 5000)
    bad(train, ["--config", file], "deep.yaml is not valid YAML")
    bad(train, ["--dataset", "C" * 5000])


def test_the_check_reads_the_first_picture_of_a_file_whose_second_is_broken(tmp_path):
    file = tmp_path / "two.tif"
    pictures = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    pictures[0].save(file, save_all=True, append_images=pictures[1:])
    assert [kind for kind, _ in look(file).findings] == ["animated"]
    with Image.open(file) as image:
        image.seek(1)
        second = image.tag_v2._offset
    content = bytearray(file.read_bytes())
    content[second + 2] = 0x7F  # the tag of the width is another one
    file.write_bytes(content)
    found = look(file)
    assert found.findings == () and found.small is not None


def test_wrong_kinds_in_circo_and_in_answers(tmp_path):
    KINDS["CIRCO"].write(tmp_path)
    file = tmp_path / "annotations" / "val.json"
    [query] = json.loads(file.read_text())
    file.write_text(json.dumps([query | {"semantic_aspects": 7}]))
    with pytest.raises(UserError, match="semantic_aspects"):
        parse_circo(tmp_path, "val")
    with pytest.raises(UserError, match="metric"):
        CIRR.read_answers({"version": "rc2", "metric": ["recall"]}, [])
