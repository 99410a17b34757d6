"""Sizes of the model: the published ones, and those read from the shapes of weights."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

# The number of heads cannot be read from a weight. These are those of the published models.
_HEADS = {1408: 16, 1024: 16, 768: 12}
_CLIP = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "pre_layernorm": True}

_QFORMER = {"vocab_size": 30523, "encoder_hidden_size": 1408, "use_qformer_text_input": True}
_VIT_G = {
    "hidden_size": 1408,
    "intermediate_size": 6144,
    "num_hidden_layers": 39,
    "num_attention_heads": 16,
    "image_size": 224,
    "patch_size": 14,
}
_VIT_L = {
    **_VIT_G,
    **_CLIP,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 21,
}
VIT_G: dict[str, Any] = {"vision_config": _VIT_G, "qformer_config": _QFORMER}
"""BLIP-2's first stage with EVA-CLIP's ViT-g/14, its last block left out (Li et al., 2023)."""
VIT_L: dict[str, Any] = {
    "vision_config": _VIT_L,
    "qformer_config": {**_QFORMER, "encoder_hidden_size": 1024},
}
"""The same with CLIP's ViT-L/14, of whose 24 blocks LAVIS' release 1.0.2 keeps 21."""
RANDOM = {"random-vit-g": VIT_G, "random-vit-l": VIT_L}


def infer_config(weights: Mapping[str, Tensor]) -> dict[str, Any]:
    """The config, as `Backbone.from_config` takes it, of complete weights in LAVIS' names.

    Raises:
        KeyError: a weight that tells a size is missing.
        ValueError: a width whose number of heads is not known, or positions of no square.
    """
    clip = "visual_encoder.class_embedding" in weights
    tower = "visual_encoder." + ("transformer.resblocks" if clip else "blocks")
    patches = weights["visual_encoder." + ("conv1" if clip else "patch_embed.proj") + ".weight"]
    positions = weights["visual_encoder." + ("positional_embedding" if clip else "pos_embed")]
    widening = weights[f"{tower}.0.mlp." + ("c_fc.weight" if clip else "fc1.weight")]
    words = weights["Qformer.bert.embeddings.word_embeddings.weight"]
    crossed = _numbers(weights, "Qformer.bert.encoder.layer", ".crossattention.self.key.weight")
    layers = _numbers(weights, "Qformer.bert.encoder.layer", ".attention.self.key.weight")
    grid = round((positions.shape[-2] - 1) ** 0.5)  # the first position is the CLS token's
    if grid * grid != positions.shape[-2] - 1:
        raise ValueError(f"{positions.shape[-2]} positions, which are no CLS token and a square")
    vision = {
        "hidden_size": patches.shape[0],
        "intermediate_size": widening.shape[0],
        "num_hidden_layers": len(_numbers(weights, tower, ".mlp.")),
        "num_attention_heads": _heads(patches.shape[0]),
        "image_size": grid * patches.shape[-1],
        "patch_size": patches.shape[-1],
        **(_CLIP if clip else {}),
    }
    qformer = {
        "vocab_size": words.shape[0],
        "hidden_size": words.shape[1],
        "num_hidden_layers": len(layers),
        "num_attention_heads": _heads(words.shape[1]),
        "intermediate_size": weights[
            "Qformer.bert.encoder.layer.0.intermediate.dense.weight"
        ].shape[0],
        "max_position_embeddings": weights[
            "Qformer.bert.embeddings.position_embeddings.weight"
        ].shape[0],
        "cross_attention_frequency": crossed[1] - crossed[0] if len(crossed) > 1 else len(layers),
        "encoder_hidden_size": weights[
            f"Qformer.bert.encoder.layer.{min(crossed, default=0)}.crossattention.self.key.weight"
        ].shape[1],
        "use_qformer_text_input": True,
    }
    return {
        "vision_config": vision,
        "qformer_config": qformer,
        "num_query_tokens": weights["query_tokens"].shape[1],
        "image_text_hidden_size": weights["vision_proj.weight"].shape[0],
    }


def _numbers(weights: Mapping[str, Tensor], before: str, after: str) -> list[int]:
    """The layer numbers between two parts of names, each once, ascending."""
    pattern = re.compile(re.escape(before) + r"\.(\d+)" + re.escape(after))
    return sorted({int(found[1]) for name in weights if (found := pattern.match(name))})


def _heads(width: int) -> int:
    if width not in _HEADS:
        raise ValueError(f"{width} wide, for which the number of attention heads is not known")
    return _HEADS[width]
