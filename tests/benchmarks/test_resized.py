"""Resized copies: the same input to the model and the same ranking, and no other model's."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import make_synthetic
import numpy as np
import pytest
import resize_images
import torch
from conftest import bad
from PIL import Image

import blip_validate
from gatedcir.assemble.data import make_pixels
from gatedcir.benchmarks.cirr import parse_cirr
from gatedcir.benchmarks.load import load_splits
from gatedcir.benchmarks.resized import NOTE, check_note, copy_images, write_note
from gatedcir.data.transforms import TRANSFORMS, make_transform, open_image
from gatedcir.errors import UserError
from gatedcir.options.config import Config
from gatedcir.options.parsing import parse

SIZES = [(9, 9), (31, 10), (10, 31), (13, 11), (101, 200), (5, 4)]
VAL = "cirr/image_splits/split.rc2.val.json"


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_copies_are_the_same_input(tmp_path, kind):
    generator = np.random.default_rng(0)
    places = {}
    for number, (width, height) in enumerate(SIZES):
        file = tmp_path / f"{number}.{('png', 'jpg')[number % 2]}"
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file)
        places[file] = Path("train") / f"copy{number}.png"
    transform = make_transform(kind, size=10)
    copies = copy_images(tmp_path / "out", places, transform, num_workers=0)
    assert {copy.path for copy in copies} == {tmp_path / "out" / p for p in places.values()}
    for file, place in places.items():
        copy = open_image(tmp_path / "out" / place)
        assert copy.size == (10, 10)
        assert torch.equal(transform(copy), transform(open_image(file)))


def resized(source, target, *flags, dataset="CIRR"):
    resize_images.main(["--dataset", dataset, *command(source, target), *flags])


def command(source, target):
    flags = ["--data-path", str(source), "--output", str(target), "--image-size", "64"]
    return [*flags, "--num-workers", "0"]


def report(folder, model, out, *flags, dataset="CIRR"):
    flags = ["--dataset", dataset, "--data-path", str(folder), "--num-workers", "0", *flags]
    blip_validate.main([*flags, "--model-path", str(model), "--json", str(out)])
    return json.loads(out.read_text())["metrics"]


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def cirr(home, tmp_path):
    return Path(shutil.copytree(home / "cirr_dataset", tmp_path / "cirr"))


def rewrite(file, change):
    file.write_text(json.dumps({n: change(n, f) for n, f in json.loads(file.read_text()).items()}))


def above(cirr):
    """Images next to the dataset's folder."""
    (cirr / "dev").rename(cirr.parent / "pool")
    rewrite(cirr / VAL, lambda _, file: file.replace("./dev/", "../pool/"))


def absolute(cirr):
    for file in (cirr / "cirr/image_splits").iterdir():
        rewrite(file, lambda _, image: str(cirr / image))


def jpegs(cirr):
    for file in (cirr / "dev").iterdir():
        Image.open(file).save(file.with_suffix(".jpg"), quality=90)
        file.unlink()
    rewrite(cirr / VAL, lambda _, file: file.replace(".png", ".jpg"))


def by_ending(cirr):
    """Names that differ by their ending alone, in one folder."""
    places = iter(range(10**6))

    def change(name, file):
        number = next(places)
        new = f"./dev/{number // 2}.{('png', 'webp')[number % 2]}"
        Image.open(cirr / file).save(cirr / new, lossless=True)
        (cirr / file).unlink()
        return new

    rewrite(cirr / VAL, change)


def below(cirr):
    (cirr / "img_raw").mkdir()
    for folder in ("train", "dev", "test1"):
        (cirr / folder).rename(cirr / "img_raw" / folder)


def linked(cirr):
    for folder in ("cirr", "cirr/captions", "dev"):
        (cirr / folder).rename(cirr.parent / f"linked_{folder.replace('/', '_')}")
        (cirr / folder).symlink_to(cirr.parent / f"linked_{folder.replace('/', '_')}")
    (cirr / "loop").symlink_to(cirr)


def val_alone(cirr):
    for part in ("train", "test1"):
        shutil.rmtree(cirr / part)
    for file in (cirr / "cirr").rglob("*.test1.json"):
        file.unlink()


def as_they_are(cirr):
    pass


@pytest.mark.parametrize(
    "change", [as_they_are, above, absolute, jpegs, by_ending, below, linked, val_alone]
)
def test_a_copy_evaluates_as_its_dataset_does(cirr, cirr_run, tmp_path, monkeypatch, change):
    monkeypatch.chdir(tmp_path)
    change(cirr)
    before = contents(tmp_path)
    source = Path("cirr")  # as people type it
    resized(source, tmp_path / "copy")
    assert {p: c for p, c in contents(tmp_path).items() if tmp_path / "copy" not in p.parents} == (
        before
    )
    parts = [parse_cirr(folder, "val") for folder in (source, tmp_path / "copy")]
    assert parts[0].triplets == parts[1].triplets and parts[0].gallery == parts[1].gallery
    assert len(set(parts[1].paths.values())) == len(parts[1].paths)
    assert all(tmp_path / "copy" in path.resolve().parents for path in parts[1].paths.values())
    assert {Image.open(path).size for path in parts[1].paths.values()} == {(64, 64)}
    found = [report(f, cirr_run, tmp_path / "out.json") for f in (source, tmp_path / "copy")]
    assert found[0] == found[1]


def test_a_copy_in_the_published_layout_changes_no_annotation(cirr, tmp_path):
    resized(cirr, tmp_path / "copy")
    for file in cirr.rglob("*.json"):
        assert (tmp_path / "copy" / file.relative_to(cirr)).read_bytes() == file.read_bytes()
    assert not (tmp_path / "copy" / "outside").exists()


def test_the_copied_dataset_is_read_like_the_first(home, tmp_path, capsys):
    first = home / "fashionIQ_dataset"
    resized(first, tmp_path / "copy", dataset="FashionIQ")
    assert "64 px" in capsys.readouterr().out
    transform = make_transform("targetpad", size=64)
    for split in ("train", "val", "test"):
        parts = (load_splits("FashionIQ", f, [split])[0] for f in (first, tmp_path / "copy"))
        for before, after in zip(*parts, strict=True):
            assert before.triplets == after.triplets and before.gallery == after.gallery
            name = before.gallery[-1]
            pixels = [transform(open_image(part.paths[name])) for part in (before, after)]
            assert torch.equal(*pixels)
    found = [
        report(f, "tiny", tmp_path / "out.json", dataset="FashionIQ")
        for f in (first, tmp_path / "copy")
    ]
    assert found[0] == found[1]
    flags = ["--dataset", "FashionIQ", *command(first, tmp_path / "copy")]
    bad(resize_images, flags, "not an empty folder")


def test_a_name_of_fashioniq_that_leads_outside_is_refused(home, tmp_path):
    first = Path(shutil.copytree(home / "fashionIQ_dataset", tmp_path / "first"))
    file = first / "image_splits" / "split.dress.train.json"
    Image.new("RGB", (8, 8)).save(tmp_path / "x.jpg")
    file.write_text(json.dumps([*json.loads(file.read_text()), "../../x"]))
    flags = ["--dataset", "FashionIQ", *command(first, tmp_path / "copy")]
    bad(resize_images, flags, "'../../x'", "leads out", "rename")
    assert not (tmp_path / "copy").exists()


def test_images_that_cannot_be_had_are_left_out_and_told(cirr, tmp_path, capsys):
    gone, cut, link, *_ = sorted((cirr / "dev").iterdir())
    gone.unlink()
    cut.write_bytes(cut.read_bytes()[:200])
    link.unlink()
    link.symlink_to(tmp_path / "nowhere.png")
    reasons = "1 broken link, 1 cut short or damaged"
    flags = ["--dataset", "CIRR", *command(cirr, tmp_path / "copy")]
    told = f"3 of 135 images cannot be read ({reasons}, 1 missing)"
    bad(resize_images, flags, told, "--skip-unreadable")
    assert not (tmp_path / "copy").exists()
    resize_images.main([*flags, "--skip-unreadable"])
    assert f"3 of 135 images are left out ({reasons}, 1 missing)" in capsys.readouterr().out
    listed = (tmp_path / "copy" / "unreadable_images.csv").read_text()
    assert all(str(file) in listed for file in (gone, cut, link))
    copied = parse_cirr(tmp_path / "copy", "val").paths
    assert not any(copied[file.stem].is_file() for file in (gone, cut, link))


def test_without_images_or_annotations_nothing_is_written(cirr, tmp_path):
    for folder in ("train", "dev", "test1"):
        shutil.rmtree(cirr / folder)
    flags = ["--dataset", "CIRR", *command(cirr, tmp_path / "copy")]
    bad(resize_images, flags, "no image", str(cirr))
    flags = ["--dataset", "CIRR", *command(tmp_path / "none", tmp_path / "copy")]
    bad(resize_images, flags, "does not exist", "expected layout")
    assert {path.name for path in tmp_path.iterdir()} == {"cirr"}


def test_a_copy_inside_of_its_dataset_is_refused(cirr, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(cirr)
    for output in (cirr / "small", cirr / "dev" / "small", tmp_path / "link" / "small"):
        flags = ["--dataset", "CIRR", *command(cirr, output)]
        bad(resize_images, flags, str(output), "lies in the dataset's folder")
        assert not output.exists()


def test_copies_are_not_resized_for_another_transform(cirr, tmp_path):
    resized(cirr, tmp_path / "copy")
    flags = ["--dataset", "CIRR", *command(tmp_path / "copy", tmp_path / "again")]
    bad(resize_images, [*flags, "--transform", "clip"], "resized for", "--data-path")
    resized(tmp_path / "copy", tmp_path / "again")  # which changes nothing
    images = [parse_cirr(tmp_path / f, "val").paths for f in ("copy", "again")]
    assert all(images[0][name].read_bytes() == images[1][name].read_bytes() for name in images[0])


@pytest.mark.parametrize("made", ["copy", "drawn"])
def test_a_folder_of_the_users_stays(cirr, tmp_path, made):
    (tmp_path / "mine.unfinished").mkdir()
    (tmp_path / "mine.unfinished" / "thesis.txt").write_text("precious")
    if made == "copy":
        resized(cirr, tmp_path / "mine")
    else:
        flags = "--layout cirr --train 6 --val 4 --test 4".split()
        make_synthetic.main([*flags, "--output", str(tmp_path / "mine")])
    assert (tmp_path / "mine.unfinished" / "thesis.txt").read_text() == "precious"
    assert {p.name for p in tmp_path.iterdir()} == {"cirr", "mine", "mine.unfinished"}


@pytest.mark.parametrize("note", ["", "[]", "{}", "\u00e9"])
def test_a_damaged_note_is_refused(tmp_path, note):
    (tmp_path / NOTE).write_text(note, encoding="latin-1")
    with pytest.raises(UserError, match=r"resized for a transform .* does not tell; .*--data-path"):
        check_note(tmp_path, make_transform("targetpad", size=32))


def test_copies_for_another_transform_are_refused(tmp_path):
    transform = make_transform("targetpad", size=32)
    check_note(tmp_path, transform)  # an original folder
    write_note(tmp_path, transform)
    check_note(tmp_path, transform)
    for other, difference in (
        (make_transform("clip", size=32), r"another transform \(targetpad, not clip\)"),
        (make_transform("targetpad", size=48), r"another image size \(32, not 48\)"),
    ):
        with pytest.raises(UserError, match=rf"resized for {difference}; .*--data-path"):
            check_note(tmp_path, other)


def test_drafts_are_a_transform_of_their_own(home, tmp_path):
    flags = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset"), "--image-size", "32"]
    more = ["--draft", "--num-workers", "0", "--output", str(tmp_path / "copy")]
    resize_images.main([*flags, *more])
    check_note(tmp_path / "copy", make_transform("targetpad", size=32, draft=True))
    with pytest.raises(UserError, match=r"for another draft mode \(True, not False\);"):
        check_note(tmp_path / "copy", make_transform("targetpad", size=32))


def test_commands_look_at_the_note(tmp_path):
    write_note(tmp_path, make_transform("targetpad", size=32))
    flags = ["--dataset", "CIRR", "--data-path", str(tmp_path)]
    model = SimpleNamespace(backbone=SimpleNamespace(image_size=48))
    with pytest.raises(UserError, match=r"image size \(32, not 48\)"):
        make_pixels(parse(Config, flags, description=""), model, [])
