"""What a batch of triplets becomes: the features that the losses read.

Shapes: B batch, L visual tokens, Q query tokens, D Q-Former width, E embedding width.
"""

from typing import NamedTuple

from torch import Tensor

from gatedcir.start import Aux


class Encoded(NamedTuple):
    """What the losses of a batch read. Queries, texts and targets have norm 1."""

    query: Tensor  # [B, E], reference and text
    text: Tensor  # [B, E], prompts and text without the image
    targets: Tensor  # [B, Q, E]
    fusion_mean: Tensor  # [B, D], mean of the fusion pass' outputs
    prompt_mean: Tensor  # [D], mean of the prompts, detached
    aux: Aux  # the fusions' gates, weights and figures, and the gate's lesson to be logged
    by_scale: dict[float, tuple[Tensor, Tensor]]  # query and targets from each scale alone
    gate: Tensor | None = None  # [B, L - 1], the gate's mean over channels at every patch, or the
    # change's size there, whichever is taught
    gate_target: Tensor | None = None  # [B, L - 1], what it should be
