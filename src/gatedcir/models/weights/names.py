"""Names of weights in the field's checkpoints <-> this project's names."""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# Each pair is (LAVIS, this project) and is read both ways. "#" is a layer's number.
_TOWER = "vision_model.encoder.layers.#."
_EVA_NAMES = (
    ("visual_encoder.cls_token", "vision_model.embeddings.class_embedding"),
    ("visual_encoder.pos_embed", "vision_model.embeddings.position_embedding"),
    ("visual_encoder.patch_embed.proj.", "vision_model.embeddings.patch_embedding."),
    ("visual_encoder.blocks.#.norm1.", _TOWER + "layer_norm1."),
    ("visual_encoder.blocks.#.norm2.", _TOWER + "layer_norm2."),
    ("visual_encoder.blocks.#.attn.qkv.", _TOWER + "self_attn.qkv."),
    ("visual_encoder.blocks.#.attn.proj.", _TOWER + "self_attn.projection."),
    ("visual_encoder.blocks.#.mlp.", _TOWER + "mlp."),
)
_CLIP_NAMES = (
    ("visual_encoder.class_embedding", "vision_model.embeddings.class_embedding"),
    ("visual_encoder.positional_embedding", "vision_model.embeddings.position_embedding"),
    ("visual_encoder.conv1.", "vision_model.embeddings.patch_embedding."),
    ("visual_encoder.ln_pre.", "vision_model.pre_layernorm."),
    ("visual_encoder.transformer.resblocks.#.ln_1.", _TOWER + "layer_norm1."),
    ("visual_encoder.transformer.resblocks.#.ln_2.", _TOWER + "layer_norm2."),
    ("visual_encoder.transformer.resblocks.#.attn.in_proj_", _TOWER + "self_attn.qkv."),
    ("visual_encoder.transformer.resblocks.#.attn.out_proj.", _TOWER + "self_attn.projection."),
    ("visual_encoder.transformer.resblocks.#.mlp.c_fc.", _TOWER + "mlp.fc1."),
    ("visual_encoder.transformer.resblocks.#.mlp.c_proj.", _TOWER + "mlp.fc2."),
)
_LAYER = ("Qformer.bert.encoder.layer.#.", "qformer.encoder.layer.#.")
_QFORMER_NAMES = (
    ("ln_vision.", "vision_model.post_layernorm."),
    ("Qformer.bert.embeddings.LayerNorm.", "qformer.layernorm."),
    ("Qformer.bert.embeddings.word_embeddings.", "embeddings.word_embeddings."),
    ("Qformer.bert.embeddings.position_embeddings.", "embeddings.position_embeddings."),
    (_LAYER[0] + "attention.self.", _LAYER[1] + "attention.attention."),
    (_LAYER[0] + "crossattention.self.", _LAYER[1] + "crossattention.attention."),
    _LAYER,
    ("vision_proj.", "vision_projection."),
    ("text_proj.", "text_projection."),
)
_DROPPED = re.compile(r"Qformer\.cls\.|Qformer\.bert\.embeddings\.position_ids$")
BACKBONE = "backbone."
FUSIONS = ("fusion.", "visual_fusion.", "scale_towers.projections.")
"""How the names of a `ComposedRetriever`'s weights begin: of what is pretrained, and of what is
added to it and starts untrained."""
TOWERS = "scale_towers.towers."
"""The same for the pretrained towers of single scales."""
ADDED = (*FUSIONS, TOWERS, "query_branch.", "matcher.")
"""The same of all that a model may have in addition to the published one."""
_OWN = ("prompt_tokens", "temp")


def from_sprc(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of a `ComposedRetriever` without fusion from a state in SPRC's or LAVIS' names.

    The BERT head (`Qformer.cls.*`) and `position_ids` are dropped, because no code reads them.
    ViT-g's separate query and value biases are joined. Its key has no bias.
    """
    weights = without_dropped(weights)
    clip = "visual_encoder.class_embedding" in weights
    for name in [name for name in weights if name.endswith(".attn.q_bias")]:
        query, value = weights.pop(name), weights.pop(name.replace("q_bias", "v_bias"))
        joined = torch.cat([query, torch.zeros_like(query), value])
        weights[name.replace("q_bias", "qkv.bias")] = joined
    pairs = (*(_CLIP_NAMES if clip else _EVA_NAMES), *_QFORMER_NAMES)
    renamed = {}
    for name, tensor in weights.items():
        new = name if name in _OWN else BACKBONE + _rename(name, pairs)
        renamed[new] = _embedding_axes(new, tensor, added=True) if clip else tensor
    return renamed


def to_sprc(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `from_sprc`: a `ComposedRetriever`'s state in SPRC's names.

    The weights that `from_sprc` drops do not come back. The key bias of ViT-g has no name there
    and is dropped too. It is zero in all published weights, and the softmax cancels it in any case.

    Raises:
        ValueError: a weight of a fusion, which has no name there.
    """
    clip = f"{BACKBONE}vision_model.pre_layernorm.weight" in weights
    pairs = [(ours, theirs) for theirs, ours in (_CLIP_NAMES if clip else _EVA_NAMES)]
    pairs += [(ours, theirs) for theirs, ours in _QFORMER_NAMES]
    renamed = {}
    for name, tensor in weights.items():
        if name in _OWN:
            renamed[name] = tensor
            continue
        if not name.startswith(BACKBONE):
            raise ValueError(f"{name} has no name in SPRC")
        new = _rename(name.removeprefix(BACKBONE), pairs)
        if new.endswith(".attn.qkv.bias"):
            query, _, value = tensor.chunk(3)
            renamed[new.replace("qkv.bias", "q_bias")] = query
            renamed[new.replace("qkv.bias", "v_bias")] = value
        else:
            renamed[new] = _embedding_axes(name, tensor, added=False) if clip else tensor
    return renamed


def to_lavis(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A `ComposedRetriever`'s state in LAVIS' names: SPRC's, without the prompts.

    It drops the same weights as `to_sprc`, and raises the same errors.
    """
    return {name: w for name, w in to_sprc(weights).items() if name != "prompt_tokens"}


def without_dropped(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Weights in LAVIS' names without the unused ones."""
    return {name: tensor for name, tensor in weights.items() if not _DROPPED.match(name)}


def mismatch(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """How names and shapes differ from the expected ones. Empty if they are the same.

    >>> mismatch({"a": torch.ones(2)}, {"a": torch.ones(3), "b": torch.ones(1)})
    '1 missing (b) and 1 of another shape (a: [2], not [3])'
    """
    shapes = [
        f"{name}: {list(found[name].shape)}, not {list(expected[name].shape)}"
        for name in sorted(found.keys() & expected.keys())
        if found[name].shape != expected[name].shape
    ]
    return list_names(
        {
            "missing": sorted(expected.keys() - found.keys()),
            "unexpected": sorted(found.keys() - expected.keys()),
            "of another shape": shapes,
        }
    )


def list_names(kinds: Mapping[str, list[str]]) -> str:
    """The count and the first ten names of every kind that has any."""
    parts = []
    for kind, names in kinds.items():
        if names:
            more = ", ..." if len(names) > 10 else ""
            parts.append(f"{len(names)} {kind} ({', '.join(names[:10])}{more})")
    return " and ".join(parts)


def _rename(name: str, pairs: Any) -> str:
    """A name with the first fitting beginning replaced."""
    for old, new in pairs:
        found = re.match(re.escape(old).replace(r"\#", r"(\d+)"), name)
        if found:
            return found.expand(new.replace("#", r"\1")) + name[found.end() :]
    return name


def _embedding_axes(name: str, tensor: Tensor, *, added: bool) -> Tensor:
    """CLIP has [Dv] and [L, Dv] where transformers' BLIP-2 has [1, 1, Dv] and [1, L, Dv]."""
    if name.endswith("embeddings.class_embedding"):
        return tensor.reshape(1, 1, -1) if added else tensor.reshape(-1)
    if name.endswith("vision_model.embeddings.position_embedding"):
        return tensor[None] if added else tensor[0]
    return tensor
