"""Resized copies: the same input to the model, and no other model's."""

from types import SimpleNamespace

import numpy as np
import pytest
import resize_images
import torch
from PIL import Image

from gatedcir.assemble import make_pixels
from gatedcir.config import Config
from gatedcir.data.load import load_splits
from gatedcir.data.resized import check_note, copy_images, write_note
from gatedcir.data.transforms import TRANSFORMS, make_transform, open_image
from gatedcir.errors import UserError
from gatedcir.parsing import parse

SIZES = [(9, 9), (31, 10), (10, 31), (13, 11), (101, 200), (5, 4)]


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_copies_are_the_same_input(tmp_path, kind):
    generator = np.random.default_rng(0)
    source, target = tmp_path / "in", tmp_path / "out"
    (source / "train").mkdir(parents=True)
    files = []
    for number, (width, height) in enumerate(SIZES):
        files.append(source / "train" / f"{number}.{('png', 'jpg')[number % 2]}")
        pixels = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(files[-1])
    transform = make_transform(kind, size=10)
    copies = list(copy_images(source, target, files, transform, num_workers=0))
    assert [copy.relative_to(target) for copy in copies] == [
        file.relative_to(source).with_suffix(".png") for file in files
    ]
    for file, copy in zip(files, copies, strict=True):
        assert open_image(copy).size == (10, 10)
        assert torch.equal(transform(open_image(copy)), transform(open_image(file)))


@pytest.mark.parametrize("dataset", ["CIRR", "FashionIQ"])
def test_the_copied_dataset_is_read_like_the_first(home, tmp_path, dataset, capsys):
    first = home / {"CIRR": "cirr_dataset", "FashionIQ": "fashionIQ_dataset"}[dataset]
    flags = ["--dataset", dataset, "--data-path", str(first), "--image-size", "32"]
    resize_images.main([*flags, "--output", str(tmp_path / "copy"), "--num-workers", "0"])
    assert "32 px" in capsys.readouterr().out
    transform = make_transform("targetpad", size=32)
    for split in ("train", "val"):
        before, after = (load_splits(dataset, f, [split])[0][0] for f in (first, tmp_path / "copy"))
        assert before.triplets == after.triplets and before.gallery == after.gallery
        name = before.gallery[-1]
        pixels = [transform(open_image(part.paths[name])) for part in (before, after)]
        assert torch.equal(*pixels)
    with pytest.raises(UserError, match="not an empty folder"):
        resize_images.main([*flags, "--output", str(tmp_path / "copy")])


def test_copies_for_another_transform_are_refused(tmp_path):
    transform = make_transform("targetpad", size=32)
    check_note(tmp_path, transform)  # an original folder
    write_note(tmp_path, transform)
    check_note(tmp_path, transform)
    for other in (make_transform("clip", size=32), make_transform("targetpad", size=48)):
        with pytest.raises(UserError, match=r"resized for .*size=32.*--data-path"):
            check_note(tmp_path, other)


def test_drafts_are_a_transform_of_their_own(home, tmp_path):
    flags = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset"), "--image-size", "32"]
    resize_images.main([*flags, "--draft", "--output", str(tmp_path / "copy")])
    check_note(tmp_path / "copy", make_transform("targetpad", size=32, draft=True))
    with pytest.raises(UserError, match="draft=True"):
        check_note(tmp_path / "copy", make_transform("targetpad", size=32))


def test_commands_look_at_the_note(tmp_path):
    write_note(tmp_path, make_transform("targetpad", size=32))
    flags = ["--dataset", "CIRR", "--data-path", str(tmp_path)]
    model = SimpleNamespace(backbone=SimpleNamespace(image_size=48))
    with pytest.raises(UserError, match="size=48"):
        make_pixels(parse(Config, flags, description=""), model, [])
