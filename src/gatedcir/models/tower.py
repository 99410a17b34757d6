"""The vision tower of BLIP-2: an image -> outputs of its blocks.

Legend of shapes: B batch, L visual tokens, N layers, Dv vision width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gatedcir.multiscale.maps import resize, resize_positions, to_tokens
from gatedcir.multiscale.recompute import call
from gatedcir.multiscale.scale_sizes import scaled_size


class VisionTower(nn.Module):
    """A vision transformer that gives several of its layers, at several scales of the image.

    Args:
        vision_model: transformers' `Blip2VisionModel`.
        config: its `Blip2VisionConfig`.
    """

    def __init__(self, vision_model: nn.Module, config: Any) -> None:
        super().__init__()
        self.vision_model: Any = vision_model
        self.vision_config = config
        self.recompute = False  # the activations of the blocks, in the backward pass
        self.sources: tuple[str, ...] = ()  # names of weights that have this tower

    def resize(self, image_size: int) -> None:
        """Take images of another size: patch positions are interpolated, the CLS token's kept.

        The interpolation is bicubic, with the alignment that LAVIS uses for each tower.

        Raises:
            ValueError: the size is no positive multiple of the patch size.
        """
        vision, embeddings = self.vision_config, self.vision_model.embeddings
        if image_size < 1 or image_size % vision.patch_size:
            raise ValueError(f"{image_size} is no multiple of a patch's {vision.patch_size} px")
        new = image_size // vision.patch_size
        embeddings.position_embedding = nn.Parameter(self._positions(new).detach().clone())
        vision.image_size = embeddings.image_size = image_size
        embeddings.num_patches, embeddings.num_positions = new * new, new * new + 1

    def _positions(self, side: int) -> Tensor:
        """Position embeddings of a grid of `side` patches a side: [1, 1 + side * side, Dv]."""
        own = self.vision_model.embeddings.position_embedding
        return resize_positions(own, side, aligned=self.has_pre_layernorm)

    @property
    def has_pre_layernorm(self) -> bool:
        """Whether the vision tower is CLIP's."""
        return hasattr(self.vision_model, "pre_layernorm")

    @property
    def vision_width(self) -> int:
        """Dv."""
        return self.vision_config.hidden_size

    @property
    def image_size(self) -> int:
        """Side of the square input image in pixels."""
        return self.vision_config.image_size

    def token_count(self, scale: float = 1.0, *, image_size: int | None = None) -> int:
        """L of an image that is read at a scale. Without a size, it is as large as the tower's."""
        side = self._side(image_size or self.image_size, scale) // self.vision_config.patch_size
        return 1 + side * side

    def _side(self, image_size: int, scale: float) -> int:
        """Side in pixels at a scale, in whole patches."""
        patch = self.vision_config.patch_size
        return scaled_size((image_size, image_size), scale, patch)[0]

    def set_trainable(self, *, vision: bool) -> None:
        """Freeze or train the vision tower. Its last LayerNorm and all the rest always train."""
        for module in self.below_norm():
            module.requires_grad_(vision)

    def set_tower_dtype(self, dtype: torch.dtype) -> None:
        """Keep the vision tower's weights in a precision. Its last LayerNorm stays as it is."""
        for module in self.below_norm():
            module.to(dtype)

    def below_norm(self) -> list[nn.Module]:
        """The part that fine-tuning freezes: all of the vision tower below its last LayerNorm."""
        vision = self.vision_model
        before = [vision.pre_layernorm] if self.has_pre_layernorm else []
        return [vision.embeddings, *before, vision.encoder]

    def set_attention(self, implementation: str) -> None:
        """Choose transformers' attention function: "eager" or "sdpa"."""
        self.vision_model.set_attn_implementation(implementation)

    def check_layers(self, layers: Sequence[int]) -> list[int]:
        """Block indices as in a list, counted from the first block.

        Raises:
            ValueError: no layer, one that the tower does not have, or one twice.
        """
        count = len(self.vision_model.encoder.layers)
        found = [layer % count for layer in layers if -count <= layer < count]
        if not layers or len(set(found)) < len(layers):
            raise ValueError(
                f"{list(layers)} are not layers of a tower of {count} blocks, or name one twice"
            )
        return found

    def vision_levels(
        self, pixels: Tensor, layers: Sequence[int], *, scale: float = 1.0
    ) -> list[Tensor]:
        """Outputs of chosen blocks, before the last LayerNorm. Higher blocks are skipped.

        Args:
            pixels: [B, 3, H, W], normalised.
            layers: block indices as in a list, -1 the last.
            scale: the image is read at this multiple of its size, rounded to whole patches, with
                interpolated positions.

        Returns:
            One [B, L, Dv] tensor a layer, in the order asked for. L depends on the scale.

        Raises:
            ValueError: a layer that the tower does not have.
        """
        blocks = self.vision_model.encoder.layers
        wanted = self.check_layers(layers)
        hidden = self._embed(pixels, scale)  # [B, L, Dv]
        if self.has_pre_layernorm:
            hidden = self.vision_model.pre_layernorm(hidden)
        kept = {}
        for index, block in enumerate(blocks[: max(wanted) + 1]):
            hidden = call(block, hidden, recompute=self.recompute)
            if index in wanted:
                kept[index] = hidden
        return [kept[index] for index in wanted]

    def _embed(self, pixels: Tensor, scale: float) -> Tensor:
        """Patches and positions of the image at a scale: [B, L, Dv]."""
        embeddings, patch = self.vision_model.embeddings, self.vision_config.patch_size
        side = self._side(pixels.shape[-1], scale)
        if side == pixels.shape[-1] == self.image_size:
            return embeddings(pixels)
        weight = embeddings.patch_embedding.weight
        patches = embeddings.patch_embedding(resize(pixels, (side, side)).to(weight.dtype))
        tokens = to_tokens(embeddings.class_embedding.expand(pixels.shape[0], 1, -1), patches)
        return tokens + self._positions(side // patch).to(tokens.dtype)

    def normalise(self, level: Tensor) -> Tensor:
        """The tower's last LayerNorm (LAVIS' ln_vision): [B, L, Dv] -> [B, L, Dv]."""
        return self.vision_model.post_layernorm(level)
