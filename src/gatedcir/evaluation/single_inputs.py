"""What one half of a query finds alone, and how much better the whole query is.

Many queries of published data sets are answered by their text alone (Baldrati et al., CIRCO, ICCV
2023, and Liu et al., CIRR, ICCV 2021, look at this). One half solves 32 to 84% of them (CIRCUS,
2026). A model that uses both halves has to be better than the better half. The difference is the
Composition Gap of CIRCUS.
"""

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from gatedcir.evaluation.evaluator import Evaluator, QueryEncoder
from gatedcir.evaluation.query_statistics import wilson
from gatedcir.evaluation.results import Results, ranks_of
from gatedcir.visual import Visual

IMAGE, TEXT = "image-only", "text-only"
CUTOFFS = (1, 10)


def single_inputs(evaluator: Evaluator) -> dict[str, QueryEncoder]:
    """Encoders of queries that see one half. Both give features of the model itself.

    image-only: the mean of the reference's target features. text-only: the text branch that the
    prompt loss trains.
    """
    model = evaluator.model

    def image_only(images: Visual, texts: list[str]) -> Tensor:
        return F.normalize(model.encode_target(images).mean(1), dim=-1)

    def text_only(images: Visual, texts: list[str]) -> Tensor:
        return model.encode_text(evaluator.tokenizer(texts).to(evaluator.device))

    return {IMAGE: image_only, TEXT: text_only}


def composition_gap(
    model: Sequence[Results], image: Sequence[Results], text: Sequence[Results]
) -> dict[str, Any]:
    """By cutoff: recall of the model and of each half, and what the model adds.

    Args:
        model: what the model finds. Of one that reranks: what its search finds.
        image: what the reference alone finds.
        text: what the text alone finds.

    Returns:
        `recall_at1`, ...: a dict with `model`, `image-only` and `text-only` (recalls in percent),
        `gap` (the model minus the better half), `solved_alone` (the percentage of queries that one
        half finds alone, with its Wilson interval), `remainder` (the model's recall on the other
        queries; None if there are none) and `remainder_count`. All parts count together.
    """
    ranks = {
        name: ranks_of(parts)["rank"]
        for name, parts in (("model", model), (IMAGE, image), (TEXT, text))
    }
    found: dict[str, Any] = {}
    for k in CUTOFFS:
        hits = {name: each < k for name, each in ranks.items()}
        recalls = {name: 100 * float(each.mean()) for name, each in hits.items()}
        alone = hits[IMAGE] | hits[TEXT]
        rest = hits["model"][~alone]
        found[f"recall_at{k}"] = {
            **recalls,
            "gap": recalls["model"] - max(recalls[IMAGE], recalls[TEXT]),
            "solved_alone": 100 * float(alone.mean()),
            "solved_alone_interval": list(wilson(int(alone.sum()), len(alone))),
            "remainder": 100 * float(rest.mean()) if len(rest) else None,
            "remainder_count": len(rest),
        }
    return found
