"""The processor of several input scales, with a tiny backbone whose work can be counted."""

import copy

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from gatedcir.multiscale.maps import resize
from gatedcir.multiscale.pyramids.multi_scale_input import (
    MultiScaleInputProcessor,
    ScaleSpecificProcessor,
)
from gatedcir.multiscale.pyramids.pyramid_backbones import create_backbone
from gatedcir.multiscale.pyramids.scale_integration import ABSI, HierarchicalScaleIntegration
from gatedcir.multiscale.pyramids.scale_selection import AdaptiveScaleSelector

CHANNELS = [8, 16]


class TinyBackbone(nn.Module):
    """Two levels, at 1/4 and 1/8; `calls` has the shape of every input."""

    def __init__(self, channels=CHANNELS):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, channels[0], 4, 4), nn.BatchNorm2d(channels[0]))
        self.second = nn.Sequential(nn.GELU(), nn.Conv2d(channels[0], channels[1], 2, 2))
        self.calls = []

    def forward(self, images):
        self.calls.append(tuple(images.shape))
        level = self.first(images)
        return [level, self.second(level)]


def make(kind=MultiScaleInputProcessor, seed=0, **settings):
    torch.manual_seed(seed)
    return kind(TinyBackbone(), CHANNELS, **settings).double()


def images_of(*size, batch=2):
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1)).double()


def shapes(maps):
    return [tuple(one.shape) for one in maps]


@pytest.mark.parametrize("hierarchical", [True, False])
def test_the_levels_are_fused_on_the_full_scale(hierarchical):
    processor = make(use_hierarchical=hierarchical)
    fused = processor(images_of(64, 96))
    assert shapes(fused) == [(2, 8, 16, 24), (2, 16, 8, 12)]
    backbone = processor.pyramids[0].backbone
    assert backbone.calls == [(2, 3, 64, 96), (2, 3, 32, 32), (2, 3, 96, 128)]
    kind = HierarchicalScaleIntegration if hierarchical else ABSI
    assert all(type(one) is kind for one in processor.integrations)


def test_the_values_are_those_of_the_parts():
    processor = make().eval()
    images = images_of(64, 64)
    backbone = processor.pyramids[0].backbone
    seen = [backbone(resize(images, (side, side))) for side in (32, 64, 96)]
    fused, predictions, levels = processor(images, return_loss_inputs=True, return_multi_scale=True)
    for i in range(3):
        torch.testing.assert_close(levels[i], seen[i])
        torch.testing.assert_close(predictions[i], processor.heads[i](seen[i][0]))
    for i in range(2):
        expected, _ = processor.integrations[i]([one[i] for one in seen])
        torch.testing.assert_close(fused[i], expected)


def test_what_is_asked_for_is_returned():
    processor, images = make().eval(), images_of(64, 64)
    fused, predictions, levels = processor(images, return_loss_inputs=True, return_multi_scale=True)
    torch.testing.assert_close(processor(images), fused)
    torch.testing.assert_close(processor(images, return_loss_inputs=True), (fused, predictions))
    torch.testing.assert_close(processor(images, return_multi_scale=True), (fused, levels))
    assert shapes(predictions) == [(2, 1, 8, 8), (2, 1, 16, 16), (2, 1, 24, 24)]


@pytest.mark.filterwarnings("ignore:scales .* both read an image")
@pytest.mark.parametrize("size", [(20, 20), (33, 70), (256, 320), (350, 350)])
def test_any_size_works(size):
    processor = make().eval()
    with torch.no_grad():
        fused = processor(images_of(*size, batch=1))
    height, width = (max(32, round(side / 32) * 32) for side in size)
    assert shapes(fused) == [
        (1, 8, height // 4, width // 4),
        (1, 16, height // 8, width // 8),
    ]


def test_a_pyramid_of_transformers_works_and_learns():
    torch.manual_seed(0)
    small = {"hidden_sizes": [8, 8, 16, 24], "depths": [1] * 4, "num_attention_heads": [1] * 4}
    backbone = create_backbone("pvt_v2_b2", **small)
    processor = MultiScaleInputProcessor(backbone, backbone.channels)
    fused = processor(torch.randn(2, 3, 64, 64))
    assert shapes(fused) == [(2, 8, 16, 16), (2, 8, 8, 8), (2, 16, 4, 4), (2, 24, 2, 2)]
    sum(one.square().sum() for one in fused).backward()
    assert all(one.grad is not None for one in backbone.parameters())


@pytest.mark.filterwarnings("ignore:scales .* both read an image")
def test_a_plain_function_is_a_backbone():
    def backbone(images):
        return [images[:, :1].repeat(1, 8, 1, 1)]

    processor = MultiScaleInputProcessor(backbone, [8]).double()
    assert shapes(processor(images_of(32, 32))) == [(2, 8, 32, 32)]


@pytest.mark.parametrize("hierarchical", [True, False])
def test_gradients_of_levels_and_loss_reach_every_parameter(hierarchical):
    processor = make(use_hierarchical=hierarchical)
    fused, predictions = processor(images_of(64, 64), return_loss_inputs=True)
    target = (images_of(64, 64)[:, :1] > 0).double()
    total, terms = processor.compute_loss(predictions, target, nn.BCEWithLogitsLoss())
    assert terms["total_loss"] == sum(terms[f"weighted_loss_scale_{i}"] for i in range(3))
    assert terms["weighted_loss_scale_2"] == 0.5 * terms["loss_scale_2"]
    assert terms["weighted_loss_scale_1"] == terms["loss_scale_1"]
    (total + sum(one.square().mean() for one in fused)).backward()
    for name, parameter in processor.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_the_warm_up_sees_the_full_scale_alone():
    processor = make(multi_scale=False, selector=AdaptiveScaleSelector()).eval()
    images, backbone = images_of(64, 64), processor.pyramids[0].backbone
    fused, predictions, levels = processor(images, return_loss_inputs=True, return_multi_scale=True)
    assert backbone.calls == [(2, 3, 64, 64)]
    torch.testing.assert_close(fused, backbone(images))
    torch.testing.assert_close(levels, [fused])
    torch.testing.assert_close(predictions, [processor.heads[1](fused[0])])
    total, terms = processor.compute_loss(predictions, images[:, :1], nn.MSELoss())
    assert total == terms["loss_scale_1"]
    backbone.calls.clear()
    processor.enable_multi_scale()
    with torch.enable_grad():
        processor(images)
    assert len(backbone.calls) == 3


def test_identity_start_goes_on_where_the_warm_up_ended():
    for hierarchical in (True, False):
        processor = make(start="identity", use_hierarchical=hierarchical, multi_scale=False).eval()
        before = processor(images_of(64, 64))
        processor.enable_multi_scale()
        torch.testing.assert_close(processor(images_of(64, 64)), before, rtol=0, atol=0)


def training_step(processor):
    """Everything that a step gives: levels, predictions, total, gradients, statistics."""
    images = images_of(64, 96).requires_grad_()
    fused, predictions = processor(images, return_loss_inputs=True)
    total, _ = processor.compute_loss(predictions, images.detach()[:, :1], nn.MSELoss())
    (total + sum(one.square().mean() for one in fused)).backward()
    gradients = [one.grad for one in processor.parameters()]
    return [*fused, *predictions, total, images.grad, *gradients, *processor.buffers()]


@pytest.mark.parametrize("hierarchical", [True, False])
@pytest.mark.parametrize("setting", ["sequential", "checkpointing"])
def test_recomputing_changes_no_result_and_no_gradient(setting, hierarchical):
    plain = make(use_hierarchical=hierarchical)
    other = make(use_hierarchical=hierarchical, **{setting: True})
    for one, two in zip(training_step(other), training_step(plain), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert len(plain.pyramids[0].backbone.calls) == 3
    # Again, from the last scale of the forward pass to the first.
    calls = other.pyramids[0].backbone.calls
    assert calls[3:] == calls[2::-1]


def test_recomputing_keeps_less():
    def kept(**settings):
        sizes = []

        def pack(tensor):
            sizes.append(tensor.numel() * tensor.element_size())
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            make(**settings)(images_of(64, 64))
        return sum(sizes)

    assert kept(checkpointing=True) < kept(sequential=True) < kept()


@pytest.fixture
def selector():
    """Bright images are seen at 0.5x too, dark ones at 1.5x."""
    module = AdaptiveScaleSelector()
    with torch.no_grad():
        module.layers[2].weight.copy_(torch.tensor([[1.0] * 3, [0.0] * 3, [-1.0] * 3]))
        module.layers[2].bias.zero_()
    return module.double()


def test_chosen_scales_alone_are_computed_at_inference(selector):
    processor = make(selector=selector).eval()
    backbone = processor.pyramids[0].backbone
    images = images_of(64, 64, batch=3)
    images[:2] += 1 - images[:2].mean((1, 2, 3), keepdim=True)
    images[2] -= 1 + images[2].mean()
    expected = processor(images)  # with gradients, all scales of all images
    assert [shape[0] for shape in backbone.calls] == [3, 3, 3]
    backbone.calls.clear()
    with torch.no_grad():
        found = processor(images)
        assert backbone.calls == [(3, 3, 64, 64), (2, 3, 32, 32), (1, 3, 96, 96)]
        torch.testing.assert_close(found, expected)
        backbone.calls.clear()
        torch.testing.assert_close(processor(images[:2]), [one[:2] for one in expected])
        assert backbone.calls == [(2, 3, 64, 64), (2, 3, 32, 32)]


def test_predictions_are_of_every_scale_chosen_or_not(selector):
    processor = make(selector=selector).eval()
    images = images_of(64, 64, batch=3)
    fused, predictions = processor(images, return_loss_inputs=True)
    with torch.no_grad():
        found, without_gradients = processor(images, return_loss_inputs=True)
    torch.testing.assert_close(found, fused)
    torch.testing.assert_close(without_gradients, predictions)


def test_the_selector_learns(selector):
    processor = make(selector=copy.deepcopy(selector))
    sum(one.square().sum() for one in processor(images_of(64, 64))).backward()
    gradient = processor.selector.layers[2].bias.grad
    assert (gradient != 0).tolist() == [True, False, True]  # 1.0x is not to be chosen


def test_another_backbone_for_each_scale():
    torch.manual_seed(0)
    backbones = [TinyBackbone([4, 6]), TinyBackbone(), TinyBackbone([8, 12])]
    processor = ScaleSpecificProcessor(backbones, [[4, 6], CHANNELS, [8, 12]]).double()
    fused, levels = processor(images_of(64, 64), return_multi_scale=True)
    assert shapes(fused) == [(2, 8, 16, 16), (2, 16, 8, 8)]
    assert [shapes(one)[1][1] for one in levels] == [16, 16, 16]
    assert [one.calls for one in backbones] == [[(2, 3, side, side)] for side in (32, 64, 96)]
    sum(one.square().sum() for one in fused).backward()
    for name, parameter in processor.pyramids.named_parameters():
        assert parameter.grad is not None, name
    addresses = [one.data_ptr() for one in processor.state_dict().values()]
    assert len(set(addresses)) == len(addresses)  # nothing is saved under two names


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scales": (1.5, 1.0)}, "ascend"),
        ({"scales": (1.0,)}, "at least 2"),
        ({"scale_weights": (1, 1)}, "scale_weights"),
        ({"selector": AdaptiveScaleSelector((1.0, 1.5))}, "a selector of"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


def test_wrong_backbones_are_refused():
    processor = MultiScaleInputProcessor(TinyBackbone(), [8, 24]).double()
    with pytest.raises(ValueError, match=r"have \[8, 16\] channels, not \[8, 24\]"):
        processor(images_of(64, 64))
    with pytest.raises(ValueError, match="2 backbones of 3 channels"):
        ScaleSpecificProcessor([TinyBackbone()] * 2, [CHANNELS] * 3)


def test_the_number_of_parameters_beside_pvt_v2_b2():
    with torch.device("meta"):
        backbone = create_backbone("pvt_v2_b2")
        processor = MultiScaleInputProcessor(backbone, backbone.channels)
    count = sum(one.numel() for one in processor.parameters())
    heads = 3 * (64 * 64 * 9 + 64 + 64 + 1)
    assert count == 24_849_856 + 8_863_000 + heads
