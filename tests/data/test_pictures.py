"""Files of every kind that Pillow writes, as a viewer shows them, or refused by name."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from gatedcir.data.pictures import open_image, to_rgb
from gatedcir.data.transforms import make_transform
from gatedcir.errors import UserError

RAMP = np.tile(np.linspace(0, 65535, 96), (4, 1))
GREY = (RAMP / 257).round().astype(np.uint8)


def noise(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def refused(path, *words):
    with pytest.raises(UserError) as caught:
        open_image(path)
    message = str(caught.value)
    assert all(word in message for word in (str(path), *words)), message
    return message


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "LA", "1"])
def test_open_image_gives_rgb(tmp_path, mode):
    image = noise(6, 5).convert(mode)
    image.save(tmp_path / "a.png")
    opened = open_image(tmp_path / "a.png")
    assert opened.mode == "RGB"
    assert opened.tobytes() == image.convert("RGB").tobytes()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.5, 0.9])
def test_broken_image_is_named(tmp_path, kind, kept):
    buffer = io.BytesIO()
    noise(40, 40).save(buffer, kind)
    path = tmp_path / "B00X.jpg"
    path.write_bytes(buffer.getvalue()[: int(kept * len(buffer.getvalue()))])
    with pytest.raises(UserError, match=r"B00X\.jpg cannot be read"):
        open_image(path)


def pgm(path, white):
    values = (RAMP / 65535 * white).round().astype(">u2")
    path.write_bytes(b"P5 96 4 %d\n" % white + values.tobytes())


def png16(path, colour, channels):
    """A PNG of 16 bits and several channels, which Pillow reads and does not write."""

    def chunk(kind, data):
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    pixels = np.repeat(RAMP.astype(">u2")[..., None], channels, axis=2)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", 96, 4, 16, colour, 0, 0, 0)
    parts = chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


def saved(values, **options):
    return lambda path: Image.fromarray(values).save(path, **options)


@pytest.mark.parametrize(
    ("name", "write"),
    {
        "grey.png": saved(RAMP.astype(np.uint16)),
        "grey.tif": saved(RAMP.astype(np.uint16)),
        "packed.tif": saved(RAMP.astype(np.uint16), compression="tiff_lzw"),
        "big.tif": saved(RAMP.astype(">u2")),
        "inverted.tif": saved((65535 - RAMP).astype(np.uint16), tiffinfo={262: 0}),
        "grey.jp2": saved(RAMP.astype(np.uint16), irreversible=False),
        "int32.tif": saved(RAMP.astype(np.int32)),
        "float.tif": saved((RAMP / 65535).astype(np.float32)),
        "grey.pgm": lambda path: pgm(path, 65535),
        "twelve.pgm": lambda path: pgm(path, 4095),
        "rgb.png": lambda path: png16(path, 2, 3),
        "alpha.png": lambda path: png16(path, 4, 2),
        "rgba.png": lambda path: png16(path, 6, 4),
    }.items(),
)
def test_a_ramp_of_more_than_8_bits_stays_a_ramp(tmp_path, name, write):
    write(tmp_path / name)
    found = np.asarray(open_image(tmp_path / name), dtype=int)
    assert found.shape == (4, 96, 3)
    assert np.abs(found - GREY[..., None].astype(int)).max() <= 1


def test_sixteen_bits_by_hand():
    values = np.array([[0, 128, 129, 257, 32768, 65406, 65535]], dtype=np.uint16)
    assert np.asarray(to_rgb(Image.fromarray(values)))[0, :, 0].tolist() == [
        *(0, 0, 1, 1),  # 129 / 257 is more than a half
        *(128, 254, 255),  # 127.502, 254.498
    ]
    floats = np.array([[0, 0.25, 0.5, 1]], dtype=np.float32)
    assert np.asarray(to_rgb(Image.fromarray(floats)))[0, :, 2].tolist() == [0, 64, 128, 255]


def test_a_dark_picture_of_16_bits_stays_dark(tmp_path):
    Image.fromarray(np.full((4, 4), 200, dtype=np.uint16)).save(tmp_path / "dark.png")
    (tmp_path / "dark.pgm").write_bytes(b"P5 4 4 65535\n" + b"\0\xc8" * 16)
    for name in ("dark.png", "dark.pgm"):
        assert open_image(tmp_path / name).getextrema() == ((1, 1),) * 3


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.array([[0, 70000]], dtype=np.int32), "0 to 70000"),
        (np.array([[-1, 300]], dtype=np.int32), "-1 to 300"),
        (np.array([[0, 255]], dtype=np.int32), "may mean 8 or 16 bits"),
        (np.array([[0, 1.5]], dtype=np.float32), "0 to 1.5, not from 0 to 1"),
        (np.array([[0, np.nan]], dtype=np.float32), "nan"),
        (np.array([[0, np.inf]], dtype=np.float32), "inf"),
        (np.array([[-0.1, 1]], dtype=np.float32), "-0.1 to 1"),
    ],
)
def test_other_numbers_are_refused_by_name(tmp_path, values, words):
    Image.fromarray(values).save(tmp_path / "numbers.tif")
    refused(tmp_path / "numbers.tif", "cannot be read", words, "8 bits")


FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "AVIF", "GIF", "BMP", "JPEG2000", "PPM", "TGA", "DDS")
MODES = ("1", "L", "P", "LA", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F", "HSV")


@pytest.mark.parametrize("kind", FORMATS)
def test_every_mode_and_format_is_read_as_pillow_does_or_named(tmp_path, kind):
    written = 0
    for mode in MODES:
        path = tmp_path / f"{mode.replace(';', '')}.{kind.lower()}"
        try:
            base = noise(24, 16).convert("L") if mode in ("I", "I;16", "F") else noise(24, 16)
            base.convert(mode).save(path, kind)
        except (OSError, ValueError, KeyError):
            continue
        written += 1
        with Image.open(path) as image:
            if image.mode in ("I", "F", "I;16", "I;16B"):
                continue
            try:
                expected = image.convert("RGB")
            except OSError:  # Pillow before 13 cannot read each TIFF that it writes
                continue
        found = open_image(path)
        assert found.mode == "RGB"
        assert found.tobytes() == expected.tobytes(), (kind, mode)
    assert written


@pytest.mark.filterwarnings("ignore")  # Pillow's, of the broken files
@pytest.mark.parametrize("kind", FORMATS)
def test_whatever_a_decoder_raises_names_the_file(tmp_path, kind):
    buffer = io.BytesIO()
    noise(24, 16).save(buffer, kind)
    content, rng = buffer.getvalue(), np.random.default_rng(0)
    path, failed = tmp_path / f"B00X.{kind.lower()}", 0
    for _ in range(60):
        spoilt = bytearray(content[: rng.integers(1, len(content) + 1)])
        for place in rng.integers(0, min(len(spoilt), 200), 3):
            spoilt[place] = rng.integers(256)
        path.write_bytes(spoilt)
        try:
            open_image(path)
        except UserError as error:
            assert "B00X" in str(error)
            failed += 1
    assert failed


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("Failed to decode frame 0"),
        NotImplementedError("Unimplemented pixel format 77"),
        struct.error("unpack requires 4 bytes"),
        zlib.error("Error -3"),
        IndexError("index out of range"),
        MemoryError(),
        OSError("image file is truncated"),
        AssertionError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_of_any_kind_name_the_file(tmp_path, monkeypatch, error):
    noise(4, 4).save(tmp_path / "a.png")

    def fail(*_):
        raise error

    monkeypatch.setattr(Image.Image, "convert", fail)
    reason = {MemoryError: "more memory than there is", AssertionError: "AssertionError"}
    refused(tmp_path / "a.png", "cannot be read", reason.get(type(error), str(error)))


def test_what_is_no_file_is_not_called_damaged(tmp_path):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "dangling.png").symlink_to(tmp_path / "gone.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "file").touch()
    messages = [
        refused(tmp_path / "none.png", "does not exist", "check the path"),
        refused(tmp_path / "file" / "a.png", "does not exist", "check the path"),
        refused(tmp_path / "dangling.png", "links to does not exist"),
        refused(tmp_path / "folder.png", "is a folder", "name an image file"),
        refused(tmp_path / "pipe.png", "not a file"),
    ]
    assert not any("replace" in message for message in messages)


def test_a_closed_file_may_not_be_read(tmp_path, monkeypatch):
    noise(4, 4).save(tmp_path / "a.png")

    def closed(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Image, "open", closed)
    assert "replace" not in refused(tmp_path / "a.png", "may not be read", "permissions")


def test_an_image_without_pixels_is_refused(tmp_path):
    (tmp_path / "a.gif").write_bytes(b"GIF89a" + bytes(7) + b"," + bytes(9) + b"\x02\x00;")
    refused(tmp_path / "a.gif", "cannot be read")


def rotated(path, orientation, *, stored=None, **options):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    (stored or noise(32, 16)).save(path, exif=exif, **options)


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp", "avif"])
@pytest.mark.parametrize("orientation", range(10))
def test_every_orientation_is_shown_as_viewers_do(tmp_path, ending, orientation):
    path = tmp_path / f"phone.{ending}"
    rotated(path, orientation)
    with Image.open(path) as image:
        expected = ImageOps.exif_transpose(image.copy() if ending == "tif" else image)
    turned = orientation in range(5, 9)
    assert open_image(path).size == ((16, 32) if turned else (32, 16))
    assert open_image(path).tobytes() == expected.convert("RGB").tobytes()


def test_a_phone_photo_is_its_upright_copy(tmp_path):
    upright = Image.linear_gradient("L").resize((640, 480)).convert("RGB")
    upright.save(tmp_path / "upright.jpg")
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    rotated(tmp_path / "phone.jpg", 6, stored=stored)
    for draft in (False, True):
        transform = make_transform("targetpad", size=32, draft=draft)
        first, second = (transform.open(tmp_path / f"{n}.jpg") for n in ("upright", "phone"))
        assert first.size == second.size == ((160, 120) if draft else (640, 480))
        difference = np.asarray(first, dtype=int) - np.asarray(second, dtype=int)
        assert np.abs(difference).max() <= 4  # JPEG


@pytest.mark.filterwarnings("ignore")  # Pillow's, of the broken blocks
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_a_broken_exif_block_costs_no_image(tmp_path, ending):
    rng, path = np.random.default_rng(0), tmp_path / f"a.{ending}"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    exif[ExifTags.Base.Make] = "maker"
    whole = exif.tobytes()
    sizes = set()
    for _ in range(40):
        block = bytearray(whole)
        for place in rng.integers(6, len(block), 4):
            block[place] = rng.integers(256)
        noise(32, 16).save(path, exif=bytes(block[: rng.integers(7, len(block) + 1)]))
        sizes.add(open_image(path).size)
    assert sizes == {(32, 16), (16, 32)}  # some lost their orientation


def test_of_several_frames_the_first_is_read(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for ending in ("gif", "tif", "webp", "png"):
        path = tmp_path / f"a.{ending}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        assert open_image(path).getpixel((4, 4))[0] > 240
