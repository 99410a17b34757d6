"""The check of a data set: one of each mistake, in each form of a data set."""

import json
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from conftest import bad
from PIL import Image

from gatedcir.benchmarks.load import load_splits
from gatedcir.commands import check, main
from gatedcir.doctor.findings import KINDS, STOPS, Findings
from gatedcir.doctor.forms import read_dataset
from gatedcir.doctor.images import near_pairs
from gatedcir.doctor.report import Report, as_html, as_text
from gatedcir.doctor.triplets import check_part
from gatedcir.errors import UserError
from gatedcir.outputs import is_own

ANNOTATIONS = Path(__file__).parents[2] / ".." / "shared" / "annotations"


def noise(seed, size=(24, 24), mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 255, (*reversed(size), 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def run(capsys, *flags):
    """The status, the text and the findings by kind."""
    try:
        check.main([*map(str, flags), "--quiet"])
        status = 0
    except SystemExit as end:
        status = end.code
    return status, capsys.readouterr().out


def places(report, kind):
    return [each["place"] for each in report["findings"] if each["kind"] == kind]


def entry(number, caption="is red", **other):
    base = {"pairid": number, "reference": "a", "target_hard": "b", "caption": caption}
    return base | {"img_set": {"id": 0, "members": ["a", "b", "c"]}} | other


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A folder in CIRR's layout with one of each mistake."""
    root = tmp_path_factory.mktemp("broken")
    images = root / "dev"
    images.mkdir()
    for seed, name in enumerate("abc"):
        noise(seed).save(images / f"{name}.png")
    noise(3).save(images / "cmyk.jpg", quality=95)
    Image.open(images / "cmyk.jpg").convert("CMYK").save(images / "cmyk.jpg")
    Image.fromarray(np.arange(576, dtype=np.uint16).reshape(24, 24) * 99).save(images / "deep.png")
    noise(4).save(images / "film.gif", save_all=True, append_images=[noise(5)])
    noise(6).quantize(8).save(images / "clear.png", transparency=0)
    exif = Image.Exif()
    exif[0x0112] = 6
    noise(7).save(images / "turned.jpg", exif=exif)
    noise(8, (90, 20)).save(images / "long.png")
    (images / "page.png").write_text("<html>not found</html>")
    whole = (images / "a.png").read_bytes()
    (images / "cut.png").write_bytes(whole[: len(whole) // 2])
    (images / "empty.png").write_bytes(b"")
    (images / "copy.png").write_bytes((images / "b.png").read_bytes())
    Image.new("1", (15000, 13000)).save(images / "bomb.png")
    smooth = Image.linear_gradient("L").resize((200, 200)).rotate(30).convert("RGB")
    smooth.save(images / "smooth.png")
    smooth.save(images / "nearly.jpg", quality=90)
    smooth.save(images / "two.jpg", quality=50)
    smooth.save(images / "two.webp")
    names = [path.stem for path in images.iterdir()]
    listed = {name: f"./dev/{name}.png" for name in [*names, "gone"]}
    write_json(root / "cirr" / "image_splits" / "split.rc2.val.json", listed | {"wrong": 5})
    (root / "train").mkdir()
    (root / "train" / "other.png").write_bytes((images / "c.png").read_bytes())
    smooth.resize((190, 190)).save(root / "train" / "alike.png")
    listed = {"other": "./train/other.png", "alike": "./train/alike.png"}
    write_json(root / "cirr" / "image_splits" / "split.rc2.train.json", listed)
    group = {"img_set": {"id": 0, "members": ["other", "alike"]}}
    trained = entry(0, reference="other", target_hard="alike", **group)
    write_json(root / "cirr" / "captions" / "cap.rc2.train.json", [trained])
    entries = [
        entry(0),
        entry(0, " "),
        entry(2, "word " * 101),
        entry(3, "word " * 31),
        entry(4, "\ud83d"),
        entry(5, "cafÃ©"),
        entry(6, 7),
        entry(7, target_hard="nobody"),
        entry(8, target_hard="a"),
        entry(9, img_set={"id": 0, "members": ["a", "b", "b"]}),
        entry("10"),
        entry(11, img_set={"id": 0, "members": ["a", 3]}),
        "no entry",
    ]
    write_json(root / "cirr" / "captions" / "cap.rc2.val.json", entries)
    (root / "cirr" / "captions" / "cap.rc2.test1.json").write_text("[{")
    write_json(root / "cirr" / "image_splits" / "split.rc2.test1.json", {"a": "./dev/a.png"})
    return root


def test_one_of_each_is_found_with_what_training_does_and_what_changes_that(
    broken, tmp_path, capsys
):
    files = [tmp_path / f"report{ending}" for ending in (".json", ".html", ".txt")]
    flags = ["--dataset", "CIRR", "--data-path", broken, "--output", *files]
    status, text = run(capsys, *flags)
    assert status == 1
    assert all(is_own(file, f"findings{file.suffix}") for file in files)
    report = json.loads(files[0].read_text())
    found = {kind: places(report, kind) for kind in KINDS}
    # A split of one image is the only thing that this folder cannot have next to a broken file.
    assert [kind for kind, places in found.items() if not places] == ["small gallery"]
    captions = broken / "cirr" / "captions"
    assert found["broken file"] == [f"{captions}/cap.rc2.test1.json"]
    val = f"{captions}/cap.rc2.val.json"
    for kind, number in {
        "id twice": 1,
        "empty caption": 1,
        "long caption": 2,
        "cut caption": 3,
        "half character": 4,
        "other encoding": 5,
        "not in gallery": 7,
        "target is reference": 8,
        "group repeats": 9,
    }.items():
        assert found[kind] == [f"entry {number} of {val}"], kind
    wrong = [each["detail"] for each in report["findings"] if each["kind"] == "wrong entry"]
    for said in ("key 'caption' of the entry 6", "must hold a int, not '10'", "holds 3 where"):
        assert any(said in detail for detail in wrong), said
    for kind, name in {
        "missing image": "gone",
        "no image": "page",
        "cut short": "cut",
        "too many pixels": "bomb",
        "unreadable image": "empty",
        "animated": "film",
        "CMYK": "cmyk",
        "16 bits": "deep",
        "transparent": "clear",
        "rotated": "turned",
        "extreme shape": "long",
        "two files": "two",
    }.items():
        assert [place.split()[0] for place in found[kind]] == [name], kind
    details = {each["kind"]: each["detail"] for each in report["findings"]}
    assert "other.png" in details["leak"] and "c.png" in details["leak"]
    assert "b.png" in details["equal images"] and "copy.png" in details["equal images"]
    assert len(found["near-duplicates"]) == 1
    assert set(found["near leak"]) <= {"alike", "smooth", "nearly"}
    for kind in report["kinds"]:
        about = KINDS[kind]
        assert about.title in text and about.training in text and about.way_out in text
    assert files[2].read_text() == text.rstrip("\n")
    assert files[1].read_text().count("<summary>") == len(KINDS) - 1


def test_a_drawn_set_is_clean_and_its_splits_share_no_content(home, capsys):
    status, text = run(capsys, "--dataset", "CIRR", "--data-path", home / "cirr_dataset")
    assert (status, text.splitlines()[-1]) == (0, "nothing is wrong")


MISTAKES = {
    "wrong entry": entry(1, 7),
    "id twice": entry(0),
    "not in gallery": entry(1, target_hard="nobody"),
    "target is reference": entry(1, target_hard="a"),
    "group repeats": entry(1, img_set={"id": 0, "members": ["a", "b", "b", "c"]}),
    "empty caption": entry(1, " "),
    "long caption": entry(1, "word " * 101),
    "cut caption": entry(1, "word " * 31),
    "half character": entry(1, "\ud83d"),
    "other encoding": entry(1, "cafÃ©"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_training_stops_at_an_entry_exactly_where_the_check_says_so(kind, broken, tmp_path):
    listed = {name: str(broken / "dev" / f"{name}.png") for name in "abc"}
    write_json(tmp_path / "cirr" / "image_splits" / "split.rc2.val.json", listed)
    write_json(tmp_path / "cirr" / "captions" / "cap.rc2.val.json", [entry(0), MISTAKES[kind]])
    notes = Findings()
    parts, _ = read_dataset("CIRR", tmp_path, notes, images=True)
    check_part(parts[0], notes)
    assert {each.kind for each in notes} == {kind}
    with pytest.raises(UserError) if STOPS in KINDS[kind].training else nullcontext():
        load_splits("CIRR", tmp_path, ["val"])


@pytest.fixture
def own(tmp_path):
    lines = [
        {"reference": "a.png", "target": "b.png", "text": "is red", "split": "train"},
        {"reference": "a.png", "target": "b.png", "text": "is red", "split": "val"},
        {"reference": "a.png", "target": "a.png", "text": "is red", "split": "val"},
        {"reference": "a.png", "target": "b.png", "text": True, "split": "val"},
        {"reference": "a.png", "text": "is red", "split": "train"},
        {"reference": "a.png", "target": "b.png", "text": "is red"},
    ]
    file = tmp_path / "mine.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + "\n{half\n")
    noise(0).save(tmp_path / "a.png")
    noise(1).save(tmp_path / "b.png")
    return file


def test_own_triplets_have_one_report_of_all_lines(own, tmp_path, capsys):
    status, _ = run(capsys, "--dataset", own, "--output", tmp_path / "r.json")
    report = json.loads((tmp_path / "r.json").read_text())
    assert status == 1
    numbers = sorted(int(place.split()[1]) for place in places(report, "wrong entry"))
    assert numbers == [3, 4, 5, 6, 7]
    assert sorted(places(report, "leak")) == ["a.png", "b.png"]
    assert report["queries"] == {"mine train": 3, "mine val": 1}


def fashion(root, split, entries, gallery):
    write_json(root / "captions" / f"cap.dress.{split}.json", entries)
    write_json(root / "image_splits" / f"split.dress.{split}.json", gallery)


def test_fashioniq_and_circo_are_read_to_the_end(tmp_path, capsys):
    one = {"candidate": "a", "target": "b", "captions": ["is red", "is long"]}
    fashion(tmp_path, "train", [one, one | {"captions": ["is red"]}], ["a", "b", "b"])
    fashion(tmp_path, "val", [one, one | {"target": "x"}, one | {"candidate": 4}], ["a", "b", 7])
    flags = ["--no-images", "--output", tmp_path / "r.json"]
    status, _ = run(capsys, "--dataset", "FashionIQ", "--data-path", tmp_path, *flags)
    report = json.loads((tmp_path / "r.json").read_text())
    assert status == 1 and report["absent"] == ["test"]
    assert {kind: each["count"] for kind, each in report["kinds"].items()} == {
        "wrong entry": 4,
        "not in gallery": 1,
        "leak": 2,
    }
    root = tmp_path / "circo"
    query = {"id": 0, "reference_img_id": 1, "target_img_id": 2, "gt_img_ids": [2, 9]}
    query |= {"relative_caption": "is red"}
    write_json(root / "annotations" / "val.json", [query, query | {"gt_img_ids": [9]}])
    images = [{"id": n, "file_name": f"{n}.jpg"} for n in (1, 2)]
    write_json(root / "image_info_unlabeled2017.json", {"images": images})
    (root / "COCO2017_unlabeled").mkdir()
    status, _ = run(capsys, "--dataset", "CIRCO", "--data-path", root, *flags)
    report = json.loads((tmp_path / "r.json").read_text())
    assert {kind: each["count"] for kind, each in report["kinds"].items()} == {
        "wrong entry": 1,
        "id twice": 1,
        "not in gallery": 2,
    }


def test_what_cannot_be_read_at_all_ends_with_one_sentence(tmp_path):
    bad(check, ["--dataset", "CIRR", "--data-path", tmp_path / "no"], "there is no folder")
    bad(check, ["--dataset", "CIRR", "--data-path", tmp_path], "holds no annotations of CIRR")
    flags = ["--dataset", "CIRR", "--data-path", tmp_path, "--output", "x.pdf"]
    bad(check, flags, "x.pdf must end in .json, .html, .txt")


def test_names_are_shown_as_text():
    notes = Findings()
    notes.note("missing image", "<script>x</script>\n\x1b[2J", "a & b")
    report = Report("own", Path("<i>"), {}, [], 0, notes)
    page = as_html(report)
    assert "<script>" not in page and "<i>" not in page and "a &amp; b" in page
    assert "\x1b" not in page + as_text(report)
    assert r"</script>\n\x1b[2J" in as_text(report)


def test_near_pairs_are_those_of_all_comparisons(monkeypatch):
    smalls = [np.asarray(noise(n, (18, 16))) for n in range(6)]
    smalls += [np.clip(smalls[1].astype(int) + 3, 0, 255).astype(np.uint8), None]
    flat = np.full_like(smalls[0], 7)
    assert list(near_pairs([*smalls, flat, flat])) == [(1, 6)]
    monkeypatch.setattr("gatedcir.doctor.images._AT_ONCE", 1)
    assert list(near_pairs([*smalls, flat, flat])) == [(1, 6)]
    assert list(near_pairs(smalls[:1])) == []


@pytest.mark.skipif(not ANNOTATIONS.is_dir(), reason="no published annotations here")
def test_published_annotations_have_what_is_known_of_them(tmp_path):
    (tmp_path / "cirr").symlink_to((ANNOTATIONS / "cirr").resolve())
    notes = Findings()
    parts, absent = read_dataset("CIRR", tmp_path, notes, images=False)
    assert [len(part.entries) for part in parts] == [0, 4181, 4148] and absent == []
    assert [(each.kind, each.detail) for each in notes] == [("broken file", "is missing")]


def test_the_command_is_listed(capsys):
    main.main(["--help"])
    assert "check" in capsys.readouterr().out
