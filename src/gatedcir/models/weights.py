"""Names of weights in the field's checkpoints -> this project's names."""

import re

import torch
from torch import Tensor

_LAVIS_NAMES = (
    (r"^visual_encoder\.cls_token$", "vision_model.embeddings.class_embedding"),
    (r"^visual_encoder\.pos_embed$", "vision_model.embeddings.position_embedding"),
    (r"^visual_encoder\.patch_embed\.proj\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual_encoder\.blocks\.(\d+)\.", r"vision_model.encoder.layers.\1."),
    (r"^(vision_model\.encoder\.layers\.\d+)\.norm([12])\.", r"\1.layer_norm\2."),
    (r"^(vision_model\.encoder\.layers\.\d+)\.attn\.qkv\.", r"\1.self_attn.qkv."),
    (r"^(vision_model\.encoder\.layers\.\d+)\.attn\.proj\.", r"\1.self_attn.projection."),
    (r"^ln_vision\.", "vision_model.post_layernorm."),
    (r"^Qformer\.bert\.embeddings\.LayerNorm\.", "qformer.layernorm."),
    (r"^Qformer\.bert\.embeddings\.(word|position)_embeddings\.", r"embeddings.\1_embeddings."),
    (r"^(Qformer\.bert\..*attention)\.self\.", r"\1.attention."),
    (r"^Qformer\.bert\.encoder\.", "qformer.encoder."),
    (r"^vision_proj\.", "vision_projection."),
    (r"^text_proj\.", "text_projection."),
)  # fmt: skip
_DROPPED = re.compile(r"^(Qformer\.cls\.|Qformer\.bert\.embeddings\.position_ids$)")
_OWN = ("prompt_tokens", "temp")


def from_sprc(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state of a `ComposedRetriever` without fusion from a state in SPRC's (LAVIS') names.

    The vision tower's separate query and value biases are joined; the key has none.
    """
    weights = dict(weights)
    renamed: dict[str, Tensor] = {}
    for name in [name for name in weights if name.endswith(".attn.q_bias")]:
        query, value = weights.pop(name), weights.pop(name.replace("q_bias", "v_bias"))
        joined = torch.cat([query, torch.zeros_like(query), value])
        weights[name.replace("q_bias", "qkv.bias")] = joined
    for name, tensor in weights.items():
        if _DROPPED.match(name):
            continue
        if name in _OWN:
            renamed[name] = tensor
            continue
        for pattern, replacement in _LAVIS_NAMES:
            name = re.sub(pattern, replacement, name)  # noqa: PLW2901
        renamed["backbone." + name] = tensor
    return renamed
