"""The published tiny model, as its users have it: a file to be loaded, and the numbers it gave."""

import json
import shutil
from pathlib import Path

import pytest

FIXTURES = Path(__file__).parents[1] / "fixtures"
SPRC = "Blip2QformerCirAlignPrompt"


def golden_weights(name="sprc_tiny"):
    """Weights in the published names, without the inputs that lie beside them."""
    from safetensors.torch import load_file

    weights = load_file(FIXTURES / f"{name}.safetensors")
    return {key: w for key, w in weights.items() if not key.startswith("input.")}


def golden_config():
    """The tiny model's sizes in the hub's form."""
    facts = json.loads((FIXTURES / "sprc_tiny.json").read_text())
    vision, qformer = facts["vision"], facts["qformer"]
    return {
        "vision_config": {
            "hidden_size": vision["embed_dim"],
            "intermediate_size": vision["mlp_hidden"],
            "num_hidden_layers": vision["depth"],
            "num_attention_heads": vision["num_heads"],
            "image_size": vision["img_size"],
            "patch_size": vision["patch_size"],
        },
        "qformer_config": {
            "vocab_size": qformer["vocab_size"],
            "hidden_size": qformer["hidden_size"],
            "num_hidden_layers": qformer["num_hidden_layers"],
            "num_attention_heads": qformer["num_attention_heads"],
            "intermediate_size": qformer["intermediate_size"],
            "max_position_embeddings": qformer["max_position_embeddings"],
            "encoder_hidden_size": qformer["encoder_width"],
            "use_qformer_text_input": True,
        },
        "num_query_tokens": facts["num_query_token"],
        "image_text_hidden_size": facts["embed_dim"],
    }


def write_file(folder, content, *, name="model.pt", config=None, vocabulary=True):
    """A file as it is published, with its sizes and vocabulary beside it."""
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    torch.save(content, folder / name)
    (folder / "config.json").write_text(json.dumps(config or golden_config()))
    if vocabulary:
        shutil.copy(FIXTURES / "vocab.txt", folder / "vocab.txt")
    return folder / name


@pytest.fixture(scope="session")
def sprc_file(tmp_path_factory):
    return write_file(tmp_path_factory.mktemp("sprc"), {"epoch": 7, SPRC: golden_weights()})


@pytest.fixture(scope="session")
def golden():
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(1)
    return load_file(FIXTURES / "sprc_tiny_expected.safetensors")


@pytest.fixture
def published(sprc_file):
    """The model as the public loader gives it, and the inputs of the golden numbers."""
    from safetensors.torch import load_file

    from gatedcir.assemble.model import open_trained
    from gatedcir.models.text import Tokens

    model, _, config = open_trained(str(sprc_file))
    assert config.model.gated_fusion.strategy == "none"
    inputs = load_file(FIXTURES / "sprc_tiny.safetensors")
    text = Tokens(inputs["input.input_ids"], inputs["input.attention_mask"])
    return model, inputs["input.images"], inputs["input.targets"], text
