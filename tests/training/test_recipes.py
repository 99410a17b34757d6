"""The recipes, by small runs: they do what they say, and say so in every report."""

import json

import pytest
from conftest import SHORT

import blip_fine_tune_2
import blip_validate
from gatedcir.data.noise import shuffled, shuffled_count
from gatedcir.data.triplets import Triplet


def triplets(count):
    return [Triplet(str(i), f"r{i}", (f"t{i}",), (f"text {i}",)) for i in range(count)]


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.04, 0), (0.2, 5), (0.99, 25)])
def test_noise_exchanges_the_targets_of_a_share_and_loses_none(share, count):
    clean = triplets(25)
    found = shuffled(clean, share, seed=3)
    moved = [(a, b) for a, b in zip(clean, found, strict=True) if a.targets != b.targets]
    assert len(moved) == shuffled_count(25, share) == count
    assert sorted(t.targets for t in found) == sorted(t.targets for t in clean)
    assert all(a.reference == b.reference and a.captions == b.captions for a, b in moved)
    assert found == shuffled(clean, share, seed=3)
    assert not count or found != shuffled(clean, share, seed=4)


def test_reports_name_the_loss_and_the_noise_of_a_run(home, tmp_path, capsys):
    run, report = tmp_path / "run", tmp_path / "report.json"
    flags = ["--dataset", "CIRR", "--data-path", str(home / "cirr_dataset"), *SHORT]
    flags += ["--num-epochs", "1", "--loss", "rcl", "--noise", "0.25", "--output", str(run)]
    blip_fine_tune_2.main(flags)
    noise = "6 of 24 training triplets are shuffled on purpose (--noise 0.25)"
    assert noise in capsys.readouterr().out
    said = json.loads((run / "provenance.json").read_text())["recipes"]
    assert said[0] == "--loss rcl" and noise in said[1]
    blip_validate.main(["--model-path", str(run), "--output", str(report)])
    assert noise in capsys.readouterr().out
    assert noise in json.loads(report.read_text())["trained_on"]
