"""What a gate looks at and what it is worth, printed and written: `gatedcir gates --measure`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatedcir.commands.pictures import chosen
from gatedcir.errors import UserError

if TYPE_CHECKING:
    from gatedcir.data.changes import Box
    from gatedcir.data.triplets import Split
    from gatedcir.evaluation.evaluator import Evaluator

_BOXES = "the ids of queries, each with its boxes [left, top, right, bottom]"


def measure(
    evaluator: "Evaluator",
    splits: Sequence["Split"],
    root: Path,
    *,
    num: int | None,
    boxes: Path | None,
    json: Path | None,
    title: str,
) -> None:
    """Measure a gate on the queries of splits.

    Args:
        evaluator: of a model with a gate.
        splits: the parts of one split, whole.
        root: the folder of their data set.
        num: how many queries, spread evenly over each part. None for all.
        boxes: a file of places that a user named.
        json: the file to write.
        title: the model's name in it.

    Raises:
        UserError: no published targets, or a damaged file.
    """
    from gatedcir.data.changes import known_changes
    from gatedcir.evaluation.gate_measures import measure_gate
    from gatedcir.files import write_json

    for part in splits:
        if not all(triplet.targets for triplet in part.triplets):
            raise UserError(
                f"{part.name} publishes no targets, which --measure needs; choose another --split."
            )
    named = {} if boxes is None else _boxes_of(boxes, evaluator, splits)
    known = known_changes(root, [part.name for part in splits])
    if num is not None:
        splits = [
            replace(p, triplets=tuple(p.triplets[n] for n in chosen(len(p.triplets), num)))
            for p in splits
        ]
    for part in splits:
        used = "" if num is None else f", {len(part.triplets)} of them measured"
        print(f"{part.name}: {part.protocol}{used}")
    found = measure_gate(evaluator, splits, known, named)
    print(format_measures(found))
    if json is not None:
        protocol = {part.name: part.protocol for part in splits}
        content = {"checkpoint": title, "trained_on": evaluator.trained_on, "protocol": protocol}
        write_json(json, {**content, **found})


def format_measures(found: Mapping[str, Any]) -> str:
    """Tables of all figures: the means, those of each kind of change, and the interventions."""
    from gatedcir.evaluation.gate_measures import BY_KIND
    from gatedcir.evaluation.interventions import OPEN
    from gatedcir.evaluation.report import table

    figures = {
        name: entry
        for name, entry in found.items()
        if isinstance(entry, dict) and "value" in entry and "lost" not in entry and entry["count"]
    }
    means = [[name, *_cells(entry)] for name, entry in figures.items()]
    parts = [table(["figure", "mean", "95% interval", "count"], means)]
    if found["kinds"]:
        columns = [name for name in BY_KIND if name != "lost_pointing"]
        rows = [
            [kind, str(own["gate_auc"]["count"]), *(_mean(own[name]) for name in columns)]
            for kind, own in sorted(found["kinds"].items())
        ]
        parts.append(
            table(["change", "count", *(name.replace("_", " ") for name in columns)], rows)
        )
    closings = {OPEN: found["recall"], **found["interventions"]}
    recalls = [
        [where, f"{entry['value']:.2f}", f"{entry['lost']:.2f}", _range(entry["lost_interval"], 2)]
        for where, entry in closings.items()
    ]
    parts.append(table(["gate closed", found["headline"], "lost", "95% interval"], recalls))
    without = found["recall_without_gate"]
    parts.append(f"recall without the gate: {without['value']:.2f} ({found['headline']})")
    return "\n\n".join(parts)


def _boxes_of(
    file: Path, evaluator: "Evaluator", splits: Sequence["Split"]
) -> dict[str, dict[str, list["Box"]]]:
    """The boxes of a user's file in the square that the model sees, by split and query.

    Raises:
        UserError: the file is missing or damaged, or names a query that no split has.
    """
    from gatedcir.data.annotations import read_json
    from gatedcir.data.changes import read_boxes

    if not file.is_file():
        raise UserError(f"there is no file {file}; check the path after --boxes.")
    content = read_json(file, dict, layout=_BOXES)
    known = {t.query_id: (part, t) for part in splits for t in part.triplets}
    found: dict[str, dict[str, list[Box]]] = {}
    for query, given in content.items():
        if query not in known:
            names = " and ".join(part.name for part in splits)
            raise UserError(
                f"--boxes {file} names the query {query}, which {names} lacks; check it."
            )
        part, triplet = known[query]
        size = evaluator.transform.open(part.paths[triplet.reference]).size
        places = evaluator.transform.boxes(
            read_boxes(given, where=f"query {query} of {file}"), size
        )
        found.setdefault(part.name, {})[query] = places
    return found


def _cells(entry: Mapping[str, Any]) -> list[str]:
    return [_mean(entry, 3), _range(entry["interval"], 3), str(entry["count"])]


def _mean(entry: Mapping[str, Any], digits: int = 2) -> str:
    return "" if entry["value"] is None else f"{entry['value']:.{digits}f}"


def _range(interval: Sequence[float] | None, digits: int) -> str:
    return "" if interval is None else " to ".join(f"{end:.{digits}f}" for end in interval)
