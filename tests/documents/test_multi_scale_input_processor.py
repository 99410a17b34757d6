"""The design document "MultiScaleInputProcessor", section by section, as its reader types it.

Its `models.multi_scale_processor`, `models.backbone` and `models.deformable_conv` are all
`gatedcir.multiscale` here. Networks are those of the document, images smaller.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from gatedcir.multiscale import (
    AdaptiveScaleSelector,
    DecoderModule,
    DeformableConv2d,
    DeformableScaleIntegration,
    MultiScaleInputProcessor,
    ScaleSpecificProcessor,
    create_backbone,
)
from gatedcir.multiscale.pyramids.multi_scale_input import SIZE_MULTIPLE
from gatedcir.multiscale.scale_sizes import scaled_size

WIDTHS = [64, 128, 320, 512]
SMALL = [8, 16, 16, 32]


def small_backbone():
    """A `pvt_v2` of one block a level."""
    sizes = {"hidden_sizes": SMALL, "depths": [1] * 4, "num_attention_heads": [1, 2, 2, 4]}
    return create_backbone("pvt_v2_b2", **sizes)


@pytest.fixture
def processor():
    return small_processor()


def small_processor(**settings):
    torch.manual_seed(0)
    return MultiScaleInputProcessor(backbone=small_backbone(), channels_list=SMALL, **settings)


def test_input_generation():
    """Section "Multi-Scale Input Generation", with the sizes of "Complete Processing Flow"."""
    sizes = [scaled_size((352, 352), scale, SIZE_MULTIPLE)[0] for scale in (0.5, 1.0, 1.5)]
    assert sizes == [
        160,
        352,
        512,
    ]  # half of 352 is 5.5 times 32, and the smaller multiple is taken
    assert scaled_size((20, 20), 0.5, SIZE_MULTIPLE) == (32, 32)


def test_example_1_basic_usage():
    backbone = create_backbone("pvt_v2_b2", pretrained=False)
    processor = MultiScaleInputProcessor(
        backbone=backbone,
        channels_list=[64, 128, 320, 512],
        scales=[0.5, 1.0, 1.5],
        use_hierarchical=True,
    ).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        fused_features = processor(x)
    assert isinstance(fused_features, list)
    assert [tuple(f.shape) for f in fused_features] == [
        (1, width, side, side) for width, side in zip(WIDTHS, (16, 8, 4, 2), strict=True)
    ]


def test_example_2_training_with_scale_aware_loss(processor):
    optimizer = torch.optim.SGD(processor.parameters(), lr=0.1)
    x = torch.randn(4, 3, 64, 64)
    fused_features, scale_predictions = processor(x, return_loss_inputs=True)
    assert len(fused_features) == 4
    target = torch.randint(0, 2, (4, 1, 64, 64)).float()
    criterion = nn.BCEWithLogitsLoss()
    total_loss, loss_dict = processor.compute_loss(scale_predictions, target, criterion)
    total_loss.backward()
    optimizer.step()
    for name in ("loss_scale_0", "loss_scale_1", "loss_scale_2", "total_loss"):
        assert float(f"{loss_dict[name]:.4f}") > 0
    parts = [loss_dict[f"loss_scale_{i}"] for i in range(3)]
    torch.testing.assert_close(loss_dict["total_loss"], 0.5 * parts[0] + parts[1] + 0.5 * parts[2])


@pytest.mark.parametrize(("height", "width"), [(64, 64), (96, 64), (100, 70)])
def test_example_3_variable_input_sizes(height, width, processor):
    x = torch.randn(1, 3, height, width)
    features = processor.eval()(x)
    sides = scaled_size((height, width), 1.0, SIZE_MULTIPLE)
    assert [tuple(f.shape) for f in features] == [
        (1, c, sides[0] // step, sides[1] // step)
        for c, step in zip(SMALL, (4, 8, 16, 32), strict=True)
    ]


class CamoXpertMultiScale(nn.Module):
    """Example 4, with a smaller backbone."""

    def __init__(self):
        super().__init__()
        self.backbone = small_backbone()
        self.multi_scale_processor = MultiScaleInputProcessor(
            backbone=self.backbone, channels_list=SMALL, scales=[0.5, 1.0, 1.5]
        )
        self.decoder = DecoderModule(dims=SMALL)
        self.head = nn.Conv2d(SMALL[0], 1, 1)

    def forward(self, x, target=None):
        if self.training and target is not None:
            features, scale_preds = self.multi_scale_processor(x, return_loss_inputs=True)
            criterion = nn.BCEWithLogitsLoss()
            ms_loss, _ = self.multi_scale_processor.compute_loss(scale_preds, target, criterion)
        else:
            features = self.multi_scale_processor(x)
            ms_loss = None
        decoded = self.decoder(features)
        output = self.head(decoded)
        if self.training:
            return output, ms_loss
        return output


def test_example_4_integration_with_full_model():
    torch.manual_seed(0)
    model = CamoXpertMultiScale()
    x, target = torch.randn(2, 3, 64, 64), torch.randint(0, 2, (2, 1, 64, 64)).float()
    output, ms_loss = model(x, target)
    assert output.shape == (2, 1, 16, 16)
    (output.square().mean() + ms_loss).backward()
    assert all(one.grad is not None for one in model.parameters())
    assert model.eval()(x).shape == (2, 1, 16, 16)


def test_example_4_the_decoder_of_the_documents_widths():
    with torch.device("meta"):
        decoder = DecoderModule(dims=[64, 128, 320, 512])
        levels = [torch.empty(1, c, 88 // 2**i, 88 // 2**i) for i, c in enumerate(WIDTHS)]
        assert decoder(levels).shape == (1, 64, 88, 88)


def test_example_5_visualization(processor, tmp_path, monkeypatch):
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    x = torch.randn(1, 3, 64, 64)
    _, multi_scale_features = processor(x, return_multi_scale=True)
    fig, axes = plt.subplots(3, 4, figsize=(16, 12))
    for scale_idx, features in enumerate(multi_scale_features):
        for level_idx, feat in enumerate(features):
            feat_vis = feat[0, 0].detach().cpu().numpy()
            axes[scale_idx, level_idx].imshow(feat_vis, cmap="viridis")
            axes[scale_idx, level_idx].set_title(
                f"Scale {processor.scales[scale_idx]}× | Level {level_idx + 1}"
            )
            axes[scale_idx, level_idx].axis("off")
    plt.tight_layout()
    plt.savefig("multi_scale_features.png")
    plt.close(fig)
    assert (tmp_path / "multi_scale_features.png").stat().st_size > 1000


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scales", [[0.5, 1.0, 1.5], [0.5, 0.75, 1.0, 1.25, 1.5], [1.0, 1.5]])
def test_best_practices_1_scales_to_choose(scales):
    """ "Scale Selection", and the fewer scales of "Out of Memory"."""
    features = small_processor(scales=scales).eval()(torch.randn(1, 3, 128, 128))
    assert features[0].shape == (1, 8, 32, 32)


def test_best_practices_1_scales_to_avoid():
    with (
        pytest.warns(UserWarning, match=r"scales 0\.9 and 1\.0 are too similar"),
        pytest.warns(UserWarning, match=r"scales 1\.0 and 1\.1 are too similar"),
    ):
        small_processor(scales=[0.9, 1.0, 1.1])
    with pytest.warns(
        UserWarning, match=r"scales 0\.5 and 0\.75 both read .* 64x64 pixels at 32x32"
    ):
        small_processor(scales=[0.5, 0.75, 1.0])(torch.randn(2, 3, 64, 64))


@pytest.mark.parametrize("weights", [[0.5, 1.0, 0.5], [0.3, 0.7, 1.0], [1.0, 0.7, 0.3]])
def test_best_practices_2_weight_tuning(weights):
    processor = small_processor(scale_weights=weights)
    predictions = [torch.full((1, 1, 2, 2), float(value)) for value in (1, 2, 3)]
    total, _ = processor.compute_loss(predictions, torch.zeros(1, 1, 2, 2), nn.L1Loss())
    assert total.item() == pytest.approx(
        sum(w * v for w, v in zip(weights, (1, 2, 3), strict=True))
    )


def test_best_practices_3_memory_optimization(processor):
    """The checkpoint of the whole processor, and the scales one after the other."""
    processor.eval()
    x = torch.randn(2, 3, 64, 64)
    expected = processor(x)
    found = checkpoint(processor, x, use_reentrant=False)
    sequential = small_processor(sequential=True).eval()
    for one, other, third in zip(expected, found, sequential(x), strict=True):
        assert torch.equal(one, other)
        assert torch.equal(one, third)
    found[0].sum().backward()
    assert processor.integrations[0].stages[0].mix.weight.grad.abs().sum() > 0


def test_best_practices_4_training_strategy():
    processor = small_processor(multi_scale=False).eval()
    x = torch.randn(1, 3, 64, 64)
    warm = processor(x)
    output = processor.pyramids[0].backbone(x)
    assert all(torch.equal(a, b) for a, b in zip(warm, output.feature_maps, strict=True))
    processor.enable_multi_scale()
    assert not torch.equal(processor(x)[0], warm[0])


def test_troubleshooting_out_of_memory():
    """`MultiScaleInputProcessor(use_hierarchical=True)`: the backbone of Example 1 by default."""
    with torch.device("meta"):
        processor = MultiScaleInputProcessor(use_hierarchical=True)
    assert [one.channels for one in processor.integrations] == WIDTHS
    with pytest.raises(ValueError, match="does not name its channels: give channels_list"):
        MultiScaleInputProcessor(lambda images: [images])


def test_troubleshooting_slow_training(processor):
    x = torch.randn(1, 3, 128, 128)
    x_resized = F.interpolate(x, scale_factor=0.75)
    assert processor.eval()(x_resized)[0].shape == (1, 8, 24, 24)
    with torch.autocast("cpu", torch.bfloat16):
        features = processor(x)
    assert all(one.isfinite().all() for one in features)


def test_troubleshooting_inconsistent_predictions(processor):
    """The loss of consistency by hand is the option's."""
    consistent = small_processor(consistency=1.0, scale_weights=[0.7, 1.0, 0.7])
    x, target = torch.randn(2, 3, 64, 64), torch.zeros(2, 1, 64, 64)
    _, predictions = consistent(x, return_loss_inputs=True)
    _, terms = consistent.compute_loss(predictions, target, nn.BCEWithLogitsLoss())
    pred_10x = predictions[1]
    size = pred_10x.shape[-2:]
    consistency_loss = nn.L1Loss()
    by_hand = [
        consistency_loss(
            F.interpolate(one, size, mode="bilinear", antialias=one.shape[-1] > size[-1]), pred_10x
        )
        for one in (predictions[0], predictions[2])
    ]
    torch.testing.assert_close(terms["consistency_loss"], sum(by_hand).detach() / 2)


def test_extensions_1_adaptive_scale_selection():
    """`active_scales` gives the lists of the document, one for each image; 1.0 always stays."""
    selector = AdaptiveScaleSelector()
    active = selector.active_scales(torch.randn(4, 3, 32, 32))
    assert len(active) == 4
    assert all(1.0 in scales and {*scales} <= {0.5, 1.0, 1.5} for scales in active)


def test_extensions_2_deformable_multi_scale():
    class Integration(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.deform_conv = DeformableConv2d(channels, channels, kernel_size=3)

        def forward(self, scale_features):
            aligned = [self.deform_conv(f) for f in scale_features]
            return sum(aligned)

    scale_features = [torch.randn(1, 4, 6, 6) for _ in range(3)]
    document, own = Integration(4), DeformableScaleIntegration(4)
    document.deform_conv.load_state_dict(own.align_conv.state_dict())
    fused, _ = own(scale_features)  # with the residual to the 1.0x map
    torch.testing.assert_close(fused, scale_features[1] + document(scale_features))


def test_extensions_3_scale_specific_backbones():
    with torch.device("meta"):
        processor = ScaleSpecificProcessor().eval()
        fused = processor(torch.empty(1, 3, 64, 64))
    kinds = [type(one.backbone).__name__ for one in processor.pyramids]
    assert kinds == ["ResNetBackbone", "PvtV2Backbone", "EfficientNetPyramid"]
    assert [one.shape[1] for one in fused] == WIDTHS


@pytest.mark.parametrize("name", ["pvt_v2_b2", "resnet50", "efficientnet"])
def test_shared_backbone_every_name_of_the_document(name):
    with torch.device("meta"):
        assert len(create_backbone(name).channels) == 4


def test_shared_backbone_any_function_of_images():
    """Any function of images that gives a list of maps is a backbone, such as a model of timm."""
    levels = nn.ModuleList(nn.Conv2d(3, 4, step, step) for step in (4, 8))
    processor = MultiScaleInputProcessor(lambda x: [one(x) for one in levels], [4, 4])
    assert processor(torch.randn(1, 3, 64, 64))[0].shape == (1, 4, 16, 16)
