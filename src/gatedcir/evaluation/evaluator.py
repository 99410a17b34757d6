"""Model + split -> the retrieved images, and the metrics.

Shapes: M queries, G gallery images, K kept, S members of an image group, Q query tokens,
E embedding width.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gatedcir.benchmarks.base import Benchmark
from gatedcir.data.sources import Source, batches
from gatedcir.data.transforms import Transform
from gatedcir.data.triplets import Split
from gatedcir.device import CPU, Device
from gatedcir.evaluation.ranking import rank
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

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.runs_on.device

    @property
    def has_gate(self) -> bool:
        """Whether `explain` gives a gate."""
        return bool(getattr(self.model.fusion, "has_gate", False))

    @property
    def has_visual_fusion(self) -> bool:
        """Whether `fuse` changes the map that it reads."""
        return bool(self.model.visual_fusion.changes)

    @torch.inference_mode()
    def encode(
        self, split: Split, encode_query: QueryEncoder | None = None
    ) -> tuple[TokenIndex, Tensor]:
        """A gallery's target features and the features of its queries, in one pass.

        Every image is read and goes through the vision tower once. Its tokens are not kept.

        Args:
            split: the gallery and the queries.
            encode_query: replaces the model's own encoder.

        Returns:
            The targets in an index, in gallery order, and the queries [M, E] on the CPU.
        """
        encode_query = encode_query or self._encode_query
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
        queries = torch.empty(len(texts), width)
        numbers = list(asked.values())
        for start, images in self._batches(list(asked), split.name):
            pairs = [
                (row, number)
                for row, each in enumerate(numbers[start : start + self.batch_size])
                for number in each
            ]
            with self.runs_on.autocast():
                levels = self.model.levels(images)
                if start < count:
                    index.add(self.model.encode_target([x[: count - start] for x in levels]))
                for some in range(0, len(pairs), self.batch_size):
                    rows, those = zip(*pairs[some : some + self.batch_size], strict=True)
                    references = take(levels, torch.tensor(rows))
                    found = encode_query(references, [texts[number] for number in those])
                    queries[list(those)] = found.float().cpu()
        return index, queries

    @torch.inference_mode()
    def explain(self, pixels: Tensor, texts: list[str]) -> dict[str, Tensor]:
        """The fusion's gate and figures for images [B, 3, H, W] and B texts."""
        with self.runs_on.autocast():
            tokens = self.tokenizer(texts).to(self.device)
            return self.model.encode_query(pixels.to(self.device), tokens)[1]

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

    def _encode_query(self, images: Visual, texts: list[str]) -> Tensor:
        return self.model.encode_query(images, self.tokenizer(texts).to(self.device))[0]

    def _batches(self, names: list[str], title: str) -> Iterator[tuple[int, Visual]]:
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
    training = evaluator.model.training
    evaluator.model.eval()
    try:
        rankings = [rank(split, *evaluator.encode(split, encode_query)) for split in splits]
    finally:
        evaluator.model.train(training)
    return evaluator.benchmark.measure(rankings)
