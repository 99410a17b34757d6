"""Files that a command may write over, and all others, which it may not."""

import json
import os
import shutil
import tarfile
from pathlib import Path

import pytest
import torch
from conftest import bad
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import save_file

from gatedcir.commands import evaluate
from gatedcir.errors import UserError, check_folder_to_write
from gatedcir.files import write_text
from gatedcir.outputs import SIGNS, check_file_to_write, check_files_to_write, check_own, is_own
from gatedcir.visualize import style


def test_only_files_are_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path(os.devnull)):
        with pytest.raises(UserError, match=r"--json .* is a device or a pipe, and no file; name"):
            check_file_to_write(path, "--json", "figures")
    with pytest.raises(UserError, match=r"--json .* is a folder; name a file in it"):
        check_file_to_write(tmp_path, "--json", "figures")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="a link to a missing one; name another"):
        check_folder_to_write(tmp_path / "link", "--output")


@pytest.fixture(scope="module")
def files_of_others(home, cirr_run, tmp_path_factory):
    """What a user may have: data sets, a run, weights, pages, pictures, archives."""
    folder = tmp_path_factory.mktemp("others")
    torch.save({"a": torch.ones(1)}, folder / "copy")
    save_file({"a": torch.ones(1)}, folder / "other copy")
    Image.new("RGB", (4, 4)).save(folder / "photo.png")
    texts = {
        "page.html": "<!doctype html><title>gatedcir</title>",
        "picture.svg": '<svg xmlns="http://www.w3.org/2000/svg"></svg>',
        "own.jsonl": '{"reference": "a.png", "text": "red", "target": "b.png"}\n',
        "own.csv": "reference,text,target\na.png,red,b.png\n",
        "boxes.json": json.dumps({"1": [[0, 0, 1, 1]]}, indent=2),
        "answers.json": json.dumps({"1": ["a", "b"]}),
        "deep.json": json.dumps({"mine": {"protocol": {}}}, indent=2),
        "graded.qrels": "1 0 a 0\n1 0 b 2\n",
        "notes.md": "# Mine\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    shutil.copy(cirr_run / "checkpoints" / "best.pt", folder)
    data = [home / "cirr_dataset", home / "fashionIQ_dataset", cirr_run]
    return [file for place in (folder, *data) for file in place.rglob("*") if file.is_file()]


@pytest.mark.parametrize("kind", SIGNS)
def test_no_file_of_others_is_taken_for_an_output(kind, files_of_others):
    assert [file for file in files_of_others if is_own(file, kind)] == []


def test_a_command_refuses_its_annotations_as_an_output(home, tmp_path):
    captions = shutil.copy(
        home / "cirr_dataset" / "cirr" / "captions" / "cap.rc2.val.json", tmp_path
    )
    (tmp_path / "link.csv").symlink_to(captions)
    (tmp_path / "run.qrels").write_text("1 0 a 2\n")
    before = Path(captions).read_bytes()
    for flags in (
        ["--output", captions],
        ["--ranks", tmp_path / "link.csv"],
        ["--trec", captions],
        ["--trec", tmp_path / "run"],
    ):
        words = (flags[0], "is no earlier output of this kind, and would be lost; name another")
        bad(evaluate, ["--model-path", "tiny", "--dataset", "CIRR", *flags], *words)
    assert Path(captions).read_bytes() == before
    assert (tmp_path / "run.qrels").read_text() == "1 0 a 2\n"


def test_an_output_is_replaced_by_the_next_one(tmp_path):
    """The other kinds are looked at where commands write them."""
    (tmp_path / "empty").touch()
    check_file_to_write(tmp_path / "empty", "--json", "figures")
    figure = Figure()
    for ending in style.FORMATS:
        for _ in range(2):
            style.save(figure, tmp_path / f"a.{ending}")
    with tarfile.open(tmp_path / "kept.snapshot", "w", format=tarfile.GNU_FORMAT) as snapshot:
        snapshot.add(tmp_path / "a.png")
    check_file_to_write(tmp_path / "kept.snapshot", "--save-snapshot", "snapshot")


def test_a_photo_is_not_replaced_by_a_figure(tmp_path):
    Image.effect_noise((600, 400), 50).save(tmp_path / "photo.png")
    before = (tmp_path / "photo.png").read_bytes()
    with pytest.raises(UserError, match=r"^\S+photo.png is no earlier output of this kind"):
        style.save(Figure(), tmp_path / "photo.png")
    assert (tmp_path / "photo.png").read_bytes() == before
    check_own(tmp_path / "new.png", "picture")


def test_a_name_of_the_system_that_leads_to_a_file_is_not_replaced(tmp_path):
    """`command --json /dev/stdout > log` would replace the log."""
    log = tmp_path / "log"
    (tmp_path / "link").symlink_to("/dev/stdout")
    with log.open("w") as file:
        kept = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            for path in (Path("/dev/stdout"), Path("/dev/fd/1"), tmp_path / "link"):
                with pytest.raises(UserError, match="is a device or a pipe, and no file; name"):
                    write_text(path, "{}")
        finally:
            os.dup2(kept, 1)
            os.close(kept)
    assert log.read_bytes() == b""


def test_a_link_to_itself_is_not_replaced(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match="loop is a link to itself; name another path"):
        write_text(tmp_path / "loop", "")


def test_two_outputs_are_two_files(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "a")
    given = [("--json", tmp_path / "a", "figures"), ("--html", None, "page")]
    check_files_to_write([*given, ("--trec", tmp_path / "b", "trec")])
    for other in ("a", "link"):
        with pytest.raises(UserError, match=r"--json and --html name one file, .*; name two\."):
            check_files_to_write([*given, ("--html", tmp_path / other, "page")])
