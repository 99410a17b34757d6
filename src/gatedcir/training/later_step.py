"""What later stages of training share: features that are computed once, and parts of a batch.

Shapes: B triplets of a batch, b of a part of it, G training images, R right images of a triplet,
Q query tokens, E embedding width.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gatedcir.data.batches import TripletDataset
from gatedcir.data.sources import batches
from gatedcir.models.text import Tokens
from gatedcir.progress import bar
from gatedcir.start import Aux
from gatedcir.training.bank import make_store
from gatedcir.training.step import TrainingStep
from gatedcir.visual import move

AT_ONCE = 64  # images or triplets that are encoded together without gradients


class LaterTriplets(TripletDataset):
    """Training triplets by the batch, for a stage that knows all training images.

    Args:
        args: as for `TripletDataset`.
        images: names of all training images.
        options: as for `TripletDataset`.
    """

    def __init__(self, *args: Any, images: list[str], **options: Any) -> None:
        super().__init__(*args, **options)
        self.images = images
        self.rows = {name: row for row, name in enumerate(images)}
        self.most_right = max(len(set(triplet.targets)) for triplet in self.triplets)
        """R."""

    def right(self, indices: Sequence[int]) -> Tensor:
        """The rows of all right images of some triplets: [b, R], this epoch's target first.

        A triplet with fewer right images than others has its target again.
        """
        found = []
        for index in indices:
            own = self.target_of(index)
            names = list(dict.fromkeys([own, *self.triplets[index].targets]))[: self.most_right]
            names += [own] * (self.most_right - len(names))
            found.append([self.rows[name] for name in names])
        return torch.tensor(found)


@dataclass(kw_only=True)
class LaterStep(TrainingStep, ABC):
    """A step that trains a small part of a model, for which the rest is encoded ahead."""

    dataset: Any
    """The stage's own kind of `LaterTriplets`."""
    folder: Path
    """Where the features are kept that do not fit on a GPU."""

    def prepare(self, epoch: int, encoded: Mapping[str, Tensor]) -> None:
        """Encode what the epoch reads and nobody has encoded yet."""
        self.dataset.epoch = epoch
        training = self.model.training
        self.model.eval()
        with torch.no_grad():
            self.encode(encoded)
        self.model.train(training)

    @abstractmethod
    def encode(self, encoded: Mapping[str, Tensor]) -> None:
        """Encode what the epoch of the dataset reads and nobody has encoded yet."""

    @abstractmethod
    def part_loss(self, batch: Any, part: Tensor, text: Tokens) -> Tensor:
        """The mean loss of some triplets of a batch, whose places are [b]."""

    def new_store(self, images: int) -> Tensor:
        """Room for the features of so many images: [G, Q, E]."""
        tokens = self.model.backbone.num_query_tokens
        shape = (images, tokens, self.model.embedding_width)
        return make_store(shape, device=self.device, folder=self.folder)

    def encode_images(self, names: Sequence[str], store: Tensor | None = None) -> Tensor:
        """The features of some training images: [G, Q, E], in the store if there is one."""
        source = self.dataset.source
        store = self.new_store(len(names)) if store is None else store
        workers = self.config.data.num_workers
        stream = batches(source, names, batch_size=AT_ONCE, num_workers=workers)
        starts = bar(range(0, len(names), AT_ONCE), desc="bank", leave=False)
        for start, images in zip(starts, stream, strict=True):
            with self.runs_on.autocast():
                found = self.model.encode_target(move(images, self.device))
            store[start : start + AT_ONCE] = found.to(store.device, torch.float16)
        return store

    def __call__(self, batch: Any) -> tuple[Tensor, dict[str, Tensor], Aux]:
        """Learn from B triplets. The parts of a batch need no other part."""
        tokens, total = self.tokenizer(batch.texts), len(batch.texts)
        self.optimizer.zero_grad()
        loss = torch.zeros((), device=self.device)
        for part in torch.arange(total).tensor_split(self.config.optim.accumulate):
            text = Tokens(*(each[part] for each in tokens)).to(self.device)
            share = self.part_loss(batch, part, text) * (len(part) / total)
            self.scaler.scale(share).backward()
            loss += share.detach()
        self._update(loss)
        return loss, {"loss_itc": loss}, {}
