"""A trained model as a folder in the hub's layout: written, read, uploaded.

Weights of the backbone have transformers' own names, so that its BLIP-2 reads them too. Prompts,
temperature and fusion lie in the same folder. `config.json` is the backbone's, with the run's
options (fusion, transform and the rest), metrics and provenance under one more key.
"""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.constants import CONFIG_NAME, SAFETENSORS_SINGLE_FILE
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer as WordPieces

from gatedcir.errors import UserError, check_new_folder, reason_of
from gatedcir.files import check_sums, check_was_read, sums_of, whole_folder
from gatedcir.models.weights.model_card import model_card
from gatedcir.models.weights.names import ADDED, BACKBONE
from gatedcir.models.weights.vocabulary import wordpieces_from_json
from gatedcir.resources import tensor_bytes
from gatedcir.run_folder import checkpoint
from gatedcir.run_folder.checkpoint import Checkpoint

_KEY = "gatedcir"  # config.json holds the run's values under it
_OWN = ("prompt_tokens", "temp", *ADDED)
_PLACES = ("data-path", "output", "output-dir", "resume")  # of the machine that trained
_CACHED_NOWHERE = ("auto", "memory", "none")  # values of cache-features that are no folder
_TOKENIZER = "tokenizer.json"


def write(run: Checkpoint, folder: Path) -> None:
    """Write weights, config, tokenizer and model card to a new folder, all or none.

    Paths of the machine that trained are left out, because they have no meaning elsewhere.

    Raises:
        UserError: the folder is a file, or has content, or there is no room for it.
    """
    assert run.towers is None, "a folder holds all weights"
    check_new_folder(folder)
    with whole_folder(folder, size=tensor_bytes(run.weights)) as unfinished:
        weights = {n.removeprefix(BACKBONE): w.contiguous() for n, w in run.weights.items()}
        save_file(weights, unfinished / SAFETENSORS_SINGLE_FILE, metadata={"format": "pt"})
        wordpieces_from_json(run.tokenizer).save_pretrained(unfinished)
        config = _config(run)
        config[_KEY]["crc32"] = sums_of(unfinished, SAFETENSORS_SINGLE_FILE, _TOKENIZER)
        (unfinished / CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        model_card(config[_KEY], name=folder.name).save(unfinished / "README.md")


def find(source: Path | str) -> Path | None:
    """The folder of a path or hub name, downloaded if need be. None if `write` did not make it.

    The content of `config.json` decides. The result is also None if that file is unreadable.

    Raises:
        UserError: the download fails.
    """
    try:
        file = (
            source / CONFIG_NAME
            if isinstance(source, Path)
            else Path(hf_hub_download(source, CONFIG_NAME))
        )
        config = json.loads(file.read_bytes())
    except Exception:  # of the hub, of files and of JSON: the next reader explains them
        return None
    if not isinstance(config, dict) or _KEY not in config:
        return None
    if isinstance(source, Path):
        return source
    try:
        return Path(snapshot_download(source))
    except Exception as error:  # the hub's errors have no common base
        raise UserError(
            f"{source} cannot be downloaded ({reason_of(error)}); try again, or copy its folder "
            "here."
        ) from None


def read(folder: Path) -> Checkpoint:
    """The trained model that `write` made a folder of.

    Raises:
        UserError: a file is missing or damaged.
    """
    try:
        for name in (CONFIG_NAME, SAFETENSORS_SINGLE_FILE, _TOKENIZER):
            if not (folder / name).is_file():  # a pipe would never end
                raise ValueError(f"there is no file {name}")
        config = json.loads((folder / CONFIG_NAME).read_bytes())
        own = config.pop(_KEY)
        noted = own.get("crc32", {})  # folders of earlier versions have none
        check_sums(folder, noted, SAFETENSORS_SINGLE_FILE, _TOKENIZER)
        weights = load_file(folder / SAFETENSORS_SINGLE_FILE)
        content = {
            "weights": {n if n.startswith(_OWN) else BACKBONE + n: w for n, w in weights.items()},
            "backbone": config,
            "tokenizer": WordPieces.from_file(str(folder / _TOKENIZER)).to_str(),
            "config": own["options"],
            "provenance": own["provenance"],
            "epoch": own["epoch"],
            "metrics": own["metrics"],
            "trainer": None,
        }
    except Exception as error:  # errors of three libraries have no common base
        check_was_read(folder, error)
        raise UserError(
            f"{folder} is an incomplete copy of a trained model ({reason_of(error)}); copy or "
            "download it again."
        ) from None
    return checkpoint.parse(content, folder)


def push(folder: Path, repository: str, *, private: bool = False) -> str:
    """Upload a folder to a repository of the hub, made if need be, and return its address.

    Raises:
        UserError: the hub refuses or cannot be reached.
    """
    check_repository(repository)
    try:
        api = HfApi()
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder)
    except Exception as error:  # no network, no token and no right have no common base
        raise UserError(
            f"the upload to {repository} failed ({reason_of(error)}); log in with `hf auth login`, "
            f"then run `hf upload {repository}` on the saved folder."
        ) from None
    return f"{api.endpoint}/{repository}"


def check_repository(repository: str) -> None:
    """UserError if a name cannot be one of a hub repository."""
    try:
        validate_repo_id(repository)
    except HFValidationError:
        raise UserError(f"{repository!r} is no hub name; give one like user/model.") from None


def _config(run: Checkpoint) -> dict[str, Any]:
    options = {name: None if name in _PLACES else value for name, value in run.config.items()}
    if options.get("cache-features") not in _CACHED_NOWHERE:
        options["cache-features"] = "auto"
    options["backbone"] = _name_of(run.config["backbone"])
    model = run.config["model"]
    if towers := model.get("scale-backbones"):
        options["model"] = {**model, "scale-backbones": list(map(_name_of, towers))}
    own = {
        "options": options,
        "provenance": {name: v for name, v in run.provenance.items() if name != "command"},
        "epoch": run.epoch,
        "metrics": run.metrics,
    }
    return {**run.backbone, _KEY: own}


def _name_of(weights: str) -> str:
    """A source of weights without the folders of this machine."""
    path = Path(str(weights))
    return path.name if path.is_absolute() else weights
