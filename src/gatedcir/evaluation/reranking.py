"""The first images of a ranking in the order of a slower and better judge.

Shapes: M queries, K kept, S members of an image group, N candidates, L visual tokens, Dv vision
width.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from gatedcir.benchmarks.ranks import Scores
from gatedcir.device import CPU, Device
from gatedcir.evaluation.ranking import Ranking
from gatedcir.models.retriever import ComposedRetriever
from gatedcir.models.text import Tokens
from gatedcir.visual import Visual, move

_AT_ONCE = 64  # candidates


class Asked(NamedTuple):
    """A query."""

    reference: str
    text: str


class Candidate(NamedTuple):
    """An image that a search has found."""

    name: str
    similarity: float
    """The search's."""


class Reranker(Protocol):
    """Judges the candidates of a query."""

    def rerank(self, query: Asked, candidates: Sequence[Candidate]) -> Scores:
        """A score for each candidate, [N]. Higher is better."""


@dataclass
class MatchReranker:
    """The model's own matcher, whose logit is added to twice the search's.

    The tokens of every image that it has seen stay in memory, in half precision.
    """

    model: ComposedRetriever
    tokenizer: Callable[[Sequence[str]], Tokens]
    read: Callable[[Sequence[str]], Visual]
    """Names of images -> a batch of them."""
    runs_on: Device = CPU
    search: float = 2.0
    """Weight of the search's similarity, divided by the temperature, next to the logit. Measured:
    with 1 to 3 the mean of scenes differs by 0.4 at most, and that of garments is best with 2."""
    _seen: dict[str, Tensor] = field(default_factory=dict)

    @torch.inference_mode()
    def rerank(self, query: Asked, candidates: Sequence[Candidate]) -> Scores:
        """As the protocol says."""
        names = [candidate.name for candidate in candidates]
        first = torch.tensor([candidate.similarity for candidate in candidates])
        with self.runs_on.autocast():
            text = self.tokenizer([query.text]).to(self.runs_on.device)
            prompts = self.model.prompts_of(self._tokens([query.reference]), text)
            found = torch.cat(
                [
                    self.model.match(
                        prompts.expand(len(some), -1, -1),
                        Tokens(*(part.expand(len(some), -1) for part in text)),
                        self._tokens(some),
                    )
                    for some in (names[i : i + _AT_ONCE] for i in range(0, len(names), _AT_ONCE))
                ]
            )
        search = self.search * first / self.model.temp.item()
        return (search + found.float().cpu()).numpy()

    def _tokens(self, names: Sequence[str]) -> Tensor:
        """The token maps of images: [N, L, Dv]."""
        if new := [name for name in dict.fromkeys(names) if name not in self._seen]:
            tokens = self.model.visual_tokens(move(self.read(new), self.runs_on.device))[0]
            self._seen |= zip(new, tokens.half().cpu().unbind(), strict=True)
        # On CPUs, autocast stacks no half floats.
        kept = torch.stack([self._seen[name].to(self.model.temp.dtype) for name in names])
        return kept.to(self.runs_on.device)


class Reranked(NamedTuple):
    """A reranked part of a split, and what it started from."""

    first: Ranking
    ranking: Ranking
    seconds: float


def reranked(
    ranking: Ranking,
    reranker: Reranker,
    *,
    top: int,
    text: Callable[[tuple[str, ...]], str],
) -> Reranked:
    """The first `top` images of each query, and the members of its group, in another order.

    The images behind them stay as they are. Equal scores are ordered by gallery index. The places
    keep the similarities of the first stage, which fall from one place to the next.

    Args:
        ranking: of the first stage.
        reranker: the judge.
        top: how many.
        text: captions -> the text of a query.
    """
    start = time.perf_counter()
    split = ranking.split
    images, members = ranking.images.copy(), ranking.member_similarity.copy()
    for row, triplet in enumerate(split.triplets):
        removed = ranking.references[row] if split.reference_removed else -1
        places = [p for p, i in enumerate(images[row]) if i >= 0 and i != removed][:top]
        known = dict(zip(images[row].tolist(), ranking.similarity[row].tolist(), strict=True))
        group = ranking.members[row]
        known |= dict(zip(group.tolist(), members[row].tolist(), strict=True))
        asked = {int(images[row, place]) for place in places}
        asked |= {int(i) for i in group if i >= 0 and i != removed}
        chosen = sorted(asked)
        found = reranker.rerank(
            Asked(triplet.reference, text(triplet.captions)),
            [Candidate(split.gallery[i], known[i]) for i in chosen],
        )
        scores = dict(zip(chosen, found.tolist(), strict=True))
        order = sorted((int(images[row, p]) for p in places), key=lambda i: (-scores[i], i))
        images[row, places] = order
        members[row] = [scores.get(int(i), -np.inf) for i in group]
    after = replace(ranking, images=images, member_similarity=members)
    return Reranked(ranking, after, time.perf_counter() - start)


@dataclass(frozen=True)
class Gain:
    """What reranking changed, and what it cost."""

    top: int
    """How many of the first images were judged."""
    before: dict[str, float]
    """Metrics of the search alone, in percent."""
    after: dict[str, float]
    """The same, reranked."""
    ceiling: float
    """The percentage of the queries whose target the search finds among those images."""
    milliseconds: float
    """Of a query, beyond the search."""

    @classmethod
    def of(
        cls,
        parts: Sequence[Reranked],
        metrics: Callable[[list[Ranking]], dict[str, float]],
        *,
        top: int,
    ) -> "Gain":
        """That of the parts of a split."""
        ranks = np.concatenate([part.first.target_ranks for part in parts])
        top = min(top, max(len(part.first.split.gallery) for part in parts))
        return cls(
            top=top,
            before=metrics([part.first for part in parts]),
            after=metrics([part.ranking for part in parts]),
            ceiling=100 * float(np.mean(ranks < top)),
            milliseconds=1000 * sum(part.seconds for part in parts) / len(ranks),
        )


def format_gain(gain: Gain) -> str:
    """Gain, cost and ceiling as a table and two lines."""
    width = max(map(len, gain.before))
    rows = [
        f"  {name:<{width}}  {before:6.2f}  {after:6.2f}  {after - before:+6.2f}"
        for name, before, after in ((n, v, gain.after[n]) for n, v in gain.before.items())
    ]
    return "\n".join(
        [
            f"reranked: the first {gain.top} of each query",
            f"  {'':<{width}}   first  rerank    gain",
            *rows,
            f"  the first stage finds {gain.ceiling:.2f}% among its first {gain.top}, "
            "which no reranking exceeds",
            f"  {gain.milliseconds:.1f} ms a query",
        ]
    )
