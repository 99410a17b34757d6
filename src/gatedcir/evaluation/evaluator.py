"""Model + split -> the retrieved images, and the metrics.

Shapes: M queries, G gallery images, K kept, S members of an image group, Q query tokens,
E embedding width.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.utils.data import default_collate

from gatedcir.benchmarks.base import Benchmark
from gatedcir.data.sources import Source, batches
from gatedcir.data.transforms import Transform
from gatedcir.data.triplets import Split
from gatedcir.device import CPU, Device
from gatedcir.evaluation.ranking import Ranking, rank
from gatedcir.evaluation.reranking import MatchReranker, Reranked, Reranker, reranked
from gatedcir.models.retriever import ComposedRetriever
from gatedcir.models.text import Tokenizer
from gatedcir.models.visual_fusion.shares import level_shares
from gatedcir.progress import bar
from gatedcir.search.exact import TokenIndex
from gatedcir.visual import Visual, move, take

QueryEncoder = Callable[[Visual, list[str]], Tensor]
"""References (a batch of images) and their texts -> [B, E]."""


@dataclass(frozen=True)
class Evaluator:
    """Encodes galleries and queries batch by batch, on the model's device."""

    model: ComposedRetriever
    tokenizer: Tokenizer
    source: Source
    transform: Transform
    benchmark: Benchmark
    """The data set: its texts and metrics."""
    batch_size: int = 128
    num_workers: int = 0
    gallery_on_gpu: bool = True
    runs_on: Device = CPU
    trained_on: str | None = None
    """The dataset of the model's run. None for weights that were not trained here."""
    rerank: int = 0
    """How many of the first images of each query are judged again."""
    judge: Reranker | None = None
    """What judges them. None: the model's matcher, if it has one."""
    reranked: list[Reranked] = field(default_factory=list)
    """The parts of the last ranking before and after that."""
    needed: list[Tensor] = field(default_factory=list)
    """Which scales the images of the last ranking needed, bool [B, S] each. Empty if the model does
    not choose them."""

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.runs_on.device

    @property
    def has_gate(self) -> bool:
        """Whether `explain` gives a gate."""
        return bool(getattr(self.model.fusion, "has_gate", False))

    @property
    def judges(self) -> bool:
        """Whether the first images of each query are reranked."""
        return self.rerank > 0 and (self.judge or self.model.matcher) is not None

    @property
    def has_visual_fusion(self) -> bool:
        """Whether `fuse` changes the map that it reads."""
        return bool(self.model.visual_fusion.changes)

    def encode(
        self, split: Split, encode_query: QueryEncoder | None = None
    ) -> tuple[TokenIndex, Tensor]:
        """As `encode_each` with one encoder, by default the model's own."""
        index, [queries] = self.encode_each(split, [encode_query or self.encode_query])
        return index, queries

    @torch.inference_mode()
    def encode_each(
        self, split: Split, encoders: Sequence[QueryEncoder]
    ) -> tuple[TokenIndex, list[Tensor]]:
        """A gallery's target features and the features of its queries, in one pass.

        Every image is read and goes through the vision tower once. Its tokens are not kept.

        Args:
            split: the gallery and the queries.
            encoders: each encodes all queries.

        Returns:
            The targets in an index, in gallery order, and each encoder's queries [M, E] on the CPU.
        """
        width, count = self.model.embedding_width, len(split.gallery)
        index = TokenIndex(
            dim=width,
            tokens_per_image=self.model.backbone.num_query_tokens,
            on_gpu=self.gallery_on_gpu and self.device.type == "cuda",
        )
        texts = [self.benchmark.evaluation_text(triplet.captions) for triplet in split.triplets]
        asked: dict[str, list[int]] = {name: [] for name in split.gallery}
        for number, triplet in enumerate(split.triplets):
            asked.setdefault(triplet.reference, []).append(number)  # others behind the gallery
        queries = [torch.empty(len(texts), width) for _ in encoders]
        numbers = list(asked.values())
        for start, images in self.batches(list(asked), split.name):
            pairs = [
                (row, number)
                for row, each in enumerate(numbers[start : start + self.batch_size])
                for number in each
            ]
            with self.runs_on.autocast():
                levels = self.model.levels(images, chosen=True)
                if self.model.visual_fusion.chooses_scales:
                    self.needed.append(self.model.scales_needed(levels).cpu())
                if start < count:
                    index.add(self.model.encode_target([x[: count - start] for x in levels]))
                for some in range(0, len(pairs), self.batch_size):
                    rows, those = zip(*pairs[some : some + self.batch_size], strict=True)
                    references = take(levels, torch.tensor(rows))
                    for encode_query, found in zip(encoders, queries, strict=True):
                        encoded = encode_query(references, [texts[number] for number in those])
                        found[list(those)] = encoded.float().cpu()
        return index, queries

    def order(self, split: Split, index: TokenIndex, queries: Tensor) -> Ranking:
        """What the query features [M, E] of a split retrieve, reranked if that is asked for."""
        ranking = rank(split, index, queries)
        if not self.judges:
            return ranking
        judge = self.judge
        if judge is None:
            judge = MatchReranker(self.model, self.tokenizer, self.read, self.runs_on)
        text = self.benchmark.evaluation_text
        found = reranked(ranking, judge, top=self.rerank, text=text)
        self.reranked.append(found)
        return found.ranking

    def read(self, names: Sequence[str]) -> Visual:
        """Images by name, as the model reads them."""
        return default_collate([self.source[name] for name in names])

    @torch.inference_mode()
    def explain(self, images: Visual, texts: list[str]) -> dict[str, Tensor]:
        """The fusion's gate and figures for B images and B texts."""
        with self.runs_on.autocast():
            tokens = self.tokenizer(texts).to(self.device)
            return self.model.encode_query(move(images, self.device), tokens)[1]

    @torch.inference_mode()
    def fuse(self, pixels: Tensor) -> tuple[list[Tensor], Tensor, dict[str, Tensor]]:
        """The visual fusion's input for images [B, 3, H, W], its output, and its aux.

        Returns:
            The input: all layers of the first scale, then of the next, [B, L, Dv] each.
            The output [B, L, Dv], and aux.
        """
        with self.runs_on.autocast():
            levels = self.model.normalised_levels(pixels.to(self.device))
            return levels, *self.model.visual_fusion(levels)

    @torch.inference_mode()
    def shares(self, levels: list[Tensor]) -> Tensor:
        """The share of each level of `fuse` in its output: [B, S * N, L], see `level_shares`."""
        with self.runs_on.autocast():
            return level_shares(self.model.visual_fusion, levels)

    def encode_query(self, images: Visual, texts: list[str]) -> Tensor:
        """Query features of B references on the model's device: [B, E]."""
        return self.model.encode_query(images, self.tokenizer(texts).to(self.device))[0]

    def encode_without_gate(self, images: Visual, texts: list[str]) -> Tensor:
        """As `encode_query`, but the text changes no visual token, as if alpha were 0."""
        closed = torch.zeros(1, 1, dtype=torch.bool, device=self.device)
        tokens = self.tokenizer(texts).to(self.device)
        return self.model.encode_query(images, tokens, keep=closed)[0]

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """A context without dropout. The model's training mode is restored after it."""
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)

    def batches(self, names: list[str], title: str) -> Iterator[tuple[int, Visual]]:
        """Batches of images on the model's device, each with the number of its first image."""
        stream = batches(
            self.source, names, batch_size=self.batch_size, num_workers=self.num_workers
        )
        starts = range(0, len(names), self.batch_size)
        shown = bar(starts, desc=title, leave=False)
        for start, images in zip(shown, stream, strict=True):
            yield start, move(images, self.device)


def validate(
    evaluator: Evaluator, splits: list[Split], encode_query: QueryEncoder | None = None
) -> dict[str, float]:
    """Metrics of a model on a dataset's splits. The model's training mode is restored after."""
    return validate_each(evaluator, splits, [encode_query or evaluator.encode_query])[0]


def validate_each(
    evaluator: Evaluator, splits: list[Split], encoders: Sequence[QueryEncoder]
) -> list[dict[str, float]]:
    """Metrics of several encoders of queries, which search the same galleries."""
    return [evaluator.benchmark.measure(each) for each in rank_each(evaluator, splits, encoders)]


def rank_each(
    evaluator: Evaluator, splits: list[Split], encoders: Sequence[QueryEncoder]
) -> list[list[Ranking]]:
    """What each encoder of queries retrieves, split by split.

    Only what the first one finds is reranked. A judge reads the whole query, so it would hide what
    the others find.
    """
    rankings: list[list[Ranking]] = [[] for _ in encoders]
    evaluator.needed.clear()
    evaluator.reranked.clear()
    with evaluator.measuring():
        for split in splits:
            index, encoded = evaluator.encode_each(split, encoders)
            rankings[0].append(evaluator.order(split, index, encoded[0]))
            for found, queries in zip(rankings[1:], encoded[1:], strict=True):
                found.append(rank(split, index, queries))
    return rankings
