"""The design document "Dynamic Multi-Scale Fusion", section by section, as its reader types it."""

from inspect import Parameter, signature

import pytest
import torch
from torch.nn import functional as F

from gatedcir.multiscale import DynamicMultiScaleFusion
from gatedcir.multiscale.dynamic_fusion import DynamicLayerFusion


@pytest.fixture
def features_list():
    """Layers -1 and -4: B 3, L 12 (four rows of three places), D 8."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(3, 12, 8, generator=generator) for _ in range(2)]


def make(**settings):
    torch.manual_seed(0)
    return DynamicMultiScaleFusion(encoder_output_size=8, **settings).eval()


def test_implementation_details_the_constructor():
    """Section "Implementation Details", first block."""
    document = list(signature(DynamicMultiScaleFusion).parameters.values())[:4]
    assert {one.name: one.default for one in document} == {
        "encoder_output_size": Parameter.empty,
        "num_layers": 2,
        "fusion_dim": None,
        "use_gate": True,
    }
    module = DynamicMultiScaleFusion(8, 2, 16, False)
    assert (module.encoder_output_size, module.num_layers, module.fusion_dim) == (8, 2, 16)
    assert make().fusion_dim == 8
    assert not hasattr(module, "gate_generators")


def document_forward(self, features_list, *, product):
    """Section "Implementation Details", second block, in its own words.

    Its code gates the features and leaves the global weights out. Its formulas multiply both.
    """
    global_features = [torch.mean(features, dim=1) for features in features_list]
    global_weights = F.softmax(self.context_encoder(torch.cat(global_features, dim=-1)), dim=-1)
    weighted = []
    for i, features in enumerate(features_list):
        layer_weight = global_weights[:, i : i + 1, None]
        if not self.use_gate:
            weighted.append(features * layer_weight.expand_as(features))
            continue
        gated = features * torch.sigmoid(self.gate_generators[i](features))
        weighted.append(gated * layer_weight if product else gated)
    return self.fusion_projection(sum(weighted))


@pytest.mark.parametrize(
    ("settings", "product"),
    [({}, True), ({"combine": "gate_only"}, False), ({"use_gate": False}, False)],
)
def test_implementation_details_the_forward_pass(settings, product, features_list):
    """`combine="gate_only"` is the code of the document, the default its formulas."""
    module = make(**settings)
    fused_features = module(features_list)
    assert isinstance(fused_features, torch.Tensor)
    expected = document_forward(module, features_list, product=product)
    torch.testing.assert_close(fused_features, expected)


@pytest.mark.parametrize("fusion_dim", [None, 5])
def test_feature_fusion_the_output_has_the_width_asked_for(fusion_dim, features_list):
    """Section "Feature Fusion": D_out, by default D."""
    assert make(fusion_dim=fusion_dim)(features_list).shape == (3, 12, fusion_dim or 8)


def test_visualizing_fusion_weights(features_list):
    """Section "Visualizing Fusion Weights": weights, gates, and their product is what counts."""
    module = make()
    fused, found = module(features_list, return_weights=True)
    assert torch.equal(fused, module(features_list))
    weights, gates = found["layer_weights"], found["layer_gates"]
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    assert gates.shape == (3, 2, 12)
    torch.testing.assert_close(found["layer_shares"], weights[..., None] * gates)
    added = sum(found["layer_shares"][:, i, :, None] * one for i, one in enumerate(features_list))
    torch.testing.assert_close(fused, module.fusion_projection(added))


@pytest.mark.parametrize("settings", [{"use_gate": False}, {"combine": "gate_only"}])
def test_visualizing_fusion_weights_of_which_one_is_left_out(settings, features_list):
    _, found = make(**settings)(features_list, return_weights=True)
    assert len(found) == 2
    shares = found.pop("layer_shares")
    [only] = found.values()
    torch.testing.assert_close(shares, only.view(3, 2, -1).expand(3, 2, 12))


def test_the_pipeline_reads_the_same_numbers(features_list):
    """The pipeline's class gives the pair every time, with the same weights."""
    module, pipeline = make(), DynamicLayerFusion(8).eval()
    pipeline.load_state_dict(module.state_dict())
    tokens, aux = pipeline(features_list)
    assert torch.equal(tokens, module(features_list))
    assert aux.keys() == {"layer_weights", "layer_gates", "layer_shares"}
