"""Every file that cannot be read is found in one pass."""

import os
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gatedcir.data import readable
from gatedcir.data.readable import RECORD, find_unreadable, refuse_unreadable
from gatedcir.data.sources import PixelSource, batches
from gatedcir.data.transforms import make_transform
from gatedcir.errors import UserError


@pytest.fixture
def files(tmp_path) -> dict[str, Path]:
    """One file of each kind by the reason it gets; four that can be read."""
    folder = tmp_path / "images"
    folder.mkdir()
    bad = ("empty", "web page", "no image", "broken link", "folder", "special file", "missing")
    names = [*(f"good{number}" for number in range(4)), *bad, "cut short or damaged"]
    found = {name: folder / f"{name}.png" for name in names}
    for number in range(4):
        Image.effect_noise((64, 64), 50 + number).save(found[f"good{number}"])
    found["empty"].touch()
    found["web page"].write_text("\n<html>404 Not Found</html>")
    found["no image"].write_bytes(b"\x00\x01 nothing")
    found["broken link"].symlink_to(tmp_path / "nowhere")
    found["folder"].mkdir()
    os.mkfifo(found["special file"])
    whole = found["good0"].read_bytes()
    found["cut short or damaged"].write_bytes(whole[: len(whole) // 2])
    return found


def bad_of(files):
    return {path: name for name, path in files.items() if not name.startswith("good")}


@pytest.mark.parametrize("num_workers", [0, 3])
def test_every_kind_is_found_with_its_reason(files, num_workers):
    assert find_unreadable(list(files.values()), num_workers=num_workers) == bad_of(files)


def test_what_is_whole_and_yet_of_no_use_is_not_called_damaged(tmp_path):
    bytes_of = {
        "SVG drawing": b"<?xml version='1.0'?>\n<!-- a -->\n<svg width='3'/>",
        "no image": b"<?xml version='1.0'?><data/>",
        "unknown form of its format": b"DDS " + bytes([124, *bytes(3)]) + bytes(200),
        "PostScript, which needs Ghostscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"
        b"%%EndComments\n%%EOF\n",
    }
    found = {reason: tmp_path / reason[:4] for reason in bytes_of}
    for reason, path in found.items():
        path.write_bytes(bytes_of[reason])
    found["numbers of another range"] = tmp_path / "float.tiff"
    Image.fromarray(np.array([[-200, 300]], np.float32)).save(tmp_path / "float.tiff")
    found["too many pixels"] = tmp_path / "huge.png"
    Image.new("L", (3, 3)).save(tmp_path / "huge.png")
    content = bytearray((tmp_path / "huge.png").read_bytes())
    content[16:24] = (60000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (tmp_path / "huge.png").write_bytes(content)
    expected = {path: reason for reason, path in found.items()}
    assert find_unreadable(list(expected), num_workers=0) == expected


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_closed_file_is_not_permitted(files):
    files["good0"].chmod(0)
    assert find_unreadable([files["good0"]], num_workers=0) == {files["good0"]: "not permitted"}


def test_the_next_pass_reads_only_what_is_new_or_was_bad(files, tmp_path, monkeypatch):
    read, why = [], readable.why_unreadable
    monkeypatch.setattr(readable, "why_unreadable", lambda path: read.append(path) or why(path))
    paths, folder = list(files.values()), tmp_path / "features"
    for expected in (paths, list(bad_of(files))):
        read.clear()
        assert find_unreadable(paths, num_workers=0, folder=folder) == bad_of(files)
        assert read == expected
    files["good1"].write_bytes(b"")
    os.utime(files["good2"], ns=(1, 1))
    read.clear()
    found = find_unreadable(paths, num_workers=0, folder=folder)
    assert found == {**bad_of(files), files["good1"]: "empty"}
    assert {files["good1"], files["good2"]} <= set(read) and files["good0"] not in read
    assert [path.name for path in folder.iterdir()] == [RECORD]


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b'{"x": 3}'])
def test_a_spoilt_note_is_written_again(files, tmp_path, content):
    (tmp_path / RECORD).write_bytes(content)
    assert find_unreadable([files["good0"]], num_workers=0, folder=tmp_path) == {}
    assert str(files["good0"]).encode() in (tmp_path / RECORD).read_bytes()


def test_one_error_counts_and_lists_them(files, tmp_path):
    more = [tmp_path / f"a{number:02}.png" for number in range(12)]
    for path in more:
        path.touch()
    with pytest.raises(UserError) as raised:
        refuse_unreadable([*more, *files.values()], num_workers=2, folder=tmp_path)
    message = str(raised.value)
    assert message.startswith("20 of 24 images cannot be read (13 empty, 1 ")
    assert message.count(".png (") == 10 and f"{more[9]} (empty), ...; " in message
    assert "--skip-unreadable" in message
    rows = (tmp_path / "unreadable_images.csv").read_text().splitlines()
    assert len(rows) == 21 and f"{files['web page']},web page" in rows
    refuse_unreadable([files["good0"]], num_workers=0)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_reading_images_tells_of_all_that_cannot_be_read(files, tmp_path, num_workers):
    source = PixelSource(dict(files), make_transform("targetpad", size=8), tmp_path)
    names = ["good0", "good1", "empty"]
    with pytest.raises(UserError, match="8 of 12 images cannot be read") as raised:
        list(batches(source, names, batch_size=2, num_workers=num_workers))
    assert "\n" not in str(raised.value)
    whole = replace(source, paths={name: files[name] for name in names[:2]})
    assert len(list(batches(whole, names[:2], batch_size=1, num_workers=num_workers))) == 2


def test_an_image_that_can_be_read_again_is_named_alone(files, monkeypatch):
    source = PixelSource({"empty": files["empty"]}, make_transform("targetpad", size=8))
    monkeypatch.setattr(readable, "why_unreadable", lambda path: None)
    with pytest.raises(UserError, match=r"^The image .*empty\.png cannot be read"):
        list(batches(source, ["empty"], batch_size=1, num_workers=0))
