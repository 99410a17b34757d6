"""Putting the parts of a run together."""

import copy

import pytest
import torch

from gatedcir.assemble import data
from gatedcir.assemble.evaluator import place
from gatedcir.assemble.model import build
from gatedcir.device import autocast, precision_of
from gatedcir.options.config import Config
from gatedcir.options.parsing import parse


@pytest.mark.parametrize(("computes", "precision"), [(True, torch.bfloat16), (False, None)])
def test_gpus_compute_in_bf16_where_they_have_it_and_in_float32_elsewhere(
    monkeypatch, computes, precision
):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *, including_emulation: computes)
    assert precision_of("auto", torch.device("cuda")) is precision
    assert precision_of("fp16", torch.device("cuda")) is torch.float16


@pytest.mark.parametrize(("name", "precision"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_only_a_frozen_tower_is_kept_in_half_precision(name, precision):
    flags = ["--dataset", "CIRR", "--mixed-precision", name]
    config = parse(Config, flags, description="")
    model, _ = build(config)
    whole = copy.deepcopy(model).eval()
    place(model, torch.device("cpu"), config)
    halved = {name for name, weight in model.state_dict().items() if weight.dtype == precision}
    tower = "backbone.vision_model."
    last = tower + "post_layernorm."
    assert halved == {n for n in model.state_dict() if n.startswith(tower) and last not in n}
    assert {w.dtype for n, w in model.state_dict().items() if n not in halved} == {torch.float32}
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with autocast(torch.device("cpu"), precision):
        found = model.eval().encode_target(pixels)
    assert found.dtype == torch.float32
    similar = (found * whole.encode_target(pixels)).sum(-1)
    assert similar.min() > 0.99

    config = parse(Config, [*flags, "--train-vision"], description="")
    model = place(build(config)[0], torch.device("cpu"), config)
    assert {w.dtype for w in model.state_dict().values()} == {torch.float32}


@pytest.mark.parametrize(
    ("room", "workers", "found"),
    [
        (64 * 2**20, 2, 0),  # Docker's default
        (5 * 128 * 3 * 64 * 64 * 4, 2, 2),  # exactly two batches a worker, and one in use
        (5 * 128 * 3 * 64 * 64 * 4 - 1, 2, 0),
        (0, 0, 0),
        (None, 2, 2),  # no /dev/shm
    ],
)
def test_no_loading_processes_where_shared_memory_is_too_small(
    monkeypatch, capsys, room, workers, found
):
    monkeypatch.setattr(data, "shared_memory", lambda: room)
    flags = ["--dataset", "CIRR", "--num-workers", str(workers)]
    config = parse(Config, flags, description="")
    model, _ = build(config)
    capsys.readouterr()
    size = 128 if room is None or room < 64 * 2**20 else 1000
    assert data.with_workers_that_fit(config, model, size).data.num_workers == found
    printed = capsys.readouterr().out
    assert ("--num-workers 0" in printed and "--shm-size" in printed) == (found < workers)
