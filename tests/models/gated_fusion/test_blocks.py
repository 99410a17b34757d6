"""Several fusions one after the other."""

import pytest
import torch
from conftest import SHORT

from gatedcir.assemble.model import build
from gatedcir.models.gated_fusion.gated import tokens_and_aux
from gatedcir.models.gated_fusion.strategies import STRATEGIES, gives_gate, make_fusion
from gatedcir.options.config import Config
from gatedcir.options.parsing import parse

SETTINGS = {"alpha_init": 0.5, "dropout": 0.1}


def inputs():
    generator = torch.Generator().manual_seed(1)
    image, text = (torch.randn(2, n, 16, generator=generator) for n in (5, 4))
    return image, text, torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


@pytest.mark.parametrize("name", STRATEGIES)
def test_each_block_changes_what_the_one_before_gave(name):
    torch.manual_seed(0)
    both = make_fusion(name, 16, 16, **SETTINGS, start="seed", blocks=2).eval()
    image, text, mask = inputs()
    found, aux = both(image, text, mask)
    first, one = tokens_and_aux(both.blocks[0], image, text, mask)
    second, two = tokens_and_aux(both.blocks[1], first, text, mask)
    assert torch.equal(found, second)
    assert both.has_gate == gives_gate(name) == ("gate" in aux)
    assert aux.keys() == one.keys() == two.keys()
    if "gate" in aux:
        torch.testing.assert_close(aux["gate"], (one["gate"] + two["gate"]) / 2)
    if "change" in aux:
        torch.testing.assert_close(aux["change"], (second - image).abs().mean())


def test_blocks_may_start_as_the_identity():
    blocks = make_fusion("attentive", 16, 16, **SETTINGS, start="identity", blocks=3).eval()
    image, text, mask = inputs()
    assert torch.equal(blocks(image, text, mask)[0], image)


def test_the_option_arrives():
    flags = ["--dataset", "CIRR", *SHORT, "--model.gated-fusion.blocks", "2"]
    model, _ = build(parse(Config, flags, description=""))
    assert len(model.fusion.blocks) == 2
