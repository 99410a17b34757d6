"""The results of single queries as files, so that anything can be computed from them elsewhere."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from gatedcir.benchmarks.base import Benchmark
from gatedcir.errors import UserError
from gatedcir.evaluation.ranking import Ranking
from gatedcir.evaluation.results import Results
from gatedcir.files import whole_file, write_text

TABLES = (".csv", ".parquet")
_DIGITS = 9  # of a float32, so that it is read back as it was


def rows_of(benchmark: Benchmark, rankings: Sequence[Ranking]) -> list[dict[str, Any]]:
    """One row a query. Ranks begin at 1, and are None past the kept images or without a group."""
    rows = []
    for ranking in rankings:
        results = Results.of(ranking)
        for query, triplet in enumerate(ranking.split.triplets):
            names = results.names(query)
            found, group = int(results.target_ranks[query]) + 1, int(results.groups[query]) + 1
            rows.append(
                {
                    "split": ranking.split.name,
                    "query_id": triplet.query_id,
                    "reference": triplet.reference,
                    "text": benchmark.evaluation_text(triplet.captions),
                    "target": triplet.target,
                    "targets": list(triplet.targets),
                    "rank": found if found <= len(names) else None,
                    "group_rank": group or None,
                    "score": float(ranking.target_similarity[query]),
                    "retrieved": names,
                }
            )
    return rows


def check_table(path: Path, flag: str) -> None:
    """UserError if a table of queries cannot be written in the format of a path's ending."""
    if path.suffix not in TABLES:
        raise UserError(f"{flag} {path} must end with {' or '.join(TABLES)}.")
    if path.suffix == ".parquet":
        try:
            import pyarrow  # noqa: F401
        except ImportError:
            raise UserError(
                f"{flag} {path} needs pyarrow: pip install 'gatedcir[parquet]', or name a .csv."
            ) from None


def write_table(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as CSV or Parquet, by the ending. In CSV a list of names is JSON."""
    table = pd.DataFrame(rows).astype({"rank": "Int64", "group_rank": "Int64"})
    if path.suffix == ".parquet":
        with whole_file(path) as unfinished:
            table.to_parquet(unfinished, index=False)
        return
    for name in ("targets", "retrieved"):
        table[name] = [json.dumps(names, ensure_ascii=False) for names in table[name]]
    write_text(path, table.to_csv(index=False))


def write_trec(path: Path, rankings: Sequence[Ranking], *, tag: str) -> None:
    """Write a run file of TREC, and next to it the right answers as PATH.qrels.

    Tools of TREC order a list by its scores, and equal scores in their own way. So an equal score
    is lowered to the next smaller float32, which keeps our order.

    Raises:
        UserError: a name holds a blank, which the format cannot hold, or two queries share an id.
    """
    lines, answers, known = [], [], set[str]()
    for ranking in rankings:
        for query, triplet in enumerate(ranking.split.triplets):
            name = triplet.query_id
            if name in known:
                raise UserError(f"two queries have the id {name}; a TREC file needs different ids.")
            known.add(name)
            names = ranking.names(query)
            for word in (name, *names, *triplet.targets):
                if len(word.split()) != 1:
                    raise UserError(
                        f"the name {word!r} holds a blank, which a TREC file cannot hold; "
                        "write the ranks as CSV in its place."
                    )
            falling = _falling(ranking.scores(query))
            for place, (image, score) in enumerate(zip(names, falling, strict=True), 1):
                lines.append(f"{name} Q0 {image} {place} {score:.{_DIGITS}g} {tag}")
            answers += [f"{name} 0 {target} 1" for target in triplet.targets]
    write_text(path, "".join(f"{line}\n" for line in lines))
    write_text(answers_of(path), "".join(f"{line}\n" for line in answers))


def answers_of(trec: Path) -> Path:
    """Where the right answers of a run file go."""
    return trec.with_name(f"{trec.name}.qrels")


def _falling(scores: Sequence[float]) -> list[float]:
    """Scores of which each is lower than the one before.

    >>> one, two, three = _falling([0.5, 0.5, 0.25])
    >>> one == 0.5, 0.4999 < two < 0.5, three
    (True, True, 0.25)
    """
    found: list[float] = []
    for score in np.asarray(scores, dtype=np.float32):
        if found and score >= found[-1]:
            score = np.nextafter(np.float32(found[-1]), np.float32(-np.inf))  # noqa: PLW2901
        found.append(float(score))
    return found
