"""Both layouts on disk: repeatable, readable, of the sizes asked for, with one answer a query."""

import hashlib
import json
import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from gatedcir.benchmarks.cirr import parse_cirr
from gatedcir.benchmarks.fashioniq import parse_fashioniq
from gatedcir.commands import synthetic
from gatedcir.data.changes import file_of, read_changes
from gatedcir.data.left_out import check_files
from gatedcir.errors import UserError
from gatedcir.synthetic import garments, scenes
from gatedcir.synthetic.edits import broken_parts
from gatedcir.synthetic.layouts import (
    _draw_families,
    _draw_queries,
    _in_parallel,
    write_cirr,
    write_fashioniq,
)
from gatedcir.synthetic.scene_families import sample_family

ROOT = Path(__file__).parents[2]
CIRR_SIZES = {"train": 12, "val": 30, "test": 7}  # val needs two grids
FASHION_SIZES = {"train": 16, "val": 8, "test": 5}  # a third of train, rounded up, a category
CIRR_FILES = {"train": "train", "val": "val", "test": "test1"}
WRITE = {"cirr": (write_cirr, CIRR_SIZES), "fashioniq": (write_fashioniq, FASHION_SIZES)}
SEED = 3


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> dict[str, Path]:
    roots = {layout: tmp_path_factory.mktemp(layout) for layout in WRITE}
    for layout, (write, sizes) in WRITE.items():
        lines = list(write(roots[layout], sizes, seed=SEED))
        assert len(lines) == {"cirr": 3, "fashioniq": 9}[layout]
    return roots


@pytest.fixture
def main():
    return synthetic.main


def checked(split):
    """The split, if all its files are there."""
    return check_files([split], skip_missing=False)[0]


def contents(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def arguments(layout: str, output: Path, seed: int = SEED) -> list[str]:
    sizes = [text for name, size in WRITE[layout][1].items() for text in (f"--{name}", str(size))]
    return ["--layout", layout, "--output", str(output), "--seed", str(seed), *sizes]


@pytest.mark.parametrize("layout", WRITE)
def test_the_same_seed_gives_the_same_bytes_in_another_process(written, layout, tmp_path):
    # Another hash seed gives sets another order, which must not be seen in the files.
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONHASHSEED": "12345"}
    script = ROOT / "data_preparation" / "make_synthetic.py"
    command = [sys.executable, str(script), *arguments(layout, tmp_path / "again")]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    again = contents(tmp_path / "again")
    assert len(again) > 100
    assert again == contents(written[layout])


def process_of(task):
    return os.getpid()


def test_many_tasks_are_shared_out_and_few_are_done_here():
    own = os.getpid()
    assert _in_parallel(process_of, range(3), at_a_time=3) == [own] * 3
    assert own not in _in_parallel(process_of, range(3), at_a_time=2)


@pytest.mark.parametrize("layout", WRITE)
def test_another_seed_gives_other_annotations_and_pictures(written, layout, tmp_path):
    write, _ = WRITE[layout]
    list(write(tmp_path, {"val": 2}, seed=SEED + 1))
    before, after = set(contents(written[layout]).values()), set(contents(tmp_path).values())
    assert len(after) > 10
    # Two plain garments may coincide; nearly everything must not.
    assert len(after & before) < 0.1 * len(after)


@pytest.mark.parametrize("split", CIRR_FILES)
def test_cirr_is_read_back(written, split):
    loaded = checked(parse_cirr(written["cirr"], CIRR_FILES[split]))
    assert len(loaded.triplets) == CIRR_SIZES[split]
    families = _draw_families(split, CIRR_SIZES[split], seed=SEED)
    assert len(loaded.gallery) == sum(len(family.scenes) for family in families)
    for triplet in loaded.triplets:
        assert len(set(triplet.group)) == 6
        assert triplet.reference in triplet.group
        assert (triplet.target is None) == (split == "test")
        assert split == "test" or triplet.target in triplet.group
    files = [path for path in written["cirr"].rglob("*.png") if path in loaded.paths.values()]
    assert len(files) == len(loaded.gallery)
    with Image.open(files[0]) as picture:
        assert (picture.size, picture.mode) == ((128, 128), "RGB")


def test_cirr_annotations_hold_what_is_published(written):
    folder = written["cirr"] / "cirr" / "captions"
    for split, name in CIRR_FILES.items():
        entries = json.loads((folder / f"cap.rc2.{name}.json").read_text())
        assert sorted(entry["pairid"] for entry in entries) == [*range(CIRR_SIZES[split])]
        for entry in entries:
            image_set = entry["img_set"]
            assert image_set["members"][image_set["reference_rank"]] == entry["reference"]
            if split == "test":
                assert not {"target_hard", "target_soft"} & entry.keys()
                assert "target_rank" not in image_set
            else:
                assert image_set["members"][image_set["target_rank"]] == entry["target_hard"]
                assert entry["target_soft"] == {entry["target_hard"]: 1.0}
        if split == "val":  # places in a group give nothing away
            ranks = Counter(entry["img_set"]["target_rank"] for entry in entries)
            assert len(ranks) >= 5


@pytest.mark.parametrize("split", CIRR_FILES)
def test_files_show_the_scenes_that_were_drawn(written, split):
    """Names, pictures and groups belong together: of six members one fits, five break a part."""
    root = written["cirr"]
    families = _draw_families(split, CIRR_SIZES[split], seed=SEED)
    loaded = checked(parse_cirr(root, CIRR_FILES[split]))
    shown: dict[str, scenes.Scene] = {}
    for name, path in loaded.paths.items():
        _, number, half, image = name.split("-")
        place = 2 * int(half) + int(image.removeprefix("img"))
        shown[name] = families[int(number)].scenes[place]
        if place < 5:
            drawn = scenes.draw(shown[name], random.Random(f"{SEED}/{name}"))
            with Image.open(path) as picture:
                assert picture.tobytes() == drawn.tobytes()
    queries = [(family, query) for family in families for query in family.queries]
    for triplet in loaded.triplets:
        family, query = queries[int(triplet.query_id)]
        reference = shown[triplet.reference]
        assert triplet.captions == (query.caption,)
        assert reference == family.scenes[query.reference]
        broken = {n: broken_parts(reference, query.edits, shown[n]) for n in triplet.group}
        others = sorted(n for name, n in broken.items() if name != triplet.reference)
        assert others == [0, 1, 1, 1, 1]
        fitting = [n for n in shown if broken_parts(reference, query.edits, shown[n]) == 0]
        assert len(fitting) == 1 and fitting[0] in triplet.group
        assert triplet.target in (None, fitting[0])


def test_what_changes_is_known_of_every_query_but_those_of_the_test(written):
    parts = [(written["cirr"], parse_cirr(written["cirr"], name)) for name in CIRR_FILES.values()]
    root = written["fashioniq"]
    parts += [
        (root, parse_fashioniq(root, category, split))
        for category in garments.ATTRIBUTES
        for split in FASHION_SIZES
    ]
    for root, split in parts:
        if "test" in split.name:
            assert not file_of(root, split.name).exists()
            continue
        known = read_changes(root, split.name)
        assert known.queries.keys() == {triplet.query_id for triplet in split.triplets}
        assert known.objects.keys() == {triplet.reference for triplet in split.triplets}
        assert all(known.queries.values())
        assert {swap.reference for swap in known.swaps} <= known.objects.keys()
        with Image.open(split.paths[split.triplets[0].reference]) as picture:
            assert picture.size == known.size


@pytest.mark.parametrize("split", FASHION_SIZES)
@pytest.mark.parametrize("category", garments.ATTRIBUTES)
def test_fashioniq_is_read_back(written, category, split):
    loaded = checked(parse_fashioniq(written["fashioniq"], category, split))
    assert len(loaded.triplets) == {"train": 6, "val": 8, "test": 5}[split]  # 16 / 3, rounded up
    assert all((triplet.target is None) == (split == "test") for triplet in loaded.triplets)
    assert {triplet.reference for triplet in loaded.triplets} <= set(loaded.gallery)
    assert {path.suffix for path in loaded.paths.values()} == {".jpg", ".png"}
    if split == "test":
        file = written["fashioniq"] / "captions" / f"cap.{category}.test.json"
        assert all("target" not in entry for entry in json.loads(file.read_text()))


def test_no_product_is_in_two_galleries(written):
    files = (written["fashioniq"] / "image_splits").iterdir()
    names = [name for file in files for name in json.loads(file.read_text())]
    assert len(names) == len(set(names)) == len([*(written["fashioniq"] / "images").iterdir()])


@pytest.mark.parametrize("split", garments.SPLITS)
@pytest.mark.parametrize("category", garments.ATTRIBUTES)
def test_one_garment_of_the_gallery_satisfies_each_query(category, split):
    queries, gallery = _draw_queries(category, split, 60, random.Random(1))
    assert len(queries) == 60
    assert len(set(gallery)) == len(gallery)
    assert {garments.split_of(garment) for garment in gallery} <= {split, "train"}
    for reference, query in queries:
        fitting = [g for g in gallery if garments.satisfies(reference, query.changes, g)]
        assert fitting == [query.target]
        assert garments.split_of(reference) == garments.split_of(query.target) == split


@pytest.mark.parametrize("category", garments.ATTRIBUTES)
def test_neither_the_text_alone_nor_the_picture_alone_finds_the_garment(category):
    queries, gallery = _draw_queries(category, "val", 150, random.Random(1))
    by_text = by_image = 0.0
    for reference, query in queries:
        others = [g for g in gallery if g != reference]
        told = [g for g in others if all(g[c.attribute] in c.allowed for c in query.changes)]
        gaps = [len(reference.differences(g)) for g in others]
        nearest = len(reference.differences(query.target)) == min(gaps)
        by_text += (query.target in told) / len(told)
        by_image += nearest / gaps.count(min(gaps))
    assert 0 < by_text / len(queries) < 0.12
    assert 0 < by_image / len(queries) < 0.12


@pytest.mark.parametrize("size", [1, 9, 10, 40])
def test_families_hold_exactly_the_queries_asked_for(size):
    families = _draw_families("val", size, seed=0)
    assert sum(len(family.queries) for family in families) == size


def test_ambiguous_queries_are_replaced_by_others(monkeypatch):
    """With the same family drawn twice, each of its queries has two answers."""
    monkeypatch.setattr("gatedcir.synthetic.layouts._draw_family", draw_twins)
    families = _draw_families("val", 10, seed=0)
    assert [len(family.queries) for family in families] == [0, 0, 9, 1]
    twin = draw_twins("val", 0, 9, 0, 0)
    assert [family.scenes for family in families[:2]] == [twin.scenes] * 2


def draw_twins(split, seed, queries, bystanders, number):
    """The first two families are the same; other processes find this by its name."""
    return sample_family(split, random.Random(max(number, 1)), queries=queries)


def test_a_size_that_cannot_be_drawn_is_said_in_one_sentence(monkeypatch):
    monkeypatch.setattr("gatedcir.synthetic.layouts._PATIENCE", 1)
    with pytest.raises(UserError, match=r"9 unambiguous triplets .* train; ask for fewer"):
        _draw_families("train", 9, seed=0)
    with pytest.raises(UserError, match=r"9 unambiguous shirt triplets .* ask for fewer"):
        _draw_queries("shirt", "val", 9, random.Random(0))


@pytest.mark.parametrize("layout", WRITE)
@pytest.mark.parametrize("split", ["train", "val", "test"])
@pytest.mark.parametrize("size", ["0", "-3"])
def test_a_size_below_one_leaves_nothing_behind(main, tmp_path, layout, split, size):
    output = tmp_path / "data"
    with pytest.raises(UserError, match=f"--{split} {size} asks for no triplets"):
        main([*arguments(layout, output), f"--{split}", size])
    assert not list(tmp_path.iterdir())


def test_bystanders_are_scenes_own_and_have_limits(main, tmp_path):
    output = tmp_path / "data"
    for layout, count, said in (
        ("cirr", "5", "--bystanders 5 do not fit a scene; give 0 to 4"),
        ("cirr", "-1", "--bystanders -1 do not fit"),
        ("fashioniq", "1", "--bystanders are for scenes"),
    ):
        with pytest.raises(UserError, match=said):
            main([*arguments(layout, output), "--bystanders", count])
    assert not list(tmp_path.iterdir())
    main([*arguments("cirr", output), "--train", "1", "--val", "1", "--bystanders", "2"])
    mark = json.loads((output / "synthetic.json").read_text())
    assert mark["synthetic"] == "scenes in CIRR's layout with 2 bystanders"


def test_an_output_in_use_is_refused_and_left_alone(main, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "notes.txt").write_text("mine")
    for output in (tmp_path / "data", tmp_path / "data" / "notes.txt"):
        with pytest.raises(UserError, match=r"not an empty folder; name a|is a file; name an"):
            main(arguments("cirr", output))
    assert [str(p.relative_to(tmp_path)) for p in sorted(tmp_path.rglob("*"))] == [
        "data",
        "data/notes.txt",
    ]
    assert (tmp_path / "data" / "notes.txt").read_text() == "mine"


def test_a_failure_halfway_leaves_nothing_behind(main, tmp_path, monkeypatch):
    def fail(split: str, size: int, **options: int) -> list:
        if split == "val":
            raise UserError("no more.")
        return _draw_families(split, size, **options)

    monkeypatch.setattr("gatedcir.synthetic.layouts._draw_families", fail)
    with pytest.raises(UserError, match="no more"):
        main([*arguments("cirr", tmp_path / "data"), "--train", "1"])
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_filled_and_the_counts_are_printed(main, tmp_path, capsys):
    output = tmp_path / "data"
    output.mkdir()
    main(["--layout", "cirr", "--output", str(output), "--train", "1", "--val", "1", "--test", "1"])
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        f"{name}: 1 triplets" for name in CIRR_FILES.values()
    ]
    assert len(checked(parse_cirr(output, "val")).triplets) == 1


@pytest.mark.parametrize(
    ("folder", "digest"),
    [("cirr_dataset", "4b76d0b42dda52be"), ("fashionIQ_dataset", "c1ceef424948378d")],
)
def test_a_seed_gives_the_texts_that_the_published_figures_are_of(home, folder, digest):
    found = hashlib.sha256()
    for file in sorted((home / folder).rglob("*.*.json")):  # annotations, without the mark
        found.update(file.name.encode())
        found.update(json.dumps(json.loads(file.read_text()), sort_keys=True).encode())
    assert found.hexdigest()[:16] == digest
