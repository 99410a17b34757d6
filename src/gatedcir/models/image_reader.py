"""An image -> the token map that the Q-Former reads.

Shapes: B batch, L visual tokens, N layers, S scales, Dv vision width.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gatedcir.models.backbone import Backbone
from gatedcir.models.scale_towers import ScaleTowers
from gatedcir.models.tower import VisionTower
from gatedcir.models.visual_fusion.chosen import read_chosen
from gatedcir.models.visual_fusion.fusion import VisualFusion
from gatedcir.start import Aux
from gatedcir.visual import Visual


class ImageReader(nn.Module):
    """The vision towers, and the fusion of their layers and scales.

    Args:
        backbone: the pretrained parts.
        layers: blocks of the vision tower whose outputs are read, -1 the last.
        scales: multiples of the image's size at which the tower reads it.
        also: blocks whose outputs are needed at scale 1.0, besides those. They come behind all
            scales, if they are others.
        visual_fusion: makes one token map of all of these; see `VisualFusion`.
        scale_towers: the towers that read some scales in place of the backbone's.
        sequential: in training, keep the tower's activations for one scale at a time.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        layers: Sequence[int],
        scales: Sequence[float],
        also: Sequence[int],
        visual_fusion: VisualFusion | None,
        scale_towers: ScaleTowers,
        sequential: bool,
    ) -> None:
        super().__init__()
        self.backbone, self.scale_towers = backbone, scale_towers
        self.layers, self.scales = tuple(layers), tuple(scales)
        self.visual_fusion = (
            VisualFusion(width=backbone.vision_width) if visual_fusion is None else visual_fusion
        )
        self.sequential = sequential
        self.single_scale = False
        """Whether scale 1.0 alone is read, as in a warm-up. As with `train()`, it is not saved."""
        base = self.tower(1.0)
        self._blocks = base.check_layers(self.layers)
        further = base.check_layers(also) if also else []
        self.more_layers = tuple(layer for layer in further if layer not in self._blocks)
        self._first = self.scales.index(1.0) * len(self.layers)  # the place of scale 1.0

    def places_of(self, layers: Sequence[int]) -> list[int]:
        """Where blocks stand in the output of `levels`, at scale 1.0."""
        behind = len(self.layers) * len(self.scales)
        place_of = {layer: self._first + n for n, layer in enumerate(self._blocks)}
        place_of |= {layer: behind + n for n, layer in enumerate(self.more_layers)}
        return [place_of[layer] for layer in self.tower(1.0).check_layers(layers)]

    def feature_bytes(self, dtype: torch.dtype) -> int:
        """Size in memory of the output of `levels` for one image."""
        return sum(length * width for length, width in self.level_shapes()) * dtype.itemsize

    def tower(self, scale: float) -> VisionTower:
        """The vision tower that reads a scale."""
        return self.scale_towers.tower(scale, self.backbone)

    @property
    def towers(self) -> list[VisionTower]:
        """All vision towers, the backbone's first."""
        return [self.backbone, *self.scale_towers.towers]

    def level_shape(self, scale: float) -> tuple[int, int]:
        """L and Dv of the vision tower's outputs at a scale."""
        tower = self.tower(scale)
        length = tower.token_count(scale, image_size=self.backbone.image_size)
        return length, tower.vision_width

    def level_shapes(self) -> list[tuple[int, int]]:
        """L and Dv of each output of `levels`."""
        found = [self.level_shape(scale) for scale in self.scales for _ in self.layers]
        return found + [self.level_shape(1.0)] * len(self.more_layers)

    def levels(self, visual: Visual, *, chosen: bool = False) -> list[Tensor]:
        """The vision tower's outputs that the model reads, before its last LayerNorm.

        All layers of the first scale come first, then those of the next. The outputs that only the
        gate's target needs come last. With `single_scale` all scales have the outputs of 1.0.
        `chosen` skips the scales that an image does not need. Its outputs are then zero, which
        changes no feature.

        Under autocast they have its type, although the tower's residual stream keeps its own.
        Outputs that are computed on the fly then equal those that were cached in half the memory.
        """
        if not isinstance(visual, Tensor):
            return visual
        if self.single_scale:
            each = [self._read_at(visual, 1.0)] * len(self.scales)
        elif chosen and self.visual_fusion.chooses_scales:
            each = read_chosen(visual, self.scales, self._read_at, self._needed, self.level_shape)
        else:
            each = [self._read_at(visual, scale) for scale in self.scales]
        count, main = len(self.layers), each[self.scales.index(1.0)]
        return [level for of_scale in each for level in of_scale[:count]] + main[count:]

    def _read_at(self, pixels: Tensor, scale: float) -> list[Tensor]:
        """The tower's pass over one scale. With `sequential` the backward pass repeats it."""
        layers = (*self.layers, *self.more_layers) if scale == 1 else self.layers
        read = partial(self.tower(scale).vision_levels, layers=layers, scale=scale)
        if self.sequential and torch.is_grad_enabled():
            found = checkpoint(read, pixels, use_reentrant=False)
        else:
            found = read(pixels)
        kind = pixels.device.type
        if torch.is_autocast_enabled(kind):
            found = [level.to(torch.get_autocast_dtype(kind)) for level in found]
        return found

    def scales_needed(self, levels: list[Tensor]) -> Tensor:
        """Which scales each image needs: the output of `levels` -> bool [B, S]."""
        return self._needed(levels[self._first :])

    def _needed(self, base: list[Tensor]) -> Tensor:
        return self.visual_fusion.choose(self._normalised(base[:1], 1.0)[0])

    def normalised_levels(self, visual: Visual) -> list[Tensor]:
        """The visual fusion's input: after the last LayerNorm, in the Q-Former's precision.

        With `single_scale` it holds the layers of scale 1.0 alone.
        """
        count, first = len(self.layers), self._first if self.single_scale else 0
        read, found = self.levels(visual), []
        for place, scale in enumerate((1.0,) if self.single_scale else self.scales):
            start = first + place * count
            found += self._normalised(read[start : start + count], scale)
        if self.single_scale and self.scale_towers.places:
            found[0] = found[0] + self.scale_towers.at_rest(self.backbone)
        return found

    def _normalised(self, levels: list[Tensor], scale: float) -> list[Tensor]:
        normalise, project = self.tower(scale).normalise, self.scale_towers.project
        return [
            project(normalise(level.to(self.backbone.query_tokens.dtype)), scale)
            for level in levels
        ]

    def visual_tokens(self, visual: Visual) -> tuple[Tensor, Aux]:
        """The one token map that the Q-Former reads: [B, L, Dv], and the visual fusion's aux."""
        return self.visual_fusion(self.normalised_levels(visual))
