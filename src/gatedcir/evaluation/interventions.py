"""What the gate is worth: recall with the gate closed at some tokens, or at all of them.

Shapes: B batch, L visual tokens ([CLS] first).
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from gatedcir.benchmarks.base import Benchmark
from gatedcir.data.triplets import Split
from gatedcir.evaluation.evaluator import Evaluator, QueryEncoder, rank_each
from gatedcir.evaluation.ranking import Ranking
from gatedcir.visual import Visual

OPEN = "nowhere"
QUARTER = 4
"""An intervention closes the gate at one cell of so many."""
_RESAMPLES = 999

Keep = Callable[[Tensor], Tensor]
"""A gate's mean over channels [B, L] -> the tokens [B, L] that the text may change."""


def _only_cls(gate: Tensor) -> Tensor:
    return F.pad(torch.zeros_like(gate[:, 1:], dtype=torch.bool), (1, 0), value=True)


def _quarter(gate: Tensor, *, most: bool) -> Tensor:
    """The quarter of the cells [B, L] at which the gate opens most, or least. Never [CLS]."""
    patches = gate[:, 1:]
    places = patches.topk(patches.shape[1] // QUARTER, largest=most).indices
    chosen = torch.zeros_like(patches, dtype=torch.bool).scatter(1, places, value=True)
    return F.pad(chosen, (1, 0))


CLOSED: dict[str, Keep] = {
    "everywhere": lambda gate: torch.zeros_like(gate, dtype=torch.bool),
    "where it opens most": lambda gate: ~_quarter(gate, most=True),
    "where it opens least": lambda gate: ~_quarter(gate, most=False),
    "but where it opens most": lambda gate: _quarter(gate, most=True),
    "but at [CLS]": _only_cls,
}
"""Where an intervention closes the gate. A quarter of the cells is most, and a quarter is least."""


def closed(evaluator: Evaluator, keep: Keep) -> QueryEncoder:
    """An encoder of queries whose gate is closed at tokens that depend on the open gate."""

    def encode(images: Visual, texts: list[str]) -> Tensor:
        tokens = evaluator.tokenizer(texts).to(evaluator.device)
        gate = evaluator.model.encode_query(images, tokens)[1]["gate"]
        kept = keep(gate.float().mean(-1))
        return evaluator.model.encode_query(images, tokens, keep=kept)[0]

    return encode


def rank_closed(evaluator: Evaluator, splits: list[Split]) -> dict[str, list[Ranking]]:
    """What queries retrieve with the gate as it is (OPEN), and with it closed as CLOSED says."""
    encoders = [evaluator.encode_query, *(closed(evaluator, keep) for keep in CLOSED.values())]
    return dict(zip((OPEN, *CLOSED), rank_each(evaluator, splits, encoders), strict=True))


def recall_estimates(
    benchmark: Benchmark, conditions: Mapping[str, list[Ranking]]
) -> dict[str, dict[str, Any]]:
    """The headline metric under each condition, and how much less it is than under the first.

    The same queries are drawn under all conditions, and as many of each split as it has.
    """

    def headline(chosen: list[Any] | None) -> dict[str, float]:
        return {
            name: benchmark.measure(
                rankings
                if chosen is None
                else [each.only(rows) for each, rows in zip(rankings, chosen, strict=True)]
            )[benchmark.headline]
            for name, rankings in conditions.items()
        }

    first, *_ = conditions
    rng = np.random.default_rng(0)
    counts = [len(ranking.split.triplets) for ranking in conditions[first]]
    drawn = [headline([rng.integers(n, size=n) for n in counts]) for _ in range(_RESAMPLES)]
    found = headline(None)

    def interval(values: list[float]) -> list[float]:
        return np.percentile(values, [2.5, 97.5]).tolist()

    return {
        name: {
            "value": found[name],
            "interval": interval([each[name] for each in drawn]),
            "count": sum(counts),
            "lost": found[first] - found[name],
            "lost_interval": interval([each[first] - each[name] for each in drawn]),
        }
        for name in conditions
    }
