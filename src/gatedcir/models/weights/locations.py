"""A name of weights -> the place where they are."""

import re
from importlib.resources import files
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from gatedcir.errors import UserError
from gatedcir.files import CONFIG_FILE
from gatedcir.models.weights.sizes import RANDOM
from gatedcir.run_folder import checkpoint

HUB_NAMES = {
    "pretrain": "Salesforce/blip2-itm-vit-g",
    "coco": "Salesforce/blip2-itm-vit-g-coco",
}
TINY = Path(str(files("gatedcir") / "assets" / "tiny"))
LAVIS_URL = "https://storage.googleapis.com/sfr-vision-language-research/LAVIS/models/BLIP2/"
_VIT_L_FILE = "blip2_pretrained_vitL.pth"
_WEIGHTS = (
    f"give tiny, {', '.join(HUB_NAMES)}, pretrain_vitL, a hub name, a folder in the hub's layout, "
    "a .pth of LAVIS, a .pt of SPRC, or a run that kept its weights"
)
_SHOWN = 6  # runs that are listed
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


def locate(name: str) -> Path | str:
    """The file or the folder in the hub's layout that a name means, or a hub or random name itself.

    Raises:
        UserError: there is no such thing.
    """
    path = Path(name)
    if name in RANDOM:
        return name
    if name == "tiny":
        return TINY
    if name == "pretrain_vitL":
        if not Path(_VIT_L_FILE).is_file():
            raise UserError(
                f"{_VIT_L_FILE} is not in this folder, and the hub has no copy; download "
                f"{LAVIS_URL}{_VIT_L_FILE} to here, or give the path to it instead of the name."
            )
        return Path(_VIT_L_FILE)
    if path.name == "model.safetensors" and path.is_file():
        return path.parent
    if (path / "config.json").is_file():
        return path
    # A missing path in an existing folder is a typing error and no hub name.
    if name in HUB_NAMES or (_HUB_NAME.fullmatch(name) and not path.parent.is_dir()):
        return _on_hub(HUB_NAMES.get(name, name), name)
    try:
        file = checkpoint.find(path)
    except UserError:
        raise _nothing_at(path) from None
    if _is_text(file):
        raise UserError(f"{file} is a text file and holds no weights; {_WEIGHTS}.")
    return file


def _nothing_at(path: Path) -> UserError:
    """The error for a path without weights. It says what to name instead."""
    if (path / CONFIG_FILE).is_file():
        return UserError(f"the run {path} has kept no weights; train it again without --no-save.")
    folder = path if path.is_dir() else path.parent
    if runs := _runs_below(folder) if path.name != str(path) or path.is_dir() else []:
        shown = " or ".join(map(str, runs[:_SHOWN])) + ", for instance" * (len(runs) > _SHOWN)
        return UserError(f"there are no weights {str(path)!r}; name a run: {shown}.")
    return UserError(f"there are no weights {str(path)!r}; {_WEIGHTS}.")


def _runs_below(folder: Path) -> list[Path]:
    """The runs with weights in a folder, or in folders of it, as an ablation has them."""
    for depth in (1, 2, 3):
        found = folder.glob("*/" * depth + "checkpoints/*.pt")
        if runs := sorted({file.parent.parent for file in found}):
            return runs
    return []


def _is_text(file: Path) -> bool:
    """Whether a file begins without zero bytes. No file of weights does."""
    with file.open("rb") as opened:
        start = opened.read(512)
    return bool(start) and start[0] < 0x80 and 0 not in start


def _on_hub(repository: str, name: str) -> str:
    if not is_reachable(repository):
        folder = repository.rsplit("/", maxsplit=1)[-1]
        here, path = f"the weights of {name!r} are", ""
        if name not in HUB_NAMES:
            here = f"there is no {name} here, and on the hub its weights are"
            path = "check the path; or "
        raise UserError(
            f"{here} neither cached nor reachable; {path}on a machine with internet run "
            f"`hf download {repository} --local-dir {folder}`, copy that folder here, and give "
            f"{folder} in place of {name}."
        )
    return repository


def is_reachable(repository: str) -> bool:
    """Whether a hub repository is cached or the hub answers, without the library's long retries."""
    try:
        snapshot_download(repository, local_files_only=True)
    except HFValidationError:  # no name of the hub
        return False
    except LocalEntryNotFoundError:
        try:
            HfApi().model_info(repository, timeout=10)
        except Exception:  # no network, no access and no such repository have no common base
            return False
    return True
