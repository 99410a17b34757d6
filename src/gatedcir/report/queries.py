"""Which queries a report shows, and the card of each."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib import colormaps
from PIL import Image

from gatedcir.benchmarks.base import Benchmark
from gatedcir.data.pictures import open_image
from gatedcir.errors import UserError
from gatedcir.evaluation.ranking import Ranking
from gatedcir.report.blocks import Card, Tile, exact, picture
from gatedcir.visualize.maps import map_numbers
from gatedcir.visualize.style import GATE

SIDE = 144  # pixels of a picture, twice as many as on the screen
SHOWN = 10
_CELL = 12  # pixels of a gate's cell


def chosen(ranking: Ranking, number: int) -> dict[str, list[int]]:
    """The queries of each kind, `number` of them or fewer. No query has two kinds.

    best: found first, by the largest lead. near misses: found second or third, by the smallest
    lack. worst: found last or not at all, by the largest lack. random: of all others.
    """
    ranks = ranking.target_ranks
    first = np.array([max(ranking.scores(q), default=0.0) for q in range(len(ranks))])
    second = np.array([(ranking.scores(q)[1:2] or [0.0])[0] for q in range(len(ranks))])
    lack = first - ranking.target_similarity  # 0 for the first
    lead = first - second
    everything = np.arange(len(ranks))
    found = {
        "best": sorted(everything[ranks == 0], key=lambda q: -lead[q])[:number],
        "near misses": sorted(everything[(ranks == 1) | (ranks == 2)], key=lambda q: lack[q])[
            :number
        ],
        "worst": sorted(everything[ranks > 2], key=lambda q: (-ranks[q], -lack[q]))[:number],
    }
    taken = {query for some in found.values() for query in some}
    rest = np.array([query for query in everything if query not in taken], dtype=int)
    found["random"] = sorted(np.random.default_rng(0).permutation(rest)[:number])
    return {kind: [int(query) for query in some] for kind, some in found.items() if some}


def card_of(
    benchmark: Benchmark,
    ranking: Ranking,
    query: int,
    *,
    gate: npt.NDArray | None = None,
    note: str = "",
) -> Card:
    """A query: its image, its gate [h, w], its target, and the first results."""
    split, triplet = ranking.split, ranking.split.triplets[query]
    names, rank = ranking.names(query), int(ranking.target_ranks[query]) + 1
    place = f"rank {rank}" if rank <= len(names) else f"not in the first {len(names)}"
    above = [tile_of(split.paths, triplet.reference, "query")]
    if gate is not None:
        above.append(gate_tile(gate))
    assert triplet.target is not None
    kind = "right" if rank == 1 else "near"
    above.append(tile_of(split.paths, triplet.target, f"target, {place}", kind))
    results = [
        tile_of(split.paths, name, *_result(number, name, triplet.targets, triplet.reference))
        for number, name in enumerate(names[:SHOWN], 1)
    ]
    text = benchmark.evaluation_text(triplet.captions)
    return Card(text, note or f"query {triplet.query_id}, {place}", [above, results])


def _result(place: int, name: str, targets: Sequence[str], reference: str) -> tuple[str, str]:
    """What is written below a result, and its frame."""
    if name in targets:
        return f"{place}, target", "right" if place == 1 else "near"
    if name == reference:
        return f"{place}, the query", "reference"
    return f"{place}", "other"


def tile_of(paths: Mapping[str, Path], name: str, caption: str, kind: str = "other") -> Tile:
    """An image of a data set. It stays empty if its file cannot be read any more."""
    try:
        source = picture(open_image(paths[name], at_least=SIDE), side=SIDE)
    except (UserError, KeyError):
        return Tile("", caption, name, kind)
    return Tile(source, caption, name, kind)


def gate_tile(gate: npt.NDArray) -> Tile:
    """A gate's map in the colours of all sheets, from 0 to 1, cell by cell."""
    numbers = map_numbers(gate)
    about = f"gate {numbers.least:.2f} to {numbers.most:.2f}, mean {numbers.mean:.2f}"
    return Tile(exact(heat(gate)), about, about, "grid")


def heat(gate: npt.NDArray) -> Image.Image:
    """A map [h, w] in [0, 1] as a picture."""
    colours = (255 * colormaps[GATE](np.clip(gate, 0, 1))[..., :3]).astype(np.uint8)
    image = Image.fromarray(colours)
    return image.resize((image.width * _CELL, image.height * _CELL), Image.Resampling.NEAREST)


def gate_and_query(paths: Mapping[str, Path], name: str, gate: npt.NDArray) -> Image.Image:
    """A query's image and its gate [h, w], next to each other. The image is grey if it is gone."""
    whole = Image.new("RGB", (2 * SIDE, SIDE), "grey")
    with suppress(UserError, KeyError):
        image = open_image(paths[name], at_least=SIDE)
        image.thumbnail((SIDE, SIDE))
        whole.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    whole.paste(heat(gate).resize((SIDE, SIDE), Image.Resampling.NEAREST), (SIDE, 0))
    return whole
