"""All that is measured of a model on a split, from one pass over its images."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from gatedcir.data.triplets import Split
from gatedcir.evaluation.evaluator import Evaluator, rank_each
from gatedcir.evaluation.query_statistics import Interval, Measured, intervals
from gatedcir.evaluation.ranking import Ranking
from gatedcir.evaluation.reranking import Gain
from gatedcir.evaluation.results import Results
from gatedcir.evaluation.single_inputs import composition_gap, single_inputs

_MODEL, _CLOSED = "model", "without the gate"


@dataclass(frozen=True)
class Examined:
    """A model on the parts of a split."""

    rankings: list[Ranking]
    measured: Measured
    intervals: dict[str, Interval]
    without_gate: dict[str, float] | None
    """Metrics when the text changes no visual token. None for a model without a gate."""
    single: dict[str, Measured]
    """What one half of the query finds. Empty if that was not asked for."""
    composition: dict[str, Any] | None
    """See `composition_gap`. Of the search alone, also where it is reranked."""
    gain: Gain | None
    """What reranking changed. None if nothing was reranked."""

    @property
    def content(self) -> dict[str, Any]:
        """All figures, for a file."""
        splits = [ranking.split for ranking in self.rankings]
        found: dict[str, Any] = {
            "protocol": {split.name: split.protocol for split in splits},
            "metrics": self.measured.metrics,
            "intervals": {name: [one.low, one.high] for name, one in self.intervals.items()},
            "queries": {split.name: len(split.triplets) for split in splits},
        }
        if self.without_gate is not None:
            found["metrics_without_gate"] = self.without_gate
        if self.gain is not None:
            known = asdict(self.gain)
            del known["after"]  # the metrics above
            found["reranked"] = known
        if self.composition is not None:
            found["composition"] = self.composition
            found["single_inputs"] = {name: each.metrics for name, each in self.single.items()}
        return found


def examine(evaluator: Evaluator, splits: Sequence[Split], *, composition: bool) -> Examined:
    """Rank a split by the model, and by its parts, in one pass.

    Args:
        evaluator: the model.
        splits: the parts of the split, with targets.
        composition: whether one half of the query is ranked alone too. It is never reranked, so
            it is compared with the search alone.
    """
    encoders = {_MODEL: evaluator.encode_query}
    # What the gate is worth belongs into every report of a search. The matcher looks through it.
    if evaluator.has_gate and not evaluator.judges:
        encoders[_CLOSED] = evaluator.encode_without_gate
    halves = single_inputs(evaluator) if composition else {}
    encoders |= halves
    found = rank_each(evaluator, list(splits), list(encoders.values()))
    ranked = dict(zip(encoders, found, strict=True))
    measured = {
        name: Measured(evaluator.benchmark, [Results.of(one) for one in each])
        for name, each in ranked.items()
    }
    model = search = measured[_MODEL]
    gain = None
    if evaluator.reranked:
        gain = Gain.of(evaluator.reranked, evaluator.benchmark.measure, top=evaluator.rerank)
        firsts = [Results.of(part.first) for part in evaluator.reranked]
        search = Measured(evaluator.benchmark, firsts)
    return Examined(
        rankings=ranked[_MODEL],
        measured=model,
        intervals=intervals(model),
        without_gate=measured[_CLOSED].metrics if _CLOSED in measured else None,
        single={name: measured[name] for name in halves},
        composition=composition_gap(search.parts, *(measured[name].parts for name in halves))
        if halves
        else None,
        gain=gain,
    )
