"""Maps of several levels into one, by a function of their list alone.

`concat_fusion([c3, c4, c5])` reads the widths off the maps, aligns the maps and fuses them. Each
call makes new random weights, like the functions of the design document. For training, make the
weights once: `fuse = ListFusion([c3, c4, c5])`, then `fuse([c3, c4, c5])` at every step.
Shapes: B batch, C_i channels of the i-th map, H and W height and width of the first map.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from gatedcir.multiscale.level_fusion import (
    ChannelAttentionFusion,
    ConcatFusion,
    WeightedSumFusion,
    match_size,
)
from gatedcir.multiscale.maps import check_name

Channels = Literal["first", "last"]
LIST_FUSIONS: dict[str, Callable[..., nn.Module]] = {
    "concat": ConcatFusion,
    "weighted-sum": WeightedSumFusion,
    "channel-attention": ChannelAttentionFusion,
}


class ListFusion(nn.Module):
    """Maps like the ones that it is made with into one map of the first one's size.

    Maps grow bilinearly and shrink by their largest values. Where a fusion adds maps, a 1x1
    convolution brings each one that differs to the first one's width.

    Args:
        maps: an example, from which widths, precision and device are read.
        fusion: a key of `LIST_FUSIONS`.
        channels: "first" for maps [B, C, H, W], "last" for maps [B, H, W, C].
        options: of the fusion: `reduced` of "concat", `sum_channels` of "channel-attention".

    Raises:
        ValueError: there is no map, or a name is unknown.
    """

    def __init__(
        self,
        maps: Sequence[Tensor],
        fusion: str = "concat",
        *,
        channels: Channels = "first",
        **options: Any,
    ) -> None:
        super().__init__()
        check_name("fusion of a list", fusion, LIST_FUSIONS)
        check_name("place of the channels", channels, ("first", "last"))
        if not maps:
            raise ValueError("the list of maps is empty: there must be a map to fuse")
        self.channels = channels
        widths = [one.shape[1 if channels == "first" else -1] for one in maps]
        adds = fusion != "concat" and not options.get("sum_channels")
        aligned = [widths[0]] * len(widths) if adds else widths
        self.projections = nn.ModuleList(
            nn.Identity() if before == after else nn.Conv2d(before, after, 1)
            for before, after in zip(widths, aligned, strict=True)
        )
        self.fusion = LIST_FUSIONS[fusion](channels=aligned, **options)
        self.to(maps[0].device, maps[0].dtype)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """One [B, C_i, H_i, W_i] a level -> [B, C, H, W], or the same with the channels last."""
        last = self.channels == "last"
        found = [one.movedim(-1, 1) for one in maps] if last else maps
        height, width = found[0].shape[-2:]
        aligned = [
            project(match_size(one, (height, width)))
            for project, one in zip(self.projections, found, strict=True)
        ]
        fused = self.fusion(aligned)[0]
        return fused.movedim(1, -1) if last else fused


def concat_fusion(
    maps: Sequence[Tensor], *, reduced: int = 64, channels: Channels = "first"
) -> Tensor:
    """Each map through a 1x1 convolution and ReLU to `reduced` channels, then side by side.

    >>> import torch
    >>> c3, c4, c5 = (torch.randn(1, 8 * 2**i, 16 // 2**i, 16 // 2**i) for i in range(3))
    >>> concat_fusion([c3, c4, c5]).shape
    torch.Size([1, 192, 16, 16])
    """
    return ListFusion(maps, "concat", channels=channels, reduced=reduced)(maps)


def weighted_sum_fusion(maps: Sequence[Tensor], *, channels: Channels = "first") -> Tensor:
    """The maps added, each times a weight in (0, 1) from its own average."""
    return ListFusion(maps, "weighted-sum", channels=channels)(maps)


def channel_attention_fusion(
    maps: Sequence[Tensor], *, sum_channels: bool = False, channels: Channels = "first"
) -> Tensor:
    """The maps added, every channel weighed by one softmax over the channels of all of them.

    With `sum_channels` all weighted channels are added up into a single one.
    """
    fusion = ListFusion(maps, "channel-attention", channels=channels, sum_channels=sum_channels)
    return fusion(maps)


# The functions of the design document by their own names, with TensorFlow's order of the axes.
fusion_concatenation = partial(concat_fusion, channels="last")
fusion_weighted_sum = partial(weighted_sum_fusion, channels="last")
fusion_attention = partial(channel_attention_fusion, sum_channels=True, channels="last")
