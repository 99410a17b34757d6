"""The options of the recipes: what is done to the triplets, the loss and the weights of a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from gatedcir.options.marks import Range, Seldom

Rerank = Annotated[
    int,
    Range(0),
    tyro.conf.arg(
        help="How many of the first images of a search are put into a better order, by a model "
        "with a trained matcher. 0: none."
    ),
]

RerankedBy = Annotated[
    str | None,
    tyro.conf.arg(
        name="reranker",
        metavar="NAME",
        help="A cross-encoder of sentence-transformers that reads images and texts, by its name on "
        "the hub or its folder. It orders the first images in place of the model's own matcher.",
    ),
]


@dataclass(frozen=True)
class RecipeConfig:
    """Ways to a better number that stand next to the model's own options."""

    loss: Literal["itc", "rcl"] = "itc"
    """Form of the contrastive terms. itc: cross-entropy, as published. rcl: the robust
    complementary loss, which trusts no single triplet. The temperature then stays at 0.01 or more.
    """
    noise: Seldom[Annotated[float, Range(0, below=1)]] = 0.0
    """Share of the training triplets whose targets are exchanged among them, by --seed. It shows
    what a recipe is worth on bad data. Every report says so."""
    stage: Literal["whole", "bank", "rerank"] = "whole"
    """What is trained. whole: the model, against the targets of each batch. bank: only what encodes
    queries, against the features of all training images (--from RUN). rerank: what judges the first
    images of a search again (--from RUN)."""
    from_run: Annotated[Path | None, tyro.conf.arg(aliases=("--from",))] = None
    """The run whose model, data and transform a later stage goes on with. Flags win over them."""
    bank_temperature: Seldom[Annotated[float, Range(0, below=0.5)]] = 0.05
    """Temperature at which the bank stage starts, as published. 0: that of the run."""
    bank_hardest: Seldom[Annotated[int, Range(0)]] = 0
    """How many images of the bank a query is contrasted with, those that it finds most similar. 0:
    all of them."""
    ema: Annotated[float, Range(0, below=1)] = 0.0
    """Decay of averages of the weights over the steps, such as 0.999. They are validated too, and
    take the place of the weights in the best checkpoint and in the tables where they are better.
    0: no averages."""
    rerank: Rerank = 50
    rerank_negatives: Seldom[Annotated[int, Range(1)]] = 7
    """How many wrong images of its first --rerank a triplet sees in a step of the rerank stage."""
    rerank_easy: Seldom[Annotated[int, Range(0)]] = 0
    """How many wrong images of all training images it sees too. They help where the first images
    are nearly alike, so that the matcher's loss stays that of a guess."""
    extra_captions: tuple[Path, ...] = ()
    """JSON files with further triplets of the training images, in the published form of extensions
    of CIRR (reference, target_hard, caption) or FashionIQ (candidate, target, captions)."""
    extra_weight: Annotated[float, Range(0)] = 1.0
    """Weight of each of those triplets in the loss. One of the data set has the weight 1."""


STAGE_OF = {
    "bank_temperature": "bank",
    "bank_hardest": "bank",
    "rerank_negatives": "rerank",
    "rerank_easy": "rerank",
}
"""Options that have an effect in one stage only -> that stage."""
