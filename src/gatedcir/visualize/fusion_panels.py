"""The report of a visual fusion on one image -> bars and maps. Pure: no files, no figures.

Shapes: L = 1 + h * w visual tokens (CLS first), N layers, S scales, T text tokens, Dv vision width.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from gatedcir.visualize.cells import DEVIATIONS
from gatedcir.visualize.maps import feature_map, patch_maps, rounded_up
from gatedcir.visualize.panels import Bars, Maps
from gatedcir.visualize.words import word_shares

_MAPS_IN_A_ROW = 4


def weight_bars(
    aux: Mapping[str, Tensor], *, layers: Sequence[int], scales: Sequence[float]
) -> list[Bars]:
    """Bars of `layer_weights` [N] and of `scale_weights` [N, S], if they are there."""
    names = [f"layer {layer}" for layer in layers]
    found = []
    if "layer_weights" in aux:
        weights = aux["layer_weights"].tolist()
        found.append(Bars("layer weights", names, {"weight": weights}))
    if "scale_weights" in aux:
        columns = aux["scale_weights"].T.tolist()
        series = {f"{scale}×": column for scale, column in zip(scales, columns, strict=True)}
        found.append(Bars("scale weights", names, series))
    return found


def share_bars(
    shares: Tensor, *, gain: float | None, layers: Sequence[int], scales: Sequence[float]
) -> Bars:
    """The share of each level [S * N, L] in the fused map, averaged over all tokens."""
    means = shares.mean(1).unflatten(0, (len(scales), len(layers)))  # [S, N]
    series = {f"{scale}×": row for scale, row in zip(scales, means.tolist(), strict=True)}
    if len(scales) == 1:
        series = {"share": means[0].tolist()}
    title = "share in the fused map"
    if gain is not None:
        title += f"\nresidual gain {gain:.3g}"
    return Bars(title, [f"layer {layer}" for layer in layers], series)


def share_maps(shares: Tensor, *, layers: Sequence[int], scales: Sequence[float]) -> Maps:
    """The share of each level [S * N, L] in the fused map at each place."""
    titles = [f"scale {scale}×, layer {layer}" for scale in scales for layer in layers]
    unit = "share, 1 over the levels"
    return _in_rows("Share of each level in the fused map", unit, titles, patch_maps(shares))


def layer_gates(gates: Tensor, *, layers: Sequence[int]) -> Maps:
    """How far each layer's gate opens at each place: [N, L]."""
    titles = [f"layer {layer}" for layer in layers]
    return _in_rows("Layer gates", "gate", titles, patch_maps(gates))


def neck_weights(weights: Tensor, *, scales: Sequence[float]) -> Maps:
    """The weight of each of the neck's scales at each place: [S, h, w]."""
    titles = [f"grid at {scale}×" for scale in scales]
    return _in_rows("Weights of the neck's scales", "weight, 1 over the scales", titles, weights)


def word_maps(attention: Tensor, *, words: Sequence[tuple[str, Sequence[int]]]) -> Maps:
    """The share of each place's attention that a word gets: [L, T]. See `word_shares`.

    The colours end at the largest share, rounded up, because a text of many words has small ones.
    """
    titles, shares = word_shares(attention, words)
    title = "Words that each place attends to, without [CLS], [SEP] and punctuation"
    maps = patch_maps(shares.T)
    top = rounded_up(float(maps.max())) if titles else 1.0
    return _in_rows(title, "share of the attention", titles, maps, top=top)


def feature_grid(
    levels: Sequence[Tensor], fused: Tensor, *, layers: Sequence[int], scales: Sequence[float]
) -> Maps:
    """The first principal component of every level, scale by layer, and of the fused map.

    Args:
        levels: all layers of the first scale, then of the next, each [L, Dv] with its own L.
        fused: [L, Dv], drawn behind the row of scale 1.0.
        layers: N names.
        scales: S of them.
    """
    rows = []
    for place, scale in enumerate(scales):
        of_scale = levels[place * len(layers) : (place + 1) * len(layers)]
        row = [
            (f"scale {scale}×, layer {layer}", feature_map(level).numpy())
            for layer, level in zip(layers, of_scale, strict=True)
        ]
        if scale == 1:
            row.append(("all of them, fused", feature_map(fused).numpy()))
        rows.append(row)
    title = "Features: the first principal component over the patches of each map"
    return Maps(title, "standard deviations", rows, ends=(-DEVIATIONS, DEVIATIONS))


def _in_rows(
    title: str, unit: str, titles: Sequence[str], maps: Tensor, *, top: float = 1.0
) -> Maps:
    """Maps [n, h, w] of shares in rows."""
    named = list(zip(titles, maps.float().numpy(), strict=True))
    starts = range(0, len(named), _MAPS_IN_A_ROW)
    rows = [named[start : start + _MAPS_IN_A_ROW] for start in starts]
    return Maps(title, unit, rows, ends=(0, top))
