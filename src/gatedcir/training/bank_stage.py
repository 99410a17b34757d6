"""The second stage of training: queries against the features of all training images.

The features of the images stay as they are. Only what encodes queries is trained, and every query
sees all training images as negatives, not only those of its batch.

Source: SPN4CIR (Feng et al., ACM MM 2024).
Shapes: B triplets of a batch, b of a part of it, G images of the bank, Q query tokens, D Q-Former
width, E embedding width.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from gatedcir.data.batches import Batch, TripletDataset
from gatedcir.data.sources import batches
from gatedcir.models.retriever import ComposedRetriever
from gatedcir.models.text import Tokens
from gatedcir.progress import bar
from gatedcir.start import Aux
from gatedcir.training.bank import bank_similarity, make_store
from gatedcir.training.losses import weighted
from gatedcir.training.step import TrainingStep
from gatedcir.visual import Visual, move, take

_AT_ONCE = 64  # images or triplets that are encoded together without gradients


class BankTriplets(TripletDataset):
    """Training triplets by the batch, whose `target_ids` are rows of the bank.

    With `only_numbers`, a batch has no images, and its references are the triplets' own numbers.
    """

    def __init__(self, *args: Any, images: list[str], only_numbers: bool, **options: Any) -> None:
        super().__init__(*args, **options)
        self.images, self.only_numbers = images, only_numbers
        self.target_ids = {name: row for row, name in enumerate(images)}

    @property
    def reads_files(self) -> bool:
        """Whether worker processes help."""
        return not self.only_numbers and self.source.reads_files

    def __getitem__(self, indices: list[int]) -> Batch:
        rows = torch.tensor([self.target_ids[self._target(index)] for index in indices])
        texts = [self.text_of(index) for index in indices]
        if self.only_numbers:
            numbers = torch.tensor(indices)
            return Batch([], numbers, rows, texts, rows, self._weights(indices))
        places: dict[str, int] = {}
        names = [self.triplets[index].reference for index in indices]
        references = torch.tensor([places.setdefault(name, len(places)) for name in names])
        images = default_collate([self.source[name] for name in places])
        return Batch(images, references, rows, texts, rows, self._weights(indices))

    def text_of(self, index: int) -> str:
        """The text of a triplet in this epoch."""
        return self._text(index)


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
class BankStep(TrainingStep):
    """A step against the whole bank."""

    dataset: BankTriplets
    folder: Path
    """Where the features are kept that do not fit on a GPU."""
    bank: Tensor | None = None  # [G, Q, E]
    prompts: Tensor | None = None  # [triplets, Q, D], the first pass' outputs
    texts: list[str] = field(default_factory=list)  # of the triplets, as `prompts` has read them

    def chance(self, compared: int) -> float:
        """The loss of a model that guesses. It is compared with the bank, or its hardest images."""
        hardest = self.config.recipe.bank_hardest
        images = len(self.dataset.images)
        return super().chance(min(hardest + 1, images) if hardest else images)

    def prepare(self, epoch: int) -> None:
        """Encode what the epoch reads and nobody has encoded yet."""
        self.dataset.epoch = epoch
        training = self.model.training
        self.model.eval()
        if self.bank is None or self.model.query_branch is None:  # else nothing changes it
            self._encode_images()
        if self.dataset.only_numbers:
            self._encode_prompts()
        self.model.train(training)

    @torch.no_grad()
    def _encode_images(self) -> None:
        names, source = self.dataset.images, self.dataset.source
        shape = (len(names), self.model.backbone.num_query_tokens, self.model.embedding_width)
        if self.bank is None:
            self.bank = make_store(shape, device=self.device, folder=self.folder)
        workers = self.config.data.num_workers
        stream = batches(source, names, batch_size=_AT_ONCE, num_workers=workers)
        starts = bar(range(0, len(names), _AT_ONCE), desc="bank", leave=False)
        for start, images in zip(starts, stream, strict=True):
            with self.runs_on.autocast():
                found = self.model.encode_target(move(images, self.device))
            self.bank[start : start + _AT_ONCE] = found.to(self.bank.device, torch.float16)

    @torch.no_grad()
    def _encode_prompts(self) -> None:
        """The first pass of the triplets whose text is another one in this epoch."""
        triplets, source = self.dataset.triplets, self.dataset.source
        texts = [self.dataset.text_of(index) for index in range(len(triplets))]
        if self.prompts is None:
            backbone = self.model.backbone
            shape = (len(triplets), backbone.num_query_tokens, backbone.width)
            self.prompts = make_store(shape, device=self.device, folder=self.folder)
            changed = list(range(len(triplets)))
        else:
            changed = [i for i, text in enumerate(texts) if text != self.texts[i]]
        self.texts = texts
        for start in bar(range(0, len(changed), _AT_ONCE), desc="first pass", leave=False):
            some = changed[start : start + _AT_ONCE]
            images = default_collate([source[triplets[index].reference] for index in some])
            tokens = self.tokenizer([texts[index] for index in some]).to(self.device)
            with self.runs_on.autocast():
                found = self.model.encode_prompts(move(images, self.device), tokens)
            self.prompts[torch.tensor(some)] = found.to(self.prompts.device, torch.float16)

    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor], Aux]:
        """Learn from B triplets. The parts of a batch need no other part: the bank is the same."""
        tokens, total = self.tokenizer(batch.texts), len(batch.texts)
        self.optimizer.zero_grad()
        loss = torch.zeros((), device=self.device)
        for part in torch.arange(total).tensor_split(self.config.optim.accumulate):
            text = Tokens(*(each[part] for each in tokens)).to(self.device)
            own = batch.target_ids[part].to(self.device)
            weights = None if batch.weights is None else batch.weights[part].to(self.device)
            found = self._loss(self._shown(batch, part), text, own, weights)
            share = found * (len(part) / total)
            self.scaler.scale(share).backward()
            loss += share.detach()
        self._update()
        return loss, {"loss_itc": loss}, {}

    def _shown(self, batch: Batch, part: Tensor) -> Visual:
        """What the trained part reads of some triplets."""
        numbers = batch.references[part]
        if self.prompts is None:
            return move(take(batch.images, numbers), self.device)
        return self.prompts[numbers.to(self.prompts.device)].to(self.device)

    def _loss(self, shown: Visual, text: Tokens, own: Tensor, weights: Tensor | None) -> Tensor:
        """The contrast of b queries with the bank, of which row `own` [b] is right."""
        assert self.bank is not None
        with self.runs_on.autocast():
            query = self.wrapped(shown, text, are_prompts=self.prompts is not None)
        logits = bank_similarity(query.float(), self.bank) / self.model.temp  # [b, G]
        if hardest := self.config.recipe.bank_hardest:
            logits, own = hardest_only(logits, own, hardest)
        return weighted(self.config.recipe.loss, logits, own, weights)


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
