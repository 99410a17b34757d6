"""What lies next to a file of LAVIS' or SPRC's weights: its frozen tower, and its sizes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gatedcir.errors import UserError, reason_of
from gatedcir.models.backbone import Backbone
from gatedcir.models.weights.locations import LAVIS_URL
from gatedcir.models.weights.names import BACKBONE, mismatch, to_sprc, without_dropped
from gatedcir.models.weights.sizes import VIT_G, VIT_L
from gatedcir.run_folder import checkpoint

# LAVIS leaves a frozen tower out of its files. Tower width -> the file that holds the tower.
_TOWERS = {1408: ("eva_vit_g.pth", VIT_G), 1024: ("clip_vit_L.pth", VIT_L)}
_CROSS_ATTENTION = "Qformer.bert.encoder.layer.0.crossattention.self.key.weight"


def tensors(weights: Any, file: Path) -> dict[str, Tensor]:
    """A state dict without unused weights."""
    if not isinstance(weights, Mapping) or not all(isinstance(w, Tensor) for w in weights.values()):
        raise UserError(f"{file} holds no weights by name; give a checkpoint of LAVIS or SPRC.")
    return without_dropped(weights)


def tower_beside(weights: Mapping[str, Tensor], file: Path) -> dict[str, Tensor]:
    """The frozen tower that LAVIS reads from a file of its own."""
    width = weights[_CROSS_ATTENTION].shape[-1] if _CROSS_ATTENTION in weights else 0
    if width not in _TOWERS:
        raise UserError(
            f"{file} holds no vision tower, and none of LAVIS' fits its Q-Former; give weights of "
            "LAVIS' BLIP-2 first stage or of SPRC."
        )
    name, config = _TOWERS[width]
    beside = file.with_name(name)
    if not beside.is_file():
        raise UserError(
            f"{file} holds no vision tower, as LAVIS leaves out a frozen one; download "
            f"{LAVIS_URL}{name} to {file.parent} too."
        )
    tower = {f"visual_encoder.{n}": w for n, w in tensors(checkpoint.read(beside), beside).items()}
    whole = to_sprc(
        {BACKBONE + n: w for n, w in Backbone.without_weights(config).state_dict().items()}
    )
    expected = {n: w for n, w in whole.items() if n.startswith("visual_encoder.")}
    # The file is a whole classifier. LAVIS skips its head and its last blocks.
    found = {n: w for n, w in tower.items() if n in expected}
    if wrong := mismatch(found, expected):
        raise UserError(
            f"the weights of {beside} are not those of LAVIS' tower: {wrong}; download "
            f"{LAVIS_URL}{name} again."
        )
    return found


def config_beside(file: Path) -> dict[str, Any] | None:
    """The sizes in a `config.json` in the hub's layout next to a file. None without one."""
    path = file.with_name("config.json")
    if not path.is_file():
        return None
    try:
        config = json.loads(path.read_bytes())
        if not {"vision_config", "qformer_config"} <= config.keys():
            raise ValueError("vision_config or qformer_config is missing")
        Backbone.without_weights(config)
    except Exception as error:  # transformers' checks of a config have no common base
        raise UserError(
            f"{path} holds no sizes of a BLIP-2 model: {reason_of(error)}; remove it, and they "
            "are read from the weights."
        ) from None
    return config
