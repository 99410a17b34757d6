"""The validation that ends an epoch, with its report."""

from collections.abc import Mapping

from tqdm import tqdm

from gatedcir.data.changes import Changes
from gatedcir.data.triplets import Split
from gatedcir.evaluation.evaluator import Evaluator, validate
from gatedcir.evaluation.gate_measures import in_training
from gatedcir.evaluation.report import format_report


def validate_epoch(
    evaluator: Evaluator, splits: list[Split], changes: Mapping[str, Changes], epoch: int
) -> tuple[dict[str, float], dict[str, float]]:
    """The metrics of the splits, and a gate's figures where it is known what truly changes.

    Both are printed. The figures lie between 0 and 1, and no metric in percent is among them.
    """
    metrics, figures = validate(evaluator, splits), in_training(evaluator, splits, changes)
    tqdm.write(format_report(metrics | figures, splits, title=f"epoch {epoch}"))
    return metrics, figures
