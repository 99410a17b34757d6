import itertools
import pickle

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from gatedcir.data import transforms
from gatedcir.data.pictures import READING
from gatedcir.data.transforms import (
    CLIP_MEAN,
    CLIP_STD,
    TRANSFORMS,
    make_transform,
    no_padding,
    square_padding,
    target_padding,
)
from gatedcir.errors import UserError

PLAIN = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def levels(image: Image.Image, kind: str, size: int) -> torch.Tensor:
    """The transform's pixels before normalisation, [3, size, size] in 0..255."""
    return make_transform(kind, size=size, **PLAIN)(image) * 255


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (200, 100, (0, 30)),  # 200 / 1.25 = 160, (160 - 100) / 2 = 30
        (100, 200, (30, 0)),
        (125, 100, (0, 0)),  # the ratio itself: nothing is left to add
        (130, 100, (0, 2)),  # just above it: 130 / 1.25 = 104
        (124, 100, (0, 0)),
        (301, 101, (0, 69)),  # 240.8: 69.9 rounds down
        (101, 301, (69, 0)),
        (7, 7, (0, 0)),
    ],
)
def test_target_padding(width, height, expected):
    assert target_padding(width, height, 1.25) == expected


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(200, 100, (0, 50)), (100, 200, (50, 0)), (101, 200, (49, 0)), (9, 9, (0, 0))],
)
def test_square_padding(width, height, expected):
    assert square_padding(width, height, 1.25) == expected
    assert no_padding(width, height, 1.25) == (0, 0)


@pytest.mark.parametrize(("width", "height", "left"), [(7, 4, 2), (5, 4, 0), (6, 4, 1), (9, 4, 2)])
def test_crop_offset_rounds_half_to_even(width, height, left):
    # The shorter side is the size already, so nothing is resized: 1.5 -> 2, 0.5 -> 0, 2.5 -> 2.
    image = noise(width, height)
    expected = np.asarray(image)[:, left : left + 4].transpose(2, 0, 1)
    np.testing.assert_allclose(levels(image, "clip", 4).numpy(), expected, atol=1e-3)
    sideways = levels(image.transpose(Image.Transpose.TRANSPOSE), "clip", 4).transpose(1, 2)
    np.testing.assert_allclose(sideways.numpy(), expected, atol=1e-3)


def test_pads_are_black_and_on_both_sides():
    white = Image.new("RGB", (8, 4), "white")
    square = levels(white, "squarepad", 8)[0]  # rows 0, 1 and 6, 7 are padding
    assert square[:, 0].round().tolist() == [0, 0, 255, 255, 255, 255, 0, 0]
    target = levels(Image.new("RGB", (20, 10), "white"), "targetpad", 16)[0]  # 20 x 16, crop 16
    assert target.shape == (16, 16)
    assert target[:, 8].round().tolist() == [0] * 3 + [255] * 10 + [0] * 3


@pytest.mark.parametrize("kind", TRANSFORMS)
@pytest.mark.parametrize(("width", "height"), [(61, 37), (37, 61), (40, 40), (30, 20), (3, 90)])
def test_equals_a_step_by_step_reference(kind, width, height):
    size, image = 16, noise(width, height)
    pad_x, pad_y = TRANSFORMS[kind](width, height, 1.25)
    canvas = np.zeros((height + 2 * pad_y, width + 2 * pad_x, 3), dtype=np.uint8)
    canvas[pad_y : pad_y + height, pad_x : pad_x + width] = np.asarray(image)
    rows, columns = canvas.shape[:2]
    shortest = min(rows, columns)
    resized = (size * columns // shortest, size * rows // shortest)
    small = np.asarray(Image.fromarray(canvas).resize(resized, Image.Resampling.BICUBIC))
    top, left = round((resized[1] - size) / 2), round((resized[0] - size) / 2)
    crop = small[top : top + size, left : left + size].astype(np.float64) / 255
    expected = ((crop - CLIP_MEAN) / CLIP_STD).transpose(2, 0, 1)
    result = make_transform(kind, size=size)(image)
    assert result.shape == (3, size, size)
    assert result.dtype == torch.float32
    assert result.is_contiguous()
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-5)


def test_constant_image_gives_hand_computed_values():
    result = make_transform("clip", size=4)(Image.new("RGB", (9, 6), (255, 0, 51)))
    # (1 - 0.48145466) / 0.26862954, (0 - 0.4578275) / 0.26130258, (0.2 - 0.40821073) / 0.27577711
    expected = torch.tensor([1.930336, -1.752097, -0.754996]).view(3, 1, 1).expand(3, 4, 4)
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_rgb_comes_first(mode):
    image = noise(30, 12).convert(mode)
    for kind in TRANSFORMS:
        direct = make_transform(kind, size=8)(image)
        assert torch.equal(direct, make_transform(kind, size=8)(image.convert("RGB")))


def test_transform_survives_pickling():
    transform = make_transform("targetpad", size=8, target_ratio=1.5)
    copy = pickle.loads(pickle.dumps(transform))
    assert copy == transform
    assert torch.equal(copy(noise(30, 10)), transform(noise(30, 10)))


def test_repr_names_every_setting():
    every = [
        make_transform("clip", size=8),
        make_transform("squarepad", size=8),
        make_transform("clip", size=9),
        make_transform("clip", size=8, target_ratio=1.5),
        make_transform("clip", size=8, mean=(0.5, 0.5, 0.5)),
        make_transform("clip", size=8, std=(0.5, 0.5, 0.5)),
        make_transform("clip", size=8, draft=True),
    ]
    assert len({repr(transform) for transform in every}) == len(every)
    assert f"reading={READING}" in repr(every[0])  # of files, as it is a part of the result


def test_bad_settings():
    with pytest.raises(UserError, match="no transform 'pad'; choose one of targetpad, squarepad"):
        make_transform("pad", size=8)
    with pytest.raises(UserError, match="image size must be 1 to 8192 pixels, not 0"):
        make_transform("clip", size=0)
    with pytest.raises(UserError, match=r"target ratio .*not 0\.5"):
        make_transform("clip", size=8, target_ratio=0.5)


@pytest.mark.parametrize(
    ("width", "height", "size", "drafted"),
    [
        (1024, 1024, 224, (512, 512)),
        (1024, 1024, 64, (128, 128)),
        (1024, 640, 64, (256, 160)),
        (448, 500, 224, (448, 500)),
        (895, 900, 224, (895, 900)),  # half would be 447 px wide
        (4096, 4096, 224, (512, 512)),  # an eighth is the least
    ],
)
def test_a_draft_keeps_twice_the_side(tmp_path, width, height, size, drafted):
    path = tmp_path / "a.jpg"
    Image.linear_gradient("L").resize((width, height)).convert("RGB").save(path, quality=95)
    whole, draft = (make_transform("clip", size=size, draft=draft) for draft in (False, True))
    assert whole.open(path).size == (width, height)
    assert draft.open(path).size == drafted
    difference = (whole(whole.open(path)) - draft(draft.open(path))).abs() * 255 * min(CLIP_STD)
    assert difference.max() < 4  # of 255: a smooth picture


def test_the_benchmark_tells_drafts_and_copies_apart(capsys):
    import bench_reading

    flags = "--width 256 --height 128 --size 32 --images 2 --repeats 1".split()
    bench_reading.main(flags)
    *_, whole, drafts, copies = capsys.readouterr().out.splitlines()
    for line, name, exact in ((whole, "in full", 1), (drafts, "drafts", 0), (copies, "copies", 1)):
        assert line.startswith(f"| {name} ")
        assert line.endswith("0 | 0.00 |                 0% |") is bool(exact)


def test_only_jpegs_are_drafted(tmp_path):
    path = tmp_path / "a.png"
    noise(200, 100).save(path)
    draft = make_transform("clip", size=8, draft=True)
    assert draft.open(path).tobytes() == noise(200, 100).tobytes()


def plainly(image: Image.Image, kind: str, size: int, ratio: float) -> Image.Image:
    """The transform with every picture on the way made whole."""
    horizontal, vertical = TRANSFORMS[kind](*image.size, ratio)
    padded = ImageOps.expand(image, (horizontal, vertical, horizontal, vertical), fill=0)
    shortest = min(padded.size)
    width, height = (int(size * side / shortest) for side in padded.size)
    left, top = round((width - size) / 2), round((height - size) / 2)
    resized = padded.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + size, top + size))


SHAPES = [
    tuple(int(2**side) for side in sides)
    for sides in np.random.default_rng(1).uniform(0, 9, (40, 2))
]


@pytest.mark.parametrize("kind", TRANSFORMS)
@pytest.mark.parametrize("size", [1, 7, 32, 97])
def test_equals_the_plain_way_bit_for_bit(kind, size):
    for shape, ratio in itertools.product(SHAPES, (1.25, 3.7)):
        transform = make_transform(kind, size=size, target_ratio=ratio)
        expected = plainly(noise(*shape), kind, size, ratio)
        assert transform.square(noise(*shape)).tobytes() == expected.tobytes(), (shape, ratio)


def thin_way(monkeypatch, affordable: int) -> list[int]:
    """Let so many pixels be affordable; how often the way of thin images is taken."""
    calls: list[int] = []
    thin = transforms._thin
    monkeypatch.setattr(transforms, "AFFORDABLE", affordable)
    monkeypatch.setattr(transforms, "_thin", lambda *rest: calls.append(1) or thin(*rest))
    return calls


@pytest.mark.parametrize("kind", TRANSFORMS)
def test_thin_images_come_out_the_same_without_the_pictures_on_the_way(kind, monkeypatch):
    size = 16
    shapes = [s for s in SHAPES if max(s) < 16 * min(s)]
    calls = thin_way(monkeypatch, 2**14)
    for shape in shapes:
        expected = plainly(noise(*shape), kind, size, 1.25)
        found = make_transform(kind, size=size).square(noise(*shape))
        assert found.tobytes() == expected.tobytes(), shape
    assert bool(calls) is (kind != "clip")  # which pads nothing, and makes no large picture


@pytest.mark.parametrize("kind", TRANSFORMS)
@pytest.mark.parametrize("shape", [(1, 900), (900, 1), (2, 700), (700, 3), (5, 1000)])
def test_very_thin_images_differ_by_a_few_levels(kind, shape, monkeypatch):
    image = Image.linear_gradient("L").rotate(30).resize(shape).convert("RGB")
    expected = np.asarray(plainly(image, kind, 16, 1.25), dtype=int)
    calls = thin_way(monkeypatch, 64)
    found = np.asarray(make_transform(kind, size=16).square(image), dtype=int)
    assert calls
    assert np.abs(found - expected).max() <= 3


@pytest.mark.parametrize("kind", TRANSFORMS)
@pytest.mark.parametrize("shape", [(1, 15000), (15000, 1), (1, 65000), (1, 10**6), (10**6, 1)])
def test_a_thin_image_makes_no_huge_picture(kind, shape, monkeypatch):
    made = []
    for name in ("resize", "crop", "transpose"):
        method = getattr(Image.Image, name)

        def spied(*values, method=method, **named):
            result = method(*values, **named)
            made.append(result.width * result.height)
            return result

        monkeypatch.setattr(Image.Image, name, spied)
    monkeypatch.setattr(transforms, "AFFORDABLE", 2**20)
    result = make_transform(kind, size=8).square(Image.new("RGB", shape, "red"))
    assert result.size == (8, 8)
    assert result.getpixel((4, 4))[1:] == (0, 0)
    assert max(made) <= 8 * 2**20


@pytest.mark.parametrize("kind", TRANSFORMS)
@pytest.mark.parametrize("size", [(96, 128), (200, 60), (61, 200), (64, 64), (130, 128)])
def test_boxes_go_where_the_pixels_go(kind, size):
    """A white rectangle in a black image is found again in the square."""
    transform = make_transform(kind, size=112)
    width, height = size
    box = (0.25, 0.125, 0.625, 0.875)
    picture = Image.new("RGB", size)
    left, top, right, bottom = (round(s * b) for s, b in zip(size * 2, box, strict=True))
    picture.paste((255, 255, 255), (left, top, right, bottom))
    exact = (left / width, top / height, right / width, bottom / height)
    found = np.asarray(transform.square(picture).convert("L")) > 127
    [expected] = transform.boxes([exact], size)
    rows, columns = np.nonzero(found)
    edges = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
    np.testing.assert_allclose(np.array(edges) / 112, expected, atol=1.5 / 112)


def test_a_box_that_the_crop_cuts_off_is_left_out():
    transform = make_transform("clip", size=8)
    assert transform.boxes([(0.0, 0.0, 0.2, 1.0)], (200, 100)) == []
    assert transform.boxes([(0.0, 0.0, 0.5, 1.0)], (200, 100)) == [(0.0, 0.0, 0.5, 1.0)]
