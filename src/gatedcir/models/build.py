"""Config -> model: where the weights come from and what stands in front of the Q-Former."""

from importlib.resources import files
from pathlib import Path

import torch
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from tokenizers import Tokenizer as WordPieces
from torch import nn
from transformers import BertTokenizer, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from gatedcir.checkpoint import Checkpoint
from gatedcir.config import Config, GatedFusionConfig, from_dict
from gatedcir.errors import UserError
from gatedcir.models.backbone import Backbone
from gatedcir.models.composer import ComposedRetriever
from gatedcir.models.gated_fusion import STRATEGIES
from gatedcir.models.text import Tokenizer

HUB_NAMES = {
    "pretrain": "Salesforce/blip2-itm-vit-g",
    "coco": "Salesforce/blip2-itm-vit-g-coco",
}


def build(config: Config) -> tuple[ComposedRetriever, Tokenizer]:
    """The model that a config names, on the CPU, and its tokenizer.

    Raises:
        UserError: the backbone's weights are not to be had.
    """
    backbone, wordpieces = load_pretrained(config.backbone.backbone)
    torch.manual_seed(config.optim.seed)
    return _assemble(backbone, config), Tokenizer(wordpieces)


def restore(checkpoint: Checkpoint) -> tuple[ComposedRetriever, Tokenizer, Config]:
    """The model, tokenizer and config of a checkpoint; nothing else is read.

    Raises:
        UserError: the weights do not fit the checkpoint's own config.
    """
    try:
        config = from_dict(Config, checkpoint.config)
    except SystemExit:
        raise UserError(
            "the checkpoint's options are not those of this version; use the revision "
            f"{checkpoint.provenance.get('git', 'that wrote it')}."
        ) from None
    model = _assemble(Backbone.from_config(checkpoint.backbone), config)
    try:
        model.load_state_dict(checkpoint.weights, strict=True)
    except RuntimeError as error:
        reason = str(error).splitlines()[1].strip()
        raise UserError(f"the checkpoint's weights do not fit its own config: {reason}") from None
    wordpieces = PreTrainedTokenizerFast(
        tokenizer_object=WordPieces.from_str(checkpoint.tokenizer), pad_token="[PAD]"
    )
    return model.eval(), Tokenizer(wordpieces), config


def load_pretrained(name: str) -> tuple[Backbone, PreTrainedTokenizerFast]:
    """Weights and WordPieces of the embedded model, a hub name, or a folder in the hub's layout.

    Raises:
        UserError: they are not there, or are not BLIP-2's image-text weights.
    """
    source = str(files("gatedcir") / "assets" / "tiny") if name == "tiny" else name
    source = HUB_NAMES.get(name, source)
    if Path(name).name == "model.safetensors" and Path(name).is_file():
        source = name = str(Path(name).parent)
    if name not in (*HUB_NAMES, "tiny") and not Path(name).is_dir():
        raise UserError(
            f"there is no backbone {name!r}: give tiny, {', '.join(HUB_NAMES)}, or a folder with "
            "config.json, model.safetensors and tokenizer.json."
        )
    if name in HUB_NAMES and not _is_reachable(source):
        raise UserError(
            f"the weights of backbone {name!r} are neither cached here nor reachable; on a machine "
            f"with internet run `hf download {source} --local-dir blip2-{name}`, copy that folder "
            f"here, and pass --backbone blip2-{name} ."
        )
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        backbone, wrong = Backbone.from_pretrained(source)
        wordpieces = BertTokenizer.from_pretrained(source)
    except Exception as error:  # a dozen libraries stand behind these two calls
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".:")
        raise UserError(f"{source} cannot be read as a BLIP-2 folder: {reason}.") from None
    if wrong:
        raise UserError(
            f"{source} lacks weights of BLIP-2's image-text model, {wrong[0]} for one; "
            f"{HUB_NAMES['pretrain']} has them."
        )
    return backbone, wordpieces


def _is_reachable(repository: str) -> bool:
    """Whether a hub repository is cached or the hub answers, without the library's long retries."""
    try:
        snapshot_download(repository, local_files_only=True)
    except LocalEntryNotFoundError:
        try:
            HfApi().model_info(repository, timeout=10)
        except Exception:  # no network, no access and no such repository have no common base
            return False
    return True


def _assemble(backbone: Backbone, config: Config) -> ComposedRetriever:
    backbone.set_trainable(vision=config.backbone.train_vision)
    return ComposedRetriever(backbone, fusion=_build_fusion(backbone, config.model.gated_fusion))


def _build_fusion(backbone: Backbone, options: GatedFusionConfig) -> nn.Module:
    strategy = STRATEGIES[options.strategy]
    if options.strategy == "none":
        return strategy()
    settings = {"dropout": options.dropout, "start": options.start}
    if options.strategy in ("gated", "additive"):
        settings["alpha_init"] = options.alpha_init
    return strategy(backbone.vision_width, backbone.width, **settings)
