"""Write a BLIP-2 model of salesforce-lavis as a file that --backbone takes.

Runs in the environment of requirements-lavis.txt: see docs/lavis.md.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from gatedcir.errors import UserError, reason_of, run_command
from gatedcir.files import whole_folder

# LAVIS imports these for its datasets and other models. BLIP-2's first stage does not call them.
_STAND_INS = {
    "cv2", "decord", "einops", "fairscale", "ftfy", "iopath", "pandas", "pycocoevalcap",
    "pycocotools", "spacy", "torchvision", "webdataset",
}  # fmt: skip
# LAVIS leaves frozen weights out of its checkpoints.
_MAY_LACK = ("visual_encoder.", "Qformer.bert.embeddings.position_ids")


def main(argv: Sequence[str] | None = None) -> None:
    """Load with LAVIS, write, print the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="blip2", help="LAVIS' name of the model")
    parser.add_argument("--model-type", required=True, help="pretrain, pretrain_vitL or coco")
    parser.add_argument("--checkpoint", type=path, help="what LAVIS' trainer saved, laid over it")
    parser.add_argument("--output", type=path, required=True, help="a new folder")
    options = parser.parse_args(argv)
    _refuse_existing(options.output)
    model = load(options.name, options.model_type, options.checkpoint)
    print(write(model, options.output, name=f"{options.name}_{options.model_type}.pth"))


def path(text: str) -> Path:
    """A path with the home folder for `~`, which shells leave after `=`."""
    return Path(text).expanduser()


def load(name: str, model_type: str, checkpoint: Path | None = None) -> Any:
    """LAVIS' own model in eval mode on the CPU, in float32, downloaded as LAVIS does.

    Raises:
        UserError: LAVIS has no such model, it is not BLIP-2's first stage, its weights are not
            available, or the checkpoint belongs to another model.
    """
    if checkpoint is not None and not checkpoint.is_file():
        raise UserError(f"there is no checkpoint {checkpoint}.")
    import_lavis()
    from lavis.common.registry import registry
    from lavis.models import Blip2Qformer, load_model

    family = registry.get_model_class(name)
    if family is None or not issubclass(family, Blip2Qformer):
        fitting = [n for n in registry.list_models() if _is_subclass(registry, n, Blip2Qformer)]
        raise UserError(
            f"{name!r} is not one of LAVIS' models with BLIP-2's image-text half; "
            f"they are {', '.join(fitting)}."
        )
    if model_type not in family.PRETRAINED_MODEL_CONFIG_DICT:
        types = ", ".join(family.PRETRAINED_MODEL_CONFIG_DICT)
        raise UserError(f"LAVIS' {name} has no type {model_type!r}; it has {types}.")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # its retries
    try:
        model = load_model(name, model_type, is_eval=True)
    except Exception as error:  # downloads and files of half a dozen libraries
        raise UserError(
            f"LAVIS cannot load {name} {model_type}, for which it downloads bert-base-uncased, the "
            f"vision tower and the weights where they are not cached: {reason_of(error)}."
        ) from None
    if checkpoint is not None:
        lay_over(model, checkpoint)
    return model


def lay_over(model: Any, checkpoint: Path) -> None:
    """Replace weights by those of a checkpoint of LAVIS' trainer, which holds the trained ones.

    Raises:
        UserError: it cannot be read, or holds other weights.
    """
    try:
        report = model.load_checkpoint(str(checkpoint))
    except Exception as error:  # truncated, not a checkpoint, other shapes
        reason = reason_of(error)
        raise UserError(f"{checkpoint} is not a checkpoint of this model: {reason}.") from None
    wrong = [n for n in report.missing_keys if not n.startswith(_MAY_LACK)]
    wrong += report.unexpected_keys
    if wrong:
        raise UserError(
            f"{checkpoint} is not a checkpoint of this model: {len(wrong)} names differ, "
            f"{wrong[0]} for one."
        )


def write(model: Any, folder: Path, *, name: str) -> Path:
    """Write {"model": state} and, next to it, vocab.txt without the added [DEC].

    Args:
        model: a Blip2Qformer of LAVIS.
        folder: the place to write to. It is made here.
        name: of the weights' file in it.

    Returns:
        The weights' file.

    Raises:
        UserError: the folder is there and not empty.
    """
    _refuse_existing(folder)
    with whole_folder(folder) as unfinished:
        torch.save({"model": model.state_dict()}, unfinished / name)
        model.tokenizer.save_vocabulary(str(unfinished))
    return folder / name


def import_lavis() -> None:
    """Import lavis, with stand-ins for missing packages that it imports and never calls.

    Raises:
        UserError: lavis itself, or a package that it does call, is not installed.
    """
    if not any(isinstance(finder, _StandIns) for finder in sys.meta_path):
        sys.meta_path.append(_StandIns())  # asked last, so that installed packages come first
    try:
        import lavis.models  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f"the module {error.name} is not installed in {sys.prefix}; "
            "run this script in the environment of requirements-lavis.txt."
        ) from None


class _StandIns(MetaPathFinder, Loader):
    """Finds modules that are not installed, in which every name is an empty class."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] not in _STAND_INS:
            return None
        return ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _EmptyModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _EmptyModule(ModuleType):
    def __getattr__(self, name: str) -> type:
        return _empty_class(f"{self.__name__}.{name}")


class _EmptyClass(type):
    def __getattr__(cls, name: str) -> type:
        return _empty_class(f"{cls.__name__}.{name}")

    def __call__(cls, *args: object, **kwargs: object) -> None:
        # LAVIS makes only this call on import.
        if cls.__name__ != "decord.bridge.set_bridge":
            raise NotImplementedError(f"{cls.__name__} is a stand-in; install its package")


def _empty_class(name: str) -> type:
    if name.rpartition(".")[2].startswith("__"):  # Python asks for such names, and must find none
        raise AttributeError(name)
    return _EmptyClass(name, (), {})


def _is_subclass(registry: Any, name: str, base: type) -> bool:
    return issubclass(registry.get_model_class(name), base)


def _refuse_existing(folder: Path) -> None:
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise UserError(f"{folder} is there already; name a new folder.")


if __name__ == "__main__":
    run_command(main)
