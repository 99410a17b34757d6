"""All figures of a gate: planted maps are found where the data says, and each query has its own."""

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from gatedcir.assemble.evaluator import open_evaluator
from gatedcir.data.changes import known_changes
from gatedcir.evaluation import gate_measures, interventions
from gatedcir.evaluation.gate_maps import Maps, lost_maps, maps_of
from gatedcir.evaluation.gate_measures import in_training, measure_gate
from gatedcir.models.gated_fusion.survival import lost_in_target
from gatedcir.options.config import DataConfig

FOLDERS = {"CIRR": "cirr_dataset", "FashionIQ": "fashionIQ_dataset"}
SIDE = 8  # cells of the tiny model


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch):
    monkeypatch.setattr(interventions, "_RESAMPLES", 99)


def opened(home: Path, run: Path, dataset: str):
    """The evaluator of a run, the validation splits of a dataset, and what is known of them."""
    data = DataConfig(dataset, home / FOLDERS[dataset], num_workers=0)
    evaluator, splits = open_evaluator(run, data, "val")
    return evaluator, splits, known_changes(data.folder, [split.name for split in splits])


def test_every_query_has_the_map_of_its_image_and_text(home, cirr_run):
    evaluator, [split], _ = opened(home, cirr_run, "CIRR")
    one, other = split.triplets[0].reference, split.triplets[-1].reference
    asked = [(one, "make it red"), (other, "two more stars"), (one, "remove the star")]
    found = maps_of(evaluator, *zip(*asked, strict=True))
    for number, (name, text) in enumerate(asked):
        pixels = evaluator.transform(evaluator.transform.open(split.paths[name]))
        aux = evaluator.explain(pixels[None], [text])
        gate = aux["gate"][0, 1:].mean(-1).numpy()
        np.testing.assert_allclose(found.gate[number], gate, atol=1e-5)
        update = aux["alpha"] * aux["gate"] * aux["delta"]
        change = update[0, 1:].abs().mean(-1).numpy()
        np.testing.assert_allclose(found.change[number], change, atol=1e-5)
    assert np.abs(found.gate[0] - found.gate[1]).max() > 1e-4


def test_what_is_lost_is_nothing_in_the_image_itself(home, cirr_run):
    evaluator, [split], _ = opened(home, cirr_run, "CIRR")
    names = [triplet.reference for triplet in split.triplets]
    same = lost_maps(evaluator, names, names)
    assert same.shape == (len(names), SIDE * SIDE)
    assert np.abs(same).max() < 1e-5
    assert lost_maps(evaluator, names, [triplet.target for triplet in split.triplets]).max() > 0.1


def test_what_is_lost_is_measured_where_the_lesson_compares():
    names, targets = ["a", "b"], ["c", "d"]
    levels = {name: list(torch.randn(3, 1, 1 + 4, 6)) for name in names + targets}
    evaluator = SimpleNamespace(
        runs_on=SimpleNamespace(autocast=nullcontext),
        batches=lambda each, title: enumerate(each),
        model=SimpleNamespace(levels=levels.__getitem__, lesson_places=[0, 2]),
    )
    for row, one, other in zip(lost_maps(evaluator, names, targets), names, targets, strict=True):
        maps = [lost_in_target(levels[one][n][:, 1:], levels[other][n][:, 1:]) for n in (0, 2)]
        np.testing.assert_allclose(row, (maps[0] + maps[1])[0] / 2, atol=1e-6)


def cells(values):
    """Means of pixels [H, W] over the grid's cells: [P]."""
    size = len(values) // SIDE
    return values.reshape(SIDE, size, SIDE, size).mean((1, 3)).ravel()


@pytest.mark.parametrize("dataset", FOLDERS)
def test_a_map_of_differing_pixels_finds_what_changes(home, cirr_run, dataset):
    """The boxes fit the pictures in both layouts, through padding too."""
    evaluator, splits, known = opened(home, cirr_run, dataset)
    values = {}
    for split in splits:
        maps = []
        for triplet in split.triplets:
            pair = (triplet.reference, triplet.target)
            before, after = (
                evaluator.transform(evaluator.transform.open(split.paths[name])) for name in pair
            )
            maps.append(cells((before - after).abs().amax(0).numpy()))
        added = gate_measures.defaultdict(list)
        gate_measures.localise(evaluator, split, known[split.name], {"gate": np.stack(maps)}, added)
        for name, each in added.items():
            values.setdefault(name, []).extend(each)
    assert len(values["gate_auc"]) >= 3
    assert np.mean(values["gate_auc"]) > 0.93
    shuffled = np.random.default_rng(0).permutation(SIDE * SIDE)
    added = gate_measures.defaultdict(list)
    wrong = {"gate": np.stack(maps)[:, shuffled]}
    gate_measures.localise(evaluator, splits[-1], known[splits[-1].name], wrong, added)
    assert not added["gate_auc"] or np.mean(added["gate_auc"]) < 0.8


def planted(evaluator, known):
    """A fusion that knows the answers: its gate opens inside of the boxes of a text."""
    boxes = {}
    for swap in known.swaps:
        for captions, each in zip(swap.captions, swap.boxes, strict=True):
            text = evaluator.benchmark.evaluation_text(captions)
            boxes[swap.reference, text] = evaluator.transform.boxes(each, known.size)

    def maps(_, references, texts):
        found = [
            gate_measures.truth_of([], boxes.get(pair, ()), SIDE).objects
            for pair in zip(references, texts, strict=True)
        ]
        gate = np.stack(found).astype(float)
        return Maps(gate, 1 - gate)

    return maps


def test_a_gate_that_follows_the_text_has_all_swaps(home, cirr_run, monkeypatch):
    evaluator, [split], known = opened(home, cirr_run, "CIRR")
    found = measure_gate(evaluator, [split], known, {})
    assert found["text_swap"]["count"] == len(known[split.name].swaps) > 1
    assert found["text_swap"]["value"] < 0.9
    monkeypatch.setattr(gate_measures, "maps_of", planted(evaluator, known[split.name]))
    found = measure_gate(evaluator, [split], known, {})
    assert found["text_swap"]["value"] == found["text_turned"]["value"] == 1
    assert found["change_text_swap"]["value"] == found["change_text_turned"]["value"] == 0


def test_figures_are_of_what_they_say(home, cirr_run):
    evaluator, [split], known = opened(home, cirr_run, "CIRR")
    query = split.triplets[2].query_id
    boxes = {split.name: {query: [(0.0, 0.0, 0.5, 1.0)]}}
    found = measure_gate(evaluator, [split], known, boxes)
    assert found["area_of_boxes"] == {"value": 0.5, "interval": None, "count": 1}
    assert found["gate_in_boxes"]["value"] == pytest.approx(0.5, abs=0.1)
    shares = [
        found[f"{part}_share"]["value"] for part in ("image_place", "text_level", "text_place")
    ]
    assert sum(shares) == pytest.approx(1)
    kinds = [change.kind for each in known[split.name].queries.values() for change in each]
    assert found["kinds"].keys() == set(kinds)
    assert all(each["gate_auc"]["count"] <= kinds.count(k) for k, each in found["kinds"].items())
    assert found["recall"]["count"] == len(split.triplets)
    assert found["recall_without_gate"] == found["interventions"]["everywhere"]
    assert 0 <= found["gate_auc_lost"]["value"] <= 1


def test_without_knowledge_only_what_needs_none_is_measured(home, cirr_run):
    evaluator, [split], _ = opened(home, cirr_run, "CIRR")
    found = measure_gate(evaluator, [split], {}, {})
    empty = {"value": None, "interval": None, "count": 0}
    assert found["gate_auc"] == found["text_swap"] == found["gate_in_boxes"] == empty
    assert found["kinds"] == {} and found["gate_auc_lost"]["count"] == len(split.triplets)
    assert in_training(evaluator, [split], {}) == {}


def test_a_validation_has_the_same_means(home, cirr_run):
    evaluator, [split], known = opened(home, cirr_run, "CIRR")
    whole = measure_gate(evaluator, [split], known, {})
    evaluator.model.train()
    try:
        found = in_training(evaluator, [split], known)
        assert evaluator.model.training
    finally:
        evaluator.model.eval()
    for name in ("gate_auc_within", "change_auc_within"):
        assert found[name] == pytest.approx(whole[name]["value"])
    with torch.no_grad():
        evaluator.model.fusion.has_gate = False
    assert in_training(evaluator, [split], known) == {}
