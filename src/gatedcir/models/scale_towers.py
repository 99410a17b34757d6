"""A vision tower for each scale of the image, and what takes their outputs to one width.

Shapes: B batch, L visual tokens of a scale, Dv vision width.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gatedcir.models.tower import VisionTower

KEY = "scale_towers"  # of the towers' sizes, next to those of BLIP-2 in a checkpoint


class ScaleTowers(nn.Module):
    """The towers other than the backbone's own one. By default there are none.

    Several scales may share a tower. A tower of another width than the backbone's has a learned
    projection, which starts with random weights.

    Args:
        towers: each once.
        places: for each scale that one of them reads, its place in `towers`. The backbone's own
            tower reads the other scales.
        width: Dv of the backbone.
    """

    def __init__(
        self,
        towers: Sequence[VisionTower] = (),
        places: Mapping[float, int] | None = None,
        *,
        width: int = 0,
    ) -> None:
        super().__init__()
        self.places = dict(places or {})
        self.towers = nn.ModuleList(towers)
        self.projections = nn.ModuleList(
            nn.Identity() if one.vision_width == width else nn.Linear(one.vision_width, width)
            for one in towers
        )

    def tower(self, scale: float, own: VisionTower) -> VisionTower:
        """The tower that reads a scale."""
        found = self.towers[self.places[scale]] if scale in self.places else own
        assert isinstance(found, VisionTower)
        return found

    def project(self, level: Tensor, scale: float) -> Tensor:
        """A normalised level of a scale, as wide as the backbone's: [B, L, Dv]."""
        if scale not in self.places:
            return level
        return self.projections[self.places[scale]](level).to(level.dtype)

    def sizes(self) -> dict[str, Any]:
        """What `towers_of` needs to make the same towers again. Empty if there are none."""
        if not self.places:
            return {}
        vision = [one.vision_config.to_dict() for one in self.towers]  # type: ignore[operator,union-attr]
        return {KEY: {"vision": vision, "places": self.places}}

    def at_rest(self, own: VisionTower) -> Tensor:
        """Zero, with a gradient of zero for all towers, for steps that read some of them only."""
        weights = (*own.vision_model.parameters(), *self.parameters())
        return 0 * torch.stack([weight.sum() for weight in weights if weight.requires_grad]).sum()
