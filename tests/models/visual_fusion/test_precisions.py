"""Every fusion, and every part of the toolbox, in every precision that the machine computes in."""

import pytest
import torch
from torch import nn

from gatedcir.models.visual_fusion.fusion import VisualFusion
from gatedcir.models.visual_fusion.layers import LAYER_FUSIONS
from gatedcir.models.visual_fusion.necks import NECKS
from gatedcir.models.visual_fusion.scales import SCALE_FUSIONS
from gatedcir.multiscale.feature_fusion import FUSION_METHODS, FeatureFusion, ScaleFusion
from gatedcir.multiscale.level_fusion import Align
from gatedcir.multiscale.maps import resize, resize_positions
from gatedcir.multiscale.networks import MultiScaleModel, PyramidNetwork, UNet
from gatedcir.multiscale.pooling import (
    BINS,
    WINDOWS,
    MultiScalePooling,
    PyramidPooling,
    SpatialPyramidPooling,
)
from gatedcir.multiscale.pyramids.multi_scale_input import MultiScaleInputProcessor
from gatedcir.multiscale.pyramids.scale_alignment import DeformableScaleIntegration
from gatedcir.multiscale.pyramids.scale_integration import ABSI, HierarchicalScaleIntegration
from gatedcir.multiscale.pyramids.scale_selection import AdaptiveScaleSelector
from gatedcir.multiscale.rescaling import MODES, MultiScaleTransform, PyramidDownsample, Rescale

WIDTH = 16
HALVES = (torch.bfloat16, torch.float16)
PRECISIONS = (torch.float32, *HALVES)


def autocast(precision):
    return torch.autocast("cpu", dtype=precision, enabled=precision != torch.float32)


def check_one_step(module, loss_of):
    """Forward, backward and an update that would reach every weight. The weights stay."""
    learned = {name: weight for name, weight in module.named_parameters() if weight.requires_grad}
    module.zero_grad()
    loss = loss_of()
    loss.backward()
    assert loss.isfinite()
    unmoved = []
    for name, weight in learned.items():
        after = weight.detach() if weight.grad is None else weight.detach() - weight.grad
        assert after.isfinite().all(), name
        if torch.equal(after, weight):
            unmoved.append(name)
    # The gradient of a single number may cancel in half precision.
    assert not [name for name in unmoved if learned[name].numel() > 1]


@pytest.mark.parametrize("neck", NECKS)
@pytest.mark.parametrize("scale_fusion", SCALE_FUSIONS)
def test_every_combination_of_fusions_learns_in_one_step(scale_fusion, neck):
    scales = (1.0,) if scale_fusion == "none" else (0.5, 1.0)
    for layer_fusion in LAYER_FUSIONS:
        # No ReLU behind an average is silent for all images. `torch.manual_seed` costs a
        # millisecond more for GPUs.
        torch.default_generator.manual_seed(2)
        count = 1 if layer_fusion == "none" else 2
        module = VisualFusion(
            width=WIDTH,
            num_layers=count,
            scales=scales,
            scale_fusion=scale_fusion,
            layer_fusion=layer_fusion,
            neck=neck,
        )
        if not module.changes:
            continue
        nn.init.ones_(module.fuse.gain)  # else the stages rest in the first step
        sides = [round(4 * scale) for scale in scales for _ in range(count)]
        levels = [torch.randn(4, 1 + side * side, WIDTH) for side in sides]
        target = torch.randn(4, 17, WIDTH)
        for precision in PRECISIONS:

            def loss_of(module=module, levels=levels, target=target, precision=precision):
                with autocast(precision):
                    fused, _ = module(levels)
                return nn.functional.mse_loss(fused.float(), target, reduction="sum")

            check_one_step(module, loss_of)


def test_the_cases_are_all_five_hundred_and_four():
    assert len(LAYER_FUSIONS) * len(SCALE_FUSIONS) * len(NECKS) == 12 * 6 * 7 == 504


class Levels(nn.Module):
    """A backbone of two levels, at 1/8 and 1/16."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 8, 8), nn.Conv2d(8, 16, 2, 2)

    def forward(self, images):
        level = self.first(images)
        return [level, self.second(level)]


def processor(**settings):
    return MultiScaleInputProcessor(Levels(), [8, 16], (0.5, 1.0), **settings)


# Each part, and the shapes that it takes: one map, or a list of maps.
ONE, SEVERAL = (2, 8, 7, 6), [(2, 8, 7, 6), (2, 8, 4, 3), (2, 8, 9, 5)]
IMAGES = (2, 3, 64, 64)
TOOLBOX = {
    **{
        f"transform {mode}": (lambda mode=mode: MultiScaleTransform(mode=mode), ONE)
        for mode in MODES
    },
    **{f"rescale {mode}": (lambda mode=mode: Rescale(0.4, mode), ONE) for mode in MODES},
    "downsample": (PyramidDownsample, ONE),
    **{
        f"windows {kind}": (lambda kind=kind: MultiScalePooling(pool_type=kind), ONE)
        for kind in WINDOWS
    },
    **{
        f"bins {kind}": (lambda kind=kind: SpatialPyramidPooling(pool_type=kind), ONE)
        for kind in BINS
    },
    "pyramid pooling": (lambda: PyramidPooling(8, 5), ONE),
    "pyramid": (lambda: PyramidNetwork(8, 5, base_channels=4), ONE),
    "unet": (lambda: UNet(8, 5, [4, 8]), ONE),
    **{
        f"model {method}": (
            lambda method=method: MultiScaleModel(
                base_model=nn.Conv2d(8, 8, 1), fusion_method=method
            ),
            ONE,
        )
        for method in FUSION_METHODS
    },
    **{
        f"features {method}": (lambda method=method: FeatureFusion([8] * 3, 5, method), SEVERAL)
        for method in FUSION_METHODS
    },
    "scales": (lambda: ScaleFusion([0.5, 1.0, 1.5], 8, 5), SEVERAL),
    **{
        f"align {down}": (lambda down=down: Align(channels=[8] * 3, width=5, down=down), SEVERAL)
        for down in ("max", "antialias")
    },
    "absi": (lambda: ABSI(8), SEVERAL),
    "hierarchical": (lambda: HierarchicalScaleIntegration(8), SEVERAL),
    "deformable": (lambda: DeformableScaleIntegration(8), SEVERAL),
    "selector": (AdaptiveScaleSelector, IMAGES),
    "processor": (processor, IMAGES),
    "processor by attention": (lambda: processor(use_hierarchical=False), IMAGES),
    "processor that recomputes": (lambda: processor(sequential=True, checkpointing=True), IMAGES),
    "processor with a selector": (
        lambda: processor(selector=AdaptiveScaleSelector((0.5, 1.0))),
        IMAGES,
    ),
}


def tensors(output):
    """The tensors of an output and of what is nested in it."""
    if isinstance(output, torch.Tensor):
        return [output]
    nested = output.values() if isinstance(output, dict) else output
    return [tensor for part in nested for tensor in tensors(part)]


def made(name, dtype=torch.float32):
    """A part, its input, and the input's tensors."""
    torch.manual_seed(0)
    make, shapes = TOOLBOX[name]
    inputs = [torch.randn(shape) for shape in ([shapes] if isinstance(shapes, tuple) else shapes)]
    inputs = [one.to(dtype).requires_grad_() for one in inputs]
    return make().to(dtype), inputs[0] if isinstance(shapes, tuple) else inputs, inputs


@pytest.mark.parametrize("precision", HALVES, ids=str)
@pytest.mark.parametrize("whole", [False, True], ids=["autocast", "converted"])
@pytest.mark.parametrize("name", TOOLBOX)
def test_every_part_agrees_with_float32(name, whole, precision):
    part, given, _ = made(name)
    with torch.no_grad():
        expected = tensors(part(given))
    part, given, inputs = made(name, precision if whole else torch.float32)
    with autocast(precision if not whole else torch.float32):
        found = tensors(part(given))
    sum(one.float().square().sum() for one in found).backward()
    assert [one.shape for one in found] == [one.shape for one in expected]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.float(), other, atol=0.05, rtol=0.05)
        assert not whole or one.dtype == precision
    assert all(one.grad.isfinite().all() and one.grad.any() for one in inputs)
    reached = [weight.grad for weight in part.parameters() if weight.grad is not None]
    assert all(grad.isfinite().all() for grad in reached)
    assert reached or not list(part.parameters())


@pytest.mark.parametrize("precision", PRECISIONS, ids=str)
def test_the_processors_losses_reach_every_weight(precision):
    torch.manual_seed(0)
    part = processor(consistency=0.1)
    images, target = torch.randn(IMAGES), torch.rand(2, 1, 64, 64)

    def loss_of():
        with autocast(precision):
            levels, predictions = part(images, return_loss_inputs=True)
            loss, _ = part.compute_loss(predictions, target, nn.BCEWithLogitsLoss(reduction="sum"))
        return loss + sum(level.float().square().sum() for level in levels)

    check_one_step(part, loss_of)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(3, 3), (3, 9), (9, 9), (5, 5)])
@pytest.mark.parametrize("precision", [*PRECISIONS, torch.float64], ids=str)
def test_a_resized_map_is_float32s_rounded_once(mode, size, precision):
    torch.manual_seed(0)
    given = torch.randn(2, 3, 5, 5).to(precision)
    found = resize(given, size, mode=mode)
    assert found.dtype == precision
    smaller = min(size) < 5 and mode != "nearest"
    exact = given if precision == torch.float64 else given.float()
    options = {} if mode == "nearest" else {"align_corners": False, "antialias": smaller}
    expected = exact
    if size != (5, 5):
        expected = nn.functional.interpolate(exact, size=size, mode=mode, **options)
    if smaller or precision not in HALVES:
        assert torch.equal(found, expected.to(precision))
    else:
        torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("precision", HALVES, ids=str)
@pytest.mark.parametrize("side", [3, 9])
def test_positions_are_resized_in_half_precision(side, precision):
    torch.manual_seed(0)
    positions = torch.randn(1, 1 + 36, WIDTH).to(precision)
    for aligned in (False, True):
        found = resize_positions(positions, side, aligned=aligned)
        assert found.dtype == precision and found.shape == (1, 1 + side * side, WIDTH)
        expected = resize_positions(positions.float(), side, aligned=aligned)
        torch.testing.assert_close(found.float(), expected, atol=0.02, rtol=0.02)
