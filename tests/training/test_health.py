"""What stops a training that leads nowhere, and what must not."""

import math

import pytest
import torch
from conftest import SHORT
from torch import nn

import blip_fine_tune_2
from gatedcir.errors import UserError
from gatedcir.training.health import (
    MOST_FULL,
    StepLosses,
    check_progress,
    check_weights,
    remark_on_lesson,
    remark_on_matcher,
)


def progress(now, first, compared=16):
    first = first and StepLosses(*first)
    chance = math.log(compared)
    check_progress(StepLosses(*now), first=first, compared=compared, chance=chance, epoch=3)


@pytest.mark.parametrize(
    ("now", "first"),
    [
        ((3.9, 2.76), (2.3, 1.64)),  # it guesses, and knew more
        ((9.0, 2.76), (3.5, 2.7)),  # it knew little, and its loss has more than doubled
    ],
)
def test_a_model_that_forgets_is_stopped_with_its_numbers(now, first):
    words = (
        rf"{now[0]:.2f} \(contrastive term {now[1]}\), against {first[0]:.2f} \({first[1]:.2f}\)"
    )
    with pytest.raises(UserError, match=rf"epoch 3 .*{words}.* 2\.77 by .*--learning-rate"):
        progress(now, first)


@pytest.mark.parametrize(
    ("now", "first"),
    [
        ((3.0, 2.2), (1.4, 1.0)),  # worse than a start that knew the data, better than guessing
        ((3.9, 2.8), (3.5, 2.5)),  # a start that knew next to nothing
        ((4.0, 3.0), (2.9, 2.1)),  # as much above the first step as one batch may be by chance
        ((99.0, 2.77), None),  # resumed from an earlier version
    ],
)
def test_what_is_no_proof_does_not_stop_a_run(now, first):
    progress(now, first)


@pytest.mark.parametrize("compared", [2, 4, 8, 64])
def test_guessing_from_the_first_step_on_is_not_stopped(compared):
    """Losses of a model that knows nothing, its similarities random: 200 runs of five steps."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(200, 5, compared, compared, generator=generator)
    losses = -logits.log_softmax(-1).diagonal(dim1=-2, dim2=-1).mean(-1)  # [200, 5]
    for run in losses.tolist():
        median = sorted(run)[2]
        progress((median, median), (run[0], run[0]), compared)


def test_weights_that_are_not_finite_are_named():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    check_weights(model, epoch=0)
    with torch.no_grad():
        model[1].bias[1] = math.nan
    with pytest.raises(UserError, match=r"\(1\.bias\) are not finite in epoch 4"):
        check_weights(model, epoch=4)
    check_weights(model.requires_grad_(False), epoch=4)  # what is frozen is as it was read


def test_a_lesson_that_is_full_at_more_than_a_third_of_the_places_is_remarked_on():
    assert remark_on_lesson({"lesson_full": MOST_FULL}) is None
    assert "a full change at 34% of the places" in remark_on_lesson({"lesson_full": 0.341})


@pytest.mark.parametrize("cut", ["0.3", "0.000001"])
def test_a_run_says_after_its_first_epoch_that_its_lesson_is_full(home, tmp_path, capsys, cut):
    flags = ["--dataset", "CIRR", "--data-path", home / "cirr_dataset", *SHORT, "--no-save"]
    flags += ["--loss-gate", 1, "--gate-target-cut", cut, "--num-epochs", 2]
    blip_fine_tune_2.main([*map(str, flags), "--output", str(tmp_path / "run")])
    assert capsys.readouterr().out.count("compare earlier layers") == (cut != "0.3")


@pytest.mark.parametrize(("easy", "way"), [(0, "--rerank-easy 4"), (4, "--learning-rate")])
def test_a_matcher_that_guesses_is_remarked_on(easy, way):
    assert remark_on_matcher(1.89, chance=2.0, easy=easy) is None
    assert way in remark_on_matcher(1.91, chance=2.0, easy=easy)
