"""What a visual fusion reports, by hand, as bars and maps; and the figure that holds them."""

import numpy as np
import pytest
import torch
from PIL import Image

from gatedcir.visualize.fusion_panels import (
    feature_grid,
    layer_gates,
    neck_weights,
    share_bars,
    share_maps,
    weight_bars,
    word_maps,
)
from gatedcir.visualize.maps import feature_map
from gatedcir.visualize.panels import Bars, Maps, save_panels

PICTURE = np.zeros((4, 4, 3))
LAYERS, SCALES = (-1, -4), (0.5, 1.0, 1.5)


def titles(maps):
    return [[title for title, _ in row] for row in maps.rows]


def values(maps):
    return [np.asarray(one) for row in maps.rows for _, one in row]


def test_bars_are_grouped_by_layer():
    weights = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.75, 0.25]])  # [N, S]
    aux = {"layer_weights": torch.tensor([0.75, 0.25]), "scale_weights": weights}
    of_layers, of_scales = weight_bars(aux, layers=LAYERS, scales=SCALES)
    assert of_layers.labels == of_scales.labels == ["layer -1", "layer -4"]
    assert of_layers.series == {"weight": [0.75, 0.25]}
    assert of_scales.series == {"0.5×": [0.5, 0.0], "1.0×": [0.25, 0.75], "1.5×": [0.25, 0.25]}
    assert weight_bars({}, layers=(-1,), scales=(1.0,)) == []


def test_gates_lie_over_the_image_layer_by_layer():
    gates = torch.tensor([[9.0, 0.1, 0.1, 0.1, 0.1], [9.0, 0.2, 0.2, 0.6, 0.6]])  # CLS first
    found = layer_gates(gates, layers=LAYERS)
    assert titles(found) == [["layer -1", "layer -4"]]
    first, second = values(found)
    np.testing.assert_allclose(first, np.full((2, 2), 0.1), rtol=1e-6)
    np.testing.assert_allclose(second, [[0.2, 0.2], [0.6, 0.6]], rtol=1e-6)
    assert found.ends == (0, 1)


def test_shares_are_bars_by_layer_and_maps_by_level():
    """Two layers at two scales, the first scale's first; every token has the same shares."""
    shares = torch.tensor([0.1, 0.0, 0.6, 0.3])[:, None].expand(4, 5)
    bars = share_bars(shares, gain=0.25, layers=LAYERS, scales=(0.5, 1.0))
    assert bars.title == "share in the fused map\nresidual gain 0.25"
    assert bars.labels == ["layer -1", "layer -4"]
    assert {name: np.round(row, 4).tolist() for name, row in bars.series.items()} == {
        "0.5×": [0.1, 0.0],
        "1.0×": [0.6, 0.3],
    }
    maps = share_maps(shares, layers=LAYERS, scales=(0.5, 1.0))
    assert titles(maps) == [[f"scale {s}×, layer {n}" for s in (0.5, 1.0) for n in LAYERS]]
    assert [round(float(one.mean()), 4) for one in values(maps)] == [0.1, 0.0, 0.6, 0.3]


def test_shares_of_one_scale_without_a_gain():
    bars = share_bars(torch.tensor([[0.75], [0.25]]), gain=None, layers=LAYERS, scales=(1.0,))
    assert (bars.title, bars.series) == ("share in the fused map", {"share": [0.75, 0.25]})


def test_the_necks_weights_are_a_map_a_scale():
    weights = torch.stack([torch.full((2, 2), share) for share in (0.5, 0.3, 0.2)])
    found = neck_weights(weights, scales=(1.0, 0.5, 0.25))
    assert titles(found) == [["grid at 1.0×", "grid at 0.5×", "grid at 0.25×"]]
    assert [round(float(one.mean()), 4) for one in values(found)] == [0.5, 0.3, 0.2]


def test_a_word_gets_the_attention_of_all_its_tokens():
    attention = torch.tensor([0.2, 0.3, 0.3, 0.2, 0.0]).expand(5, 5).clone()  # [L, T]
    attention[4] = torch.tensor([0.5, 0.1, 0.1, 0.2, 0.1])
    words = [("[CLS]", [0]), ("dotted", [1, 2]), ("one", [3]), (",", [4])]
    found = word_maps(attention, words=words)
    assert titles(found) == [["dotted", "one"]]
    np.testing.assert_allclose(values(found)[0], [[0.75, 0.75], [0.75, 0.5]], rtol=1e-6)
    np.testing.assert_allclose(values(found)[1], [[0.25, 0.25], [0.25, 0.5]], rtol=1e-6)


def test_many_words_are_broken_into_rows():
    words = [(f"word {place}", [place]) for place in range(14)]
    found = word_maps(torch.rand(5, 14), words=words)
    assert [len(row) for row in found.rows] == [4, 4, 4, 2]
    assert [title for row in titles(found) for title in row] == [word for word, _ in words]


def test_features_stand_scale_by_layer_and_the_fused_map_behind_its_scale():
    sides = [side for side in (2, 4, 6) for _ in LAYERS]
    levels = [torch.randn(1 + side * side, 8) for side in sides]
    fused = torch.randn(17, 8)
    found = feature_grid(levels, fused, layers=LAYERS, scales=SCALES)
    assert titles(found) == [
        ["scale 0.5×, layer -1", "scale 0.5×, layer -4"],
        ["scale 1.0×, layer -1", "scale 1.0×, layer -4", "all of them, fused"],
        ["scale 1.5×, layer -1", "scale 1.5×, layer -4"],
    ]
    expected = [*levels[:4], fused, *levels[4:]]
    for one, tokens in zip(values(found), expected, strict=True):
        np.testing.assert_array_equal(one, feature_map(tokens))


def test_a_feature_map_is_the_principal_component_of_the_patches():
    pattern = torch.zeros(16)
    pattern[5] = 1
    direction = torch.randn(8)
    tokens = torch.cat([torch.full((1, 8), 99.0), 3 - 2 * pattern[:, None] * direction])
    expected = (pattern - pattern.mean()) / pattern.std(correction=0)
    torch.testing.assert_close(feature_map(tokens), expected.view(4, 4))  # the one stands out high
    noisy = feature_map(torch.randn(17, 8))
    assert noisy.mean().abs() < 1e-5 and noisy.std(correction=0) == pytest.approx(1, abs=1e-4)
    assert not feature_map(torch.full((17, 8), 0.3)).any()


def draw(path, maps, text="is red", bars=()):
    save_panels(path, reference=PICTURE, text=text, bars=bars, maps=maps)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_a_band_for_each_kind_and_bars_beside_the_image(tmp_path):
    ramp = np.linspace(0, 1, 16).reshape(4, 4)
    gates = Maps("Gates", "gate", [[("one", ramp)]])
    grid = Maps("Features", "sd", [[("a $", ramp), ("b", ramp)], [("c", ramp)]], ends=(-3, 3))
    bars = [Bars("weights", ["x", "y"], {"s": [0.5, 0.5], "t": [1.0, 0.0]})]
    one = draw(tmp_path / "deep" / "one.png", [gates])
    both = draw(tmp_path / "both.png", [gates, grid], bars=bars)
    assert both.shape[1] == one.shape[1]  # a band of fewer maps is as wide
    assert both.shape[0] > 1.5 * one.shape[0]  # the reference and the single map share a row
    blue = (both == (0x00, 0x72, 0xB2)).all(-1)
    assert blue.sum() > 1000 and np.nonzero(blue)[1].min() > both.shape[1] / 5


def test_a_map_is_drawn_on_the_stated_scale_and_not_on_its_own(tmp_path):
    """A map of 0.5 and one more value has the middle's colour, whatever the other value is."""
    for other in (0.4, 0.9):
        values = np.full((2, 2), 0.5)
        values[0, 0] = other
        figure = draw(tmp_path / "flat.png", [Maps("t", "u", [[("only", values)]])])
        middle = np.abs(figure - (33, 145, 140)).max(-1) <= 3  # the middle of viridis
        assert middle.sum() > 150 * 150


def test_numbers_stand_below_each_map(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("gatedcir.visualize.style.save", lambda figure, _: drawn.append(figure))
    values = [[0.0, 0.5], [0.75, 0.75]]
    maps = [
        Maps("Gates", "gate", [[("one", values)]]),
        Maps("Features", "sd", [[("two", values)]], ends=(-3, 3)),
    ]
    save_panels(tmp_path / "a.png", reference=PICTURE, text="", bars=[], maps=maps)
    [shelf] = drawn[0].subfigs
    _, gates, features, _ = shelf.subfigs  # the last one is empty
    below = "min 0.00\nmax 0.75\nmean 0.50"
    assert gates.axes[0].get_xlabel() == f"{below}\n50% over 0.5"
    assert features.axes[0].get_xlabel().rstrip() == below  # whose middle is 0
    for band, ticks in ((gates, ["0", "0.5", "1"]), (features, ["-3", "0", "3"])):
        assert [tick.get_text() for tick in band.axes[-1].get_yticklabels()] == ticks
