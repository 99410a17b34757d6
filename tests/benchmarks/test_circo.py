"""CIRCO: its reader, hand-counted metrics, and the figures of its official example."""

import json
from pathlib import Path

import numpy as np
import pytest

from gatedcir.benchmarks import circo
from gatedcir.benchmarks.answers import Given, Listed
from gatedcir.benchmarks.circo import CIRCO, parse_circo
from gatedcir.benchmarks.ranks import average_precisions
from gatedcir.commands import main
from gatedcir.errors import UserError

REAL = Path(__file__).parents[3] / "shared" / "annotations" / "circo"
EXAMPLE = {  # of submission_val.json, by the official evaluation, in percent
    **{"map_at5": 0.486111, "map_at10": 0.517767, "map_at25": 0.540035, "map_at50": 0.602039},
    **{"recall_at5": 0.909091, "recall_at10": 0.909091},
    **{"recall_at25": 1.363636, "recall_at50": 3.636364},
    "map_at10_cardinality": 0.0,
    "map_at10_statement_with_conjunction": 0.618346,
    "map_at10_comparative_statement": 1.05,
    "map_at10_spatial_relations_background": 0.180754,
    "map_at10_compare_change": 0.024225,
    "map_at10_addition": 0.087054,
    "map_at10_direct_addressing": 0.919701,
    "map_at10_viewpoint": 0.617284,
    "map_at10_negation": 0.0,
}
IMAGES = [30, 7, 112, 5]


def entry(number=0, **changes) -> dict:
    return {
        "id": number,
        "reference_img_id": 7,
        "target_img_id": 30,
        "gt_img_ids": [30, 112],
        "relative_caption": "shows two dogs",
        "shared_concept": "a dog",
        "semantic_aspects": ["cardinality"],
    } | changes


@pytest.fixture
def root(tmp_path):
    """A folder in CIRCO's layout, with one image under another ending and one in a folder."""
    for name, content in (
        ("annotations/val.json", [entry()]),
        ("annotations/test.json", [{k: entry()[k] for k in [*entry()][:2]} | {"id": 4}]),
        (
            circo.IMAGE_LISTS[0],
            {"images": [{"id": n, "file_name": f"{n:012}.jpg"} for n in IMAGES]},
        ),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(json.dumps(content))
    images = tmp_path / circo.IMAGES[0]
    (images / "more").mkdir(parents=True)
    for name in ("000000000030.jpg", "000000000007.JPEG", "more/000000000112.png"):
        (images / name).touch()
    return tmp_path


def test_parse_reads_the_published_layout(root):
    split = parse_circo(root, "val")
    [triplet] = split.triplets
    assert (triplet.query_id, triplet.reference, triplet.targets) == ("0", "7", ("30", "112"))
    assert triplet.captions == ("shows two dogs",) and triplet.aspects == ("cardinality",)
    assert split.gallery == ("30", "7", "112", "5")
    folder = root / circo.IMAGES[0]
    assert [split.paths[name] for name in split.gallery] == [
        folder / "000000000030.jpg",
        folder / "000000000007.JPEG",
        folder / "more" / "000000000112.png",
        folder / "000000000005.jpg",  # missing, where it is expected
    ]
    assert split.protocol == "gallery of 4 images, reference kept, 1 queries"


def test_test_publishes_no_targets(root):
    file = root / "annotations" / "test.json"
    file.write_text(json.dumps([entry(4)]).replace("target", "no").replace("gt_", "no_"))
    assert parse_circo(root, "test").triplets[0].targets == ()


def test_queries_need_neither_images_nor_their_list(root):
    (root / circo.IMAGE_LISTS[0]).unlink()
    assert parse_circo(root, "val", images=False).gallery == ()
    with pytest.raises(UserError, match=r"image_info_unlabeled2017\.json does not exist"):
        parse_circo(root, "val")


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([entry(gt_img_ids=[112])], "lacks its target_img_id in gt_img_ids"),
        ([entry(), entry()], "repeats an id"),
        ([entry(relative_caption=3)], "must hold a str"),
    ],
)
def test_broken_annotations_are_named(root, entries, words):
    (root / "annotations" / "val.json").write_text(json.dumps(entries))
    with pytest.raises(UserError, match=words):
        parse_circo(root, "val")


def test_there_is_no_training_split(root):
    with pytest.raises(UserError, match="only val and test; train on another data set"):
        parse_circo(root, "train")


def test_average_precision_equals_hand_counts():
    hits = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 0, 0]], dtype=bool)
    relevant = np.array([2, 1, 5])
    assert average_precisions(hits, relevant, 4).tolist() == [(1 + 2 / 3) / 2, 0, 2 / 4]
    assert average_precisions(hits, relevant, 2).tolist() == [1 / 2, 0, 1]


def test_metrics_equal_hand_counts(root):
    (root / "annotations" / "val.json").write_text(
        json.dumps([entry(), entry(1, gt_img_ids=[30], semantic_aspects=["negation"])])
    )
    split = parse_circo(root, "val")
    lists = {"0": ["112", "5", "30"], "1": ["7", "5"]}  # the reference is an image like others
    found = CIRCO.measure([Listed(split, Given(lists))])
    one = 100 * (1 + 2 / 3) / 2
    assert found["map_at5"] == found["map_at50"] == pytest.approx(one / 2)
    assert found["recall_at5"] == 50
    assert found["map_at10_cardinality"] == pytest.approx(one)
    assert found["map_at10_negation"] == 0


@pytest.mark.skipif(not REAL.is_dir(), reason="needs CIRCO's annotations")
def test_the_official_example_gives_the_official_figures(tmp_path, capsys):
    flags = ["--dataset", "CIRCO", "--data-path", str(REAL)]
    out = tmp_path / "found.json"
    main.main(["score", str(REAL / "submission_val.json"), *flags, "--json", str(out)])
    found = json.loads(out.read_text())
    assert found.pop("protocol") == {"CIRCO val": "220 queries"}
    assert found == pytest.approx(EXAMPLE, abs=5e-7)
    assert "map_at10_viewpoint" in capsys.readouterr().out
    main.main(["submit", "--check", str(REAL / "submission_test.json"), *flags])
    assert "CIRCO test: 800 queries" in capsys.readouterr().out
    with pytest.raises(UserError, match="lacks 580 of the 800 queries of CIRCO test"):
        main.main(["submit", "--check", str(REAL / "submission_val.json"), *flags])


def test_a_submission_has_ids_as_numbers(tmp_path):
    lists = {"0": [str(n) for n in range(52)]}
    [file] = circo.write_predictions(tmp_path, "test", lists)
    assert file.name == "submission_test.json"
    assert json.loads(file.read_text()) == {"0": list(range(50))}
    with pytest.raises(UserError, match="query 0 has 3 images where the server wants 50"):
        circo.write_predictions(tmp_path / "new", "test", {"0": ["1", "2", "3"]})
    assert not (tmp_path / "new").exists()
