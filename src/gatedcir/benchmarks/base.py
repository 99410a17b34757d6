"""The definition of a data set: how to read it, measure its answers, and submit them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from gatedcir.benchmarks.answers import ANY, ReadAnswers, Rules, plain
from gatedcir.benchmarks.places import Places
from gatedcir.benchmarks.ranks import Indices, Scores, average_precisions, recall_at
from gatedcir.data import triplets
from gatedcir.data.image_files import Listings
from gatedcir.data.triplets import Split
from gatedcir.errors import UserError
from gatedcir.plugins import errors_of

CUTOFFS = (1, 5, 10, 50)
GROUP_CUTOFFS = (1, 2, 3)
MAP_CUTOFFS = (5, 10, 25, 50)


@dataclass(frozen=True)
class Choice:
    """The part of a dataset to read, and the kind of its galleries.

    Attributes:
        protocol: FashionIQ's gallery: "original" or "val-split".
        categories: FashionIQ's, in any order; None for all.
        gallery: "split", or "all" for the images of all splits. For a data set with `any_gallery`
            also a folder, or a file that lists images.
        ranked: whether a training split is ranked too. Its gallery is then whole.
        images: whether images are needed. Without them a reader may leave out what only they need.
        also: images of a training split that are kept without a triplet.
    """

    protocol: str = "original"
    categories: tuple[str, ...] | None = None
    gallery: str = "split"
    ranked: bool = False
    images: bool = True
    also: frozenset[str] = frozenset()


WHOLE = Choice()


class Read(Protocol):
    """Reads a split: the parts of it that are ranked separately, mostly one."""

    def __call__(  # noqa: D102
        self, root: Path, split: str, *, choice: Choice, listings: Listings
    ) -> Sequence[Split]: ...


class Answers(Protocol):
    """The images that the queries of one part of a split retrieved.

    See `evaluation.ranking.Ranking`.
    """

    @property
    def split(self) -> Split:
        """The queries and their gallery."""

    @property
    def target_ranks(self) -> Indices:
        """0-based rank of every query's target."""

    @property
    def group_ranks(self) -> Indices:
        """0-based rank of the target in the image group, of every query that has a group."""

    def names(self, query: int) -> list[str]:
        """The retrieved images, best first."""

    def group_names(self, query: int) -> list[str]:
        """The images of the group, best first."""


@dataclass(frozen=True)
class Copies:
    """The layout of resized copies of a data set.

    Attributes:
        parts: the data set's folder -> the common part of a part's file names -> its reader.
        places: images and their files, and the folder -> the place of each copy.
    """

    parts: Callable[[Path], Mapping[str, Callable[[], Split]]]
    places: Callable[[list[tuple[str, Path]], Path], Places]


def recalls(answers: Sequence[Answers]) -> dict[str, float]:
    """Recall at 1, 5, 10 and 50 over the queries of all parts."""
    ranks = np.concatenate([each.target_ranks for each in answers])
    return {f"recall_at{k}": recall_at(ranks, k) for k in CUTOFFS}


def precisions(answers: Answers, k: int) -> Scores:
    """Average precision at `k` of every query of a part, over all its targets: [M] in 0..1."""
    hits = np.zeros((len(answers.split.triplets), k), dtype=bool)
    for query, triplet in enumerate(answers.split.triplets):
        names = answers.names(query)[:k]
        hits[query, : len(names)] = [name in triplet.targets for name in names]
    relevant = np.array([len(triplet.targets) for triplet in answers.split.triplets])
    return average_precisions(hits, relevant, k)


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """One data set. Only `name` and `read` must be given.

    `read` takes one of the data set's own names of splits. `splits` lists them: training,
    validation, and the test without published targets. For the last two `read` should keep the
    order of images, because ties are broken in this order.
    """

    name: str
    read: Read
    metrics: Callable[[Sequence[Answers]], dict[str, float]] = recalls
    """The parts of a split, ranked -> metrics in percent."""
    headline: str = "recall_at10"
    """The metric by which the best checkpoint is chosen."""
    headings: Mapping[str, str] = field(
        default_factory=lambda: {f"recall_at{k}": f"R@{k}" for k in CUTOFFS}
    )
    """Metrics that tables show, in their order, and their headings."""
    splits: tuple[str, str, str] = ("train", "val", "test")
    folder: Path | None = None
    """Where it lies when --data-path is not given."""
    origin: str = ""
    """The address that it comes from."""
    drawn: bool = False
    """Whether `gatedcir synthetic` draws data in its layout."""
    sign: str = ""
    """A folder in it that other data sets lack."""
    evaluation_text: Callable[[tuple[str, ...]], str] = triplets.evaluation_text
    training_text: triplets.TrainingText = triplets.training_text
    submission: Callable[[Path, str, Sequence[Answers]], list[Path]] | None = None
    """Writes the files for its test server into a folder, and returns their paths."""
    copies: Copies | None = None
    read_answers: ReadAnswers = plain
    """A file of somebody's answers, in the form of its test server, -> the answers."""
    rules: Rules = ANY
    """What its test server wants."""
    any_gallery: bool = False
    """Whether `read` takes a folder or file as gallery."""

    @property
    def training_split(self) -> str:
        """The data set's own name of its training split."""
        return self.splits[0]

    def split_named(self, name: str) -> str:
        """Its own name of train, val or test. Its own names stay as they are."""
        return dict(zip(("train", "val", "test"), self.splits, strict=True)).get(name, name)

    def score(self, answers: Sequence[Answers]) -> dict[str, float]:
        """The metrics of a split in percent, as far as the answers give them.

        Raises:
            UserError: no targets are published for a query.
        """
        for each in answers:
            if not all(triplet.targets for triplet in each.split.triplets):
                raise UserError(
                    f"{each.split.name} publishes no targets, so that nothing can be measured on "
                    "it; choose another split."
                )
        with errors_of(self.name, what="the function metrics of", code=self.metrics):
            return self.metrics(answers)

    def measure(self, answers: Sequence[Answers]) -> dict[str, float]:
        """All metrics of a split in percent.

        Raises:
            UserError: no targets are published for a query, or the headline is not among them.
        """
        found = self.score(answers)
        if self.headline not in found:
            raise UserError(
                f"the metrics of {self.name} lack its headline {self.headline}; they are "
                f"{', '.join(found)}."
            )
        return found

    def columns(self, metrics: Sequence[str]) -> dict[str, str]:
        """The metrics that a table shows, and their headings. It shows all if none is known."""
        known = {name: title for name, title in self.headings.items() if name in metrics}
        return known or {name: name for name in metrics}
