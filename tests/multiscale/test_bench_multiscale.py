"""The script that puts the processor's figures next to its document's, at a small size."""

import bench_multiscale
import multiscale_costs
import torch
from multiscale_costs import kept
from torch import nn


def test_the_tables_have_what_is_stated_and_what_is_found(capsys, monkeypatch):
    monkeypatch.setattr(multiscale_costs, "limits", str)  # which takes seconds
    flags = "--backbone pvt_v2_b0 --size 64 --sides 64 --batch-size 1 --repeats 1 --device cpu"
    bench_multiscale.main(flags.split())
    rows = [line.split("|")[1:-1] for line in capsys.readouterr().out.splitlines() if "|" in line]
    found = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    assert found["backbone"] == ["25", "3.4"]
    assert found["1.0x, 64 pixels"][0] == "800 MB"
    assert found["total, ABSI"][0] == "3 GB"
    assert found["64"][0].endswith(" ms (stated: -)")


def test_activations_are_counted_once_and_weights_are_not():
    """Of a linear layer its input, of ReLU its output. An input of two calls counts once."""
    x, layer = torch.randn(4, 8), nn.Linear(8, 8)
    assert kept(lambda: layer(x).relu()) == 2 * 4 * 8 * 4
    assert kept(lambda: [layer(x), layer(x)]) == 4 * 8 * 4
    with torch.device("meta"):
        x, layer = torch.empty(4, 8), nn.Linear(8, 8)
        assert kept(lambda: layer(x).relu()) == 2 * 4 * 8 * 4
