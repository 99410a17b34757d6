"""The second stage of training: queries against the features of all training images.

The features of the images stay as they are. Only what encodes queries is trained, and every query
sees all training images as negatives, not only those of its batch.

Source: SPN4CIR (Feng et al., ACM MM 2024).
Shapes: B triplets of a batch, b of a part of it, G images of the bank, g of this process's part,
Q query tokens, D Q-Former width, E embedding width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from gatedcir.models.retriever import ComposedRetriever
from gatedcir.models.text import Tokens
from gatedcir.progress import bar
from gatedcir.training.bank import make_store, own_part, similarity_to_all, whole_bank
from gatedcir.training.later_step import AT_ONCE, LaterStep, LaterTriplets
from gatedcir.training.losses import weighted
from gatedcir.visual import Visual, move, take


class BankBatch(NamedTuple):
    """B triplets, whose targets are rows of the bank."""

    images: Visual  # [U, ...]. Empty if the first pass is kept
    references: Tensor  # [B], which of the images. If the first pass is kept: the triplets' numbers
    right: Tensor  # [B, R], this epoch's target first
    texts: list[str]
    weights: Tensor | None  # [B]. None: each counts once


class BankTriplets(LaterTriplets):
    """Training triplets by the batch. With `only_numbers`, a batch has no images."""

    def __init__(self, *args: Any, only_numbers: bool, **options: Any) -> None:
        super().__init__(*args, **options)
        self.only_numbers = only_numbers

    @property
    def reads_files(self) -> bool:
        """Whether worker processes help."""
        return not self.only_numbers and self.source.reads_files

    def __getitem__(self, indices: list[int]) -> BankBatch:  # type: ignore[override]
        right, texts = self.right(indices), [self.text_of(index) for index in indices]
        if self.only_numbers:
            return BankBatch([], torch.tensor(indices), right, texts, self._weights(indices))
        places: dict[str, int] = {}
        names = [self.triplets[index].reference for index in indices]
        references = torch.tensor([places.setdefault(name, len(places)) for name in names])
        images = default_collate([self.source[name] for name in places])
        return BankBatch(images, references, right, texts, self._weights(indices))


class Queries(nn.Module):
    """The part of the model that is trained, as one module, which processes can share."""

    def __init__(self, model: ComposedRetriever) -> None:
        super().__init__()
        self.model = model

    def forward(self, shown: Visual, text: Tokens, *, are_prompts: bool) -> Tensor:
        """Prompts [b, Q, D] or references, and texts -> [b, E]."""
        if are_prompts:
            assert isinstance(shown, Tensor)
            return self.model.query_of(shown.to(self.model.temp.dtype), text)
        return self.model.encode_query(shown, text)[0]


@dataclass(kw_only=True)
class BankStep(LaterStep):
    """A step against the whole bank."""

    bank: Tensor | None = None  # [g, Q, E], this process's part
    prompts: Tensor | None = None  # [triplets, Q, D], the first pass' outputs
    texts: list[str] = field(default_factory=list)  # of the triplets, as `prompts` has read them

    def chance(self, compared: int) -> float:
        """The loss of a model that guesses. It is compared with the bank, or its hardest images."""
        hardest = self.config.recipe.bank_hardest
        images = len(self.dataset.images)
        return super().chance(min(hardest + 1, images) if hardest else images)

    def encoded(self) -> dict[str, Tensor]:
        """The bank of all processes, if the weights that make it are trained."""
        if self.bank is None or not self._changes:
            return {}
        return {"bank": whole_bank(self.bank, len(self.dataset.images), self.device)}

    @property
    def _changes(self) -> bool:
        """Whether training changes the bank."""
        return self.model.query_branch is None

    def encode(self, encoded: Mapping[str, Tensor]) -> None:
        """The bank, and the first pass of the triplets whose text is another one in this epoch."""
        images = self.dataset.images
        part = own_part(len(images))
        if "bank" in encoded:
            own = encoded["bank"][part]
            self.bank = self.new_store(len(own)).copy_(own)
        elif self.bank is None or self._changes:
            self.bank = self.encode_images(images[part], self.bank)
        if self.dataset.only_numbers:
            self._encode_prompts()

    def _encode_prompts(self) -> None:
        triplets, source = self.dataset.triplets, self.dataset.source
        texts = [self.dataset.text_of(index) for index in range(len(triplets))]
        if self.prompts is None:
            backbone = self.model.backbone
            shape = (len(triplets), backbone.num_query_tokens, backbone.width)
            self.prompts = make_store(shape, device=self.device, folder=self.folder)
        # The same triplets always go together, so that a run that goes on has the same features.
        parts = [range(i, min(i + AT_ONCE, len(texts))) for i in range(0, len(texts), AT_ONCE)]
        known = self.texts
        changed = [p for p in parts if not known or any(texts[i] != known[i] for i in p)]
        self.texts = texts
        for some in bar(changed, desc="first pass", leave=False):
            images = default_collate([source[triplets[index].reference] for index in some])
            tokens = self.tokenizer([texts[index] for index in some]).to(self.device)
            with self.runs_on.autocast():
                found = self.model.encode_prompts(move(images, self.device), tokens)
            self.prompts[torch.tensor(some)] = found.to(self.prompts.device, torch.float16)

    def part_loss(self, batch: BankBatch, part: Tensor, text: Tokens) -> Tensor:
        """The contrast of b queries with the bank."""
        assert self.bank is not None
        with self.runs_on.autocast():
            query = self.wrapped(
                self._shown(batch, part), text, are_prompts=self.prompts is not None
            )
        images = len(self.dataset.images)
        logits = similarity_to_all(query.float(), self.bank, images) / self.model.temp  # [b, G]
        right = batch.right[part].to(self.device)
        logits, own = without_other_right(logits, right), right[:, 0]
        if hardest := self.config.recipe.bank_hardest:
            logits, own = hardest_only(logits, own, hardest)
        weights = None if batch.weights is None else batch.weights[part].to(self.device)
        return weighted(self.config.recipe.loss, logits, own, weights)

    def _shown(self, batch: BankBatch, part: Tensor) -> Visual:
        """What the trained part reads of some triplets."""
        numbers = batch.references[part]
        if self.prompts is None:
            return move(take(batch.images, numbers), self.device)
        return self.prompts[numbers.to(self.prompts.device)].to(self.device)


def without_other_right(logits: Tensor, right: Tensor) -> Tensor:
    """Logits [b, G] in which no right image [b, R] counts as wrong, -inf for all but the first.

    >>> without_other_right(torch.tensor([[1.0, 4.0, 3.0]]), torch.tensor([[2, 1]]))
    tensor([[1., -inf, 3.]])
    """
    others = torch.zeros_like(logits, dtype=torch.bool).scatter(1, right, True)
    return logits.masked_fill(others.scatter(1, right[:, :1], False), -torch.inf)


def hardest_only(logits: Tensor, own: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Each query's own column first, then the `count` highest others: [b, G] -> [b, 1 + count].

    >>> hardest_only(torch.tensor([[1.0, 4.0, 3.0, 2.0]]), torch.tensor([2]), 2)
    (tensor([[3., 4., 2.]]), tensor([0]))
    """
    right = logits.gather(1, own[:, None])
    others = logits.scatter(1, own[:, None], -torch.inf)
    wrong = others.topk(min(count, logits.shape[1] - 1)).values
    return torch.cat([right, wrong], 1), torch.zeros_like(own)


def trained_parts(model: ComposedRetriever) -> list[nn.Module]:
    """What the stage trains: all that encodes queries and no images."""
    branch = model.query_branch
    if branch is None:  # the images' own Q-Former, whose bank is then made again in every epoch
        return [model.backbone.qformer, model.backbone.text_projection, model.fusion]
    return [branch, model.fusion] if branch.first else [branch]


def freeze(model: ComposedRetriever) -> None:
    """Let only the queries' part and the temperature learn."""
    model.requires_grad_(False)
    for module in trained_parts(model):
        module.requires_grad_(True)
    model.temp.requires_grad_(True)
