"""Let the modification text change the reference image's tokens before the Q-Former reads them.

Shapes: B batch, L visual tokens, T text tokens, D text width, Dv vision width.
"""

from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatedcir.start import Aux, Start, zero


def change_figures(update: Tensor, delta: Tensor) -> Aux:
    """The figures of a change [B, L, Dv] and of its direction [B, L or 1, Dv], without a graph.

    `change_map` [B, L] is the change's size at each token, the mean over its channels. `change` is
    the mean of it. `delta` is the direction as it is.
    """
    size = update.detach().abs()
    return {"change": size.mean(), "change_map": size.mean(-1), "delta": delta.detach()}


def changed_by_words(
    image: Tensor, *, alpha: Tensor, gate: Tensor, delta: Tensor, attention: Tensor
) -> tuple[Tensor, Aux]:
    """Image + alpha * gate * delta, all [B, L, Dv], and aux.

    aux is what a fusion reports whose places attend to the words, by `attention` [B, L, T].
    """
    update = alpha * gate * delta
    aux = {
        "gate": gate,
        "alpha": alpha.detach(),
        **change_figures(update, delta),
        "text_attention": attention.detach(),
    }
    return image + update, aux


def masked_mean(tokens: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens that count: [B, T, D], [B, T] -> [B, D].

    >>> masked_mean(torch.tensor([[[2.0], [4.0], [9.0]]]), torch.tensor([[1, 1, 0]]))
    tensor([[3.]])
    """
    weights = mask.to(tokens.dtype)[..., None]  # [B, T, 1]
    return (tokens * weights).sum(1) / weights.sum(1).clamp(min=1)


class TextFusion(nn.Module):
    """The base class of the strategies: the projected mean text, and its direction of change.

    `start="identity"` zeroes the last layer of the direction. The fused tokens then equal the
    image's at step 0, and a pretrained Q-Former sees tokens that it knows. A subclass whose aux
    has a `gate` says so by `has_gate`.
    """

    has_gate = False

    def __init__(
        self, vision_width: int, text_width: int, *, dropout: float = 0.1, start: Start = "seed"
    ) -> None:
        super().__init__()
        self.text_projection = (
            nn.Identity() if text_width == vision_width else nn.Linear(text_width, vision_width)
        )
        self.delta_net = nn.Sequential(
            nn.Linear(vision_width, vision_width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(vision_width, vision_width),
            nn.Tanh(),
        )
        if start == "identity":
            zero(self.delta_net[-2])

    def forward(self, image: Tensor, text: Tensor, text_mask: Tensor) -> tuple[Tensor, Aux]:
        """Fuse [B, L, Dv] with [B, T, D], of which [B, T] counts.

        Returns:
            [B, L, Dv], and aux: `change`, the mean absolute difference to the image (a scalar);
            `change_map` [B, L], the same at each token; `delta` [B, 1, Dv], its direction;
            `gate` [B, L, Dv] in [0, 1] and `alpha` (a scalar) where the strategy has them.
        """
        mean_text = self.text_projection(masked_mean(text, text_mask))  # [B, Dv]
        delta = self.delta_net(mean_text)[:, None]  # [B, 1, Dv] in [-1, 1]
        update, aux = self.update(image, mean_text, delta)
        return image + update, {**change_figures(update, delta), **aux}

    @abstractmethod
    def update(self, image: Tensor, mean_text: Tensor, delta: Tensor) -> tuple[Tensor, Aux]:
        """The change that is added to the image: [B, L, Dv], and aux."""


class _Gate(nn.Module):
    """sigmoid(MLP([image; text])) in [0, 1]: how much to change, per position and channel.

    The image is normalised first, inside the branch. The residual path therefore stays untouched.
    The first layer's text half is applied once per text instead of once per position.
    """

    def __init__(self, width: int, *, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(2 * width, width)
        self.rest = nn.Sequential(
            nn.GELU(), nn.Dropout(dropout), nn.Linear(width, width), nn.Sigmoid()
        )

    def forward(self, image: Tensor, mean_text: Tensor) -> Tensor:
        """[B, L, Dv], [B, Dv] -> [B, L, Dv]."""
        for_image, for_text = self.first.weight.chunk(2, dim=1)
        from_text = F.linear(mean_text, for_text, self.first.bias)[:, None]  # [B, 1, Dv]
        return self.rest(F.linear(self.norm(image), for_image) + from_text)


class GatedFusion(TextFusion):
    """Strategy A: image + alpha * gate * delta, alpha learned.

    Related work: gated multimodal units (Arevalo et al. 2017), FiLM (Perez et al. 2018) and TIRG
    (Vo et al. 2019).
    """

    has_gate = True

    def __init__(
        self,
        vision_width: int,
        text_width: int,
        *,
        alpha_init: float = 0.5,
        dropout: float = 0.1,
        start: Start = "seed",
    ) -> None:
        super().__init__(vision_width, text_width, dropout=dropout, start=start)
        self.gate = _Gate(vision_width, dropout=dropout)
        self.alpha = nn.Parameter(torch.tensor(float(alpha_init)))

    def update(self, image: Tensor, mean_text: Tensor, delta: Tensor) -> tuple[Tensor, Aux]:
        """Alpha * gate * delta."""
        gate = self.gate(image, mean_text)  # [B, L, Dv]
        return self.alpha * gate * delta, {"gate": gate, "alpha": self.alpha.detach()}


class GatedFusionModule(GatedFusion):
    """`GatedFusion` as the design document calls it: one tensor in, one tensor out.

    It has the weights and the arithmetic of `GatedFusion`. Only the call is shorter.

    >>> gated_fusion = GatedFusionModule(hidden_size=768)
    >>> image_embeds, text_embeds = torch.randn(2, 257, 768), torch.randn(2, 12, 768)
    >>> gated_fusion(image_embeds, text_embeds).shape
    torch.Size([2, 257, 768])

    Args:
        hidden_size: width of the image's tokens.
        text_width: width of the text's tokens; by default the same.
        options: `alpha_init`, `dropout` and `start` of `GatedFusion`.
    """

    def __init__(self, hidden_size: int, text_width: int | None = None, **options: Any) -> None:
        super().__init__(hidden_size, text_width or hidden_size, **options)

    def forward(
        self,
        image: Tensor,
        text: Tensor,
        text_mask: Tensor | None = None,
        *,
        return_aux: bool = False,
    ) -> Any:
        """Fuse [B, L, Dv] with [B, T, D], of which [B, T] counts, by default all.

        Returns:
            [B, L, Dv]. With `return_aux` the pair of `TextFusion.forward`.
        """
        if text_mask is None:
            text_mask = torch.ones(text.shape[:2], dtype=torch.long, device=text.device)
        fused, aux = super().forward(image, text, text_mask)
        return (fused, aux) if return_aux else fused


def tokens_and_aux(
    fusion: nn.Module, image: Tensor, text: Tensor, text_mask: Tensor
) -> tuple[Tensor, Aux]:
    """The pair of any fusion, also of one that gives it only if asked, or gives tokens alone."""
    asked = {"return_aux": True} if isinstance(fusion, GatedFusionModule) else {}
    found = fusion(image, text, text_mask, **asked)
    return found if isinstance(found, tuple) else (found, {})


class AdditiveFusion(TextFusion):
    """Strategy B: image + alpha * delta. The change is the same everywhere, without a gate."""

    def __init__(
        self,
        vision_width: int,
        text_width: int,
        *,
        alpha_init: float = 0.5,
        dropout: float = 0.1,
        start: Start = "seed",
    ) -> None:
        super().__init__(vision_width, text_width, dropout=dropout, start=start)
        self.alpha = nn.Parameter(torch.tensor(float(alpha_init)))

    def update(self, image: Tensor, mean_text: Tensor, delta: Tensor) -> tuple[Tensor, Aux]:
        """Alpha * delta at every position."""
        return (self.alpha * delta).expand_as(image), {"alpha": self.alpha.detach()}


class InterpolatingFusion(TextFusion):
    """Strategy C: gate * (image + delta) + (1 - gate) * image.

    This equals image + gate * delta: strategy A with alpha fixed at 1. `alpha_init` has no effect.
    It is accepted because all strategies take the same keywords.
    """

    has_gate = True

    def __init__(
        self,
        vision_width: int,
        text_width: int,
        *,
        alpha_init: float = 1.0,
        dropout: float = 0.1,
        start: Start = "seed",
    ) -> None:
        super().__init__(vision_width, text_width, dropout=dropout, start=start)
        self.gate = _Gate(vision_width, dropout=dropout)

    def update(self, image: Tensor, mean_text: Tensor, delta: Tensor) -> tuple[Tensor, Aux]:
        """Gate * delta."""
        gate = self.gate(image, mean_text)  # [B, L, Dv]
        return gate * delta, {"gate": gate}


class NoFusion(nn.Module):
    """The image as it is: the published baseline. It takes the others' arguments and uses none."""

    has_gate = False

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def forward(self, image: Tensor, text: Tensor, text_mask: Tensor) -> tuple[Tensor, Aux]:
        """Shapes as in `TextFusion.forward`. Aux is empty."""
        return image, {}
