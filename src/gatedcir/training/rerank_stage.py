"""The stage that trains the matcher: each target among the hardest images of the first stage.

All that the search uses stays as it is. The matcher is trained without the similarity of the
search, which already fits the training triplets and would leave it little to learn.

Source: Candidate Set Re-ranking (Liu et al., TMLR 2024).
Shapes: B triplets of a batch, b of a part of it, U distinct images, G training images, N hardest
images of a triplet, C = 1 + negatives + easy, Q query tokens, D Q-Former width, E embedding width.
"""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import default_collate

from gatedcir.models.retriever import ComposedRetriever
from gatedcir.models.text import Tokens
from gatedcir.progress import bar
from gatedcir.training.bank import bank_similarity
from gatedcir.training.health import remark_on_matcher
from gatedcir.training.later_step import AT_ONCE, LaterStep, LaterTriplets
from gatedcir.training.losses import CONTRASTS
from gatedcir.visual import Visual, move, take


class Judged(NamedTuple):
    """B triplets, each with its target and some wrong candidates."""

    images: Visual  # [U, ...]
    references: Tensor  # [B], which of the images
    candidates: Tensor  # [B, C], the same, the target first
    texts: list[str]


class JudgedTriplets(LaterTriplets):
    """Training triplets by the batch, with some of their hardest images drawn in every epoch.

    `easy` more wrong images are drawn from all. Among nearly equal images alone, a matcher may not
    start to learn: on synthetic garments its loss stayed that of a guess for an epoch.
    """

    def __init__(self, *args: Any, negatives: int, easy: int, **options: Any) -> None:
        super().__init__(*args, **options)
        self.negatives = min(negatives, len(self.images) - self.most_right)
        self.easy = min(easy, len(self.images) - self.most_right)
        self.hardest = torch.empty(0, dtype=torch.long)  # [triplets, N], rows of `images`

    def __getitem__(self, indices: list[int]) -> Judged:  # type: ignore[override]
        places: dict[str, int] = {}

        def place(name: str) -> int:
            return places.setdefault(name, len(places))

        references, candidates = [], []
        for index in indices:
            rng = random.Random(f"rerank/{self.seed}/{self.epoch}/{index}")
            drawn = rng.sample(range(self.hardest.shape[1]), self.negatives)
            names = [self.images[row] for row in self.hardest[index, drawn].tolist()]
            names += self._easy(index, rng)
            references.append(place(self.triplets[index].reference))
            candidates.append([place(name) for name in (self.target_of(index), *names)])
        return Judged(
            default_collate([self.source[name] for name in places]),
            torch.tensor(references),
            torch.tensor(candidates),
            [self.text_of(index) for index in indices],
        )

    def _easy(self, index: int, rng: random.Random) -> list[str]:
        """Wrong images of a triplet, drawn from all. One of the hardest may be among them too."""
        right = {self.target_of(index), *self.triplets[index].targets}
        drawn = rng.sample(self.images, min(self.easy + len(right), len(self.images)))
        return [name for name in drawn if name not in right][: self.easy]


class Matches(nn.Module):
    """The matcher as the one module that processes share."""

    def __init__(self, model: ComposedRetriever) -> None:
        super().__init__()
        self.model = model

    def forward(self, prompts: Tensor, text: Tokens, tokens: Tensor) -> Tensor:
        """As `ComposedRetriever.match`."""
        return self.model.match(prompts, text, tokens)


@dataclass(kw_only=True)
class RerankStep(LaterStep):
    """A step of the matcher."""

    def chance(self, compared: int) -> float:
        """The loss of a guess among the candidates of a triplet."""
        return super().chance(1 + self.dataset.negatives + self.dataset.easy)

    def remark(self, figures: Mapping[str, float], compared: int) -> str | None:
        """Whether the matcher has begun to tell the candidates apart."""
        easy = self.dataset.easy
        return remark_on_matcher(figures["loss"], chance=self.chance(compared), easy=easy)

    def encode(self, encoded: Mapping[str, Tensor]) -> None:
        """Search once, for the hardest images of every triplet. No right one is among them."""
        data = self.dataset
        if len(data.hardest):
            return
        now, data.epoch = data.epoch, 0  # a run that goes on later finds the same ones
        bank, hardest = self.encode_images(data.images), []
        most = bank.shape[0] - data.most_right
        count = min(max(self.config.recipe.rerank, data.negatives), most)
        for start in bar(range(0, len(data), AT_ONCE), desc="hardest", leave=False):
            some = range(start, min(start + AT_ONCE, len(data)))
            shown = default_collate([data.source[data.triplets[i].reference] for i in some])
            text = self.tokenizer([data.text_of(i) for i in some]).to(self.device)
            with self.runs_on.autocast():
                query = self.model.encode_query(move(shown, self.device), text)[0]
            scores = bank_similarity(query.float(), bank).cpu()  # [b, G]
            best = scores.scatter(1, data.right(some), -torch.inf).topk(count)
            hardest.append(best.indices)
        data.hardest, data.epoch = torch.cat(hardest), now

    def part_loss(self, batch: Judged, part: Tensor, text: Tokens) -> Tensor:
        """The contrast of each target with the other candidates of its triplet."""
        count = batch.candidates.shape[1]
        with self.runs_on.autocast():
            with torch.no_grad():
                tokens = self._tokens(batch.images, batch.references[part])
                prompts = self.model.prompts_of(tokens, text)
                shown = self._tokens(batch.images, batch.candidates[part].flatten())
            prompts = prompts.repeat_interleave(count, 0)
            text = Tokens(*(each.repeat_interleave(count, 0) for each in text))
            found = self.wrapped(prompts, text, shown).unflatten(0, (-1, count))  # [b, C]
        labels = torch.zeros(len(part), dtype=torch.long, device=self.device)
        return CONTRASTS[self.config.recipe.loss](found.float(), labels)

    def _tokens(self, images: Visual, places: Tensor) -> Tensor:
        """The token maps of some images of a batch, each of which is fused once."""
        used, back = places.unique(return_inverse=True)
        tokens = self.model.visual_tokens(move(take(images, used), self.device))[0]
        return tokens[back.to(self.device)]


def freeze(model: ComposedRetriever) -> None:
    """Let the matcher alone learn."""
    assert model.matcher is not None
    model.requires_grad_(False)
    model.matcher.requires_grad_(True)
