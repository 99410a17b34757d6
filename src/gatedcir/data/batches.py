"""Training triplets by the batch, each image of a batch once.

Shapes: B batch, U distinct images of a batch.
"""

import random
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from gatedcir.data.sources import Source
from gatedcir.data.triplets import TrainingText, Triplet, training_text
from gatedcir.visual import Visual


class Batch(NamedTuple):
    """B triplets, and their images without repetition."""

    images: Visual  # [U, ...]
    references: Tensor  # [B], which of the images
    targets: Tensor  # [B], the same for the targets
    texts: list[str]
    target_ids: Tensor  # [B], equal for equal targets, the same way in all batches
    weights: Tensor | None = None  # [B]. None: each counts once

    @classmethod
    def all_different(cls, images: Visual, texts: list[str]) -> "Batch":
        """B triplets that share no image, from B references and then B targets."""
        references, targets = torch.arange(2 * len(texts)).chunk(2)
        return cls(images, references, targets, texts, torch.arange(len(texts)))


class TripletDataset(Dataset):
    """Training triplets by the batch: a list of indices gives a `Batch`.

    Every image is read once a batch, even if several of its triplets show it. `text` draws a
    triplet's text again in every epoch, from the seed, the epoch and its index alone. A resumed run
    therefore draws the same texts as an uninterrupted one.
    """

    def __init__(
        self,
        triplets: Sequence[Triplet],
        source: Source,
        *,
        seed: int,
        text: TrainingText = training_text,
        weights: Sequence[float] | None = None,
    ) -> None:
        self.triplets, self.source, self.seed, self.text = triplets, source, seed, text
        self.weights = weights
        self.epoch = 0
        self.target_ids: dict[str, int] = {}
        for triplet in triplets:
            for target in triplet.targets:
                self.target_ids.setdefault(target, len(self.target_ids))

    @property
    def reads_files(self) -> bool:
        """Whether items are read from files, so that worker processes help."""
        return self.source.reads_files

    def __len__(self) -> int:
        return len(self.triplets)

    def __getitem__(self, indices: list[int]) -> Batch:
        places: dict[str, int] = {}
        references, targets = [], []
        chosen = [self.target_of(index) for index in indices]
        for index, target in zip(indices, chosen, strict=True):
            references.append(places.setdefault(self.triplets[index].reference, len(places)))
            targets.append(places.setdefault(target, len(places)))
        return Batch(
            images=default_collate([self.source[name] for name in places]),
            references=torch.tensor(references),
            targets=torch.tensor(targets),
            texts=[self.text_of(index) for index in indices],
            target_ids=torch.tensor([self.target_ids[target] for target in chosen]),
            weights=self._weights(indices),
        )

    def _weights(self, indices: list[int]) -> Tensor | None:
        return None if self.weights is None else torch.tensor([self.weights[i] for i in indices])

    def target_of(self, index: int) -> str:
        """The target of a triplet in this epoch. Several take turns."""
        targets = self.triplets[index].targets
        if len(targets) == 1:
            return targets[0]
        start = random.Random(f"{self.seed}/{index}").randrange(len(targets))
        return targets[(start + self.epoch) % len(targets)]

    def text_of(self, index: int) -> str:
        """The text of a triplet in this epoch."""
        rng = random.Random(f"{self.seed}/{self.epoch}/{index}")
        return self.text(self.triplets[index].captions, rng)
