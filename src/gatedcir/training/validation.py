"""The validation that ends an epoch, with its report."""

from collections.abc import Mapping

import numpy as np
from tqdm import tqdm

from gatedcir.data.changes import Changes
from gatedcir.data.triplets import Split
from gatedcir.errors import UserError
from gatedcir.evaluation.evaluator import Evaluator, validate
from gatedcir.evaluation.gate_maps import maps_of
from gatedcir.evaluation.gate_measures import in_training
from gatedcir.evaluation.report import format_report
from gatedcir.report.queries import gate_and_query
from gatedcir.run_folder.trackers import Pictures

_PICTURES = 3


def validate_epoch(
    evaluator: Evaluator, splits: list[Split], changes: Mapping[str, Changes], epoch: int
) -> tuple[dict[str, float], dict[str, float]]:
    """The metrics of the splits, and a gate's figures where it is known what truly changes.

    Both are printed. The figures lie between 0 and 1, and no metric in percent is among them.
    """
    metrics, figures = validate(evaluator, splits), in_training(evaluator, splits, changes)
    tqdm.write(format_report(metrics | figures, splits, title=f"epoch {epoch}"))
    return metrics, figures


def gate_pictures(evaluator: Evaluator, splits: list[Split]) -> Pictures:
    """The gate of the first few queries next to their images. Nothing for a model without a gate.

    The queries are the same after every epoch, and the colours go from 0 to 1, so that one sees the
    gate move.
    """
    if not evaluator.has_gate:
        return {}
    split = splits[0]
    triplets = split.triplets[:_PICTURES]
    texts = [evaluator.benchmark.evaluation_text(triplet.captions) for triplet in triplets]
    with evaluator.measuring():
        try:
            gates = maps_of(evaluator, [triplet.reference for triplet in triplets], texts).gate
        except UserError:  # a fusion of one's own may not report its change
            return {}
    side = round(gates.shape[1] ** 0.5)
    return {
        f"gate/{triplet.query_id}": np.asarray(
            gate_and_query(split.paths, triplet.reference, gate.reshape(side, side))
        )
        for triplet, gate in zip(triplets, gates, strict=True)
    }
