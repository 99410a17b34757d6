"""Read an image only at the scales that it needs.

Shapes: B batch, L visual tokens of a scale, S scales, Dv vision width.
"""

from collections.abc import Callable, Sequence

from torch import Tensor


def read_chosen(
    pixels: Tensor,
    scales: Sequence[float],
    read: Callable[[Tensor, float], list[Tensor]],
    choose: Callable[[list[Tensor]], Tensor],
    shape: Callable[[float], tuple[int, int]],
) -> list[list[Tensor]]:
    """The levels of every scale. Scale 1.0 is read for all images, the others for some.

    Args:
        pixels: [B, 3, H, W].
        scales: S of them, 1.0 among them.
        read: images at a scale -> their levels, each [B, L, Dv].
        choose: the levels of 1.0 -> [B, S], which scales each image needs.
        shape: L and Dv of a scale.

    Returns:
        For each scale its levels. They are zero for the images that do not need it.
    """
    base = read(pixels, 1.0)
    needed = choose(base)
    found = []
    for place, scale in enumerate(scales):
        if scale == 1:
            found.append(base)
            continue
        some = needed[:, place]
        part = read(pixels[some], scale) if some.any() else []
        whole = [base[0].new_zeros(len(pixels), *shape(scale)) for _ in part or base]
        for level, values in zip(whole, part, strict=False):
            level[some] = values
        found.append(whole)
    return found
