"""Shared parts of the commands that draw pictures: the model, the images, the model's input."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from gatedcir.errors import UserError, check_folder_to_write
from gatedcir.options.config import (
    ALL_CATEGORIES,
    Categories,
    DataConfig,
    DataPath,
    Device,
    Limit,
    MaybeDataset,
    ModelPath,
    SkipUnreadable,
)

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from gatedcir.data.transforms import Transform
    from gatedcir.evaluation.evaluator import Evaluator


@dataclass(frozen=True)
class Options:
    """Which model, which queries, and where the pictures go."""

    model_path: ModelPath
    output: Path
    """Folder for the pictures."""
    image: Path | None = None
    """A reference image."""
    text: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """How to change the image. Give the flag again for each other text over the same image."""
    dataset: MaybeDataset = None
    """Take queries of this dataset instead of one image."""
    data_path: DataPath = None
    split: str = "val"
    """Its split."""
    format: Literal["png", "svg", "pdf"] = "png"
    """The pictures' format. Those in svg and pdf can be enlarged."""
    num: int = 8
    """How many queries, spread evenly over the split (for FashionIQ, over each category)."""
    fashioniq_categories: Categories = ALL_CATEGORIES
    skip_unreadable: SkipUnreadable = False
    limit: Limit = None
    device: Device = "auto"

    @property
    def data(self) -> DataConfig:
        """The dataset, and how it is read."""
        assert self.dataset is not None
        return DataConfig(
            self.dataset,
            self.data_path,
            fashioniq_categories=self.fashioniq_categories,
            skip_unreadable=self.skip_unreadable,
            limit=self.limit,
        )


def check(options: Options, *, needs_text: bool) -> None:
    """Refuse options that name no image, or two kinds of them.

    Raises:
        UserError: neither or both of --image and --dataset; a --text without an image, missing
            where it is needed, or too long; an --image that cannot be read; a --num below 1; a
            folder that may not be written.
    """
    from gatedcir.benchmarks.load import check_caption
    from gatedcir.data.readable import why_unreadable
    from gatedcir.run_folder.claim import check_free

    if options.output is not None:
        check_folder_to_write(options.output, "--output")
        check_free(options.output, "--output")
    one, text = options.image is not None, bool(options.text)
    stray, missing = text and not one, one and needs_text and not text
    if one == (options.dataset is not None) or stray or missing:
        with_text = "with --text TEXT" if needs_text else "[--text TEXT]"
        raise UserError(f"give either --image FILE {with_text}, or --dataset NAME.")
    for given in options.text:
        check_caption(given, where="--text")
    if options.image is not None:
        if options.image.is_dir():
            raise UserError(f"--image {options.image} is a folder; name one image in it.")
        if not options.image.is_file():
            raise UserError(f"there is no image {options.image}; check the path after --image.")
        if reason := why_unreadable(options.image):
            raise UserError(
                f"--image {options.image} cannot be read ({reason}); name another image file."
            )
    if options.num < 1:
        raise UserError(f"--num {options.num} asks for no picture; give 1 or more.")


def open_one(options: Options) -> tuple["Evaluator", "Tensor"]:
    """The model, and the pixels [3, H, W] of the one image."""
    from gatedcir.assemble.data import make_transform
    from gatedcir.assemble.evaluator import make_evaluator, open_checkpoint
    from gatedcir.data.sources import PixelSource

    assert options.image is not None
    model, tokenizer, config = open_checkpoint(options.model_path, options.device)
    source = PixelSource({"reference": options.image}, make_transform(config, model))
    return make_evaluator(config, model, tokenizer, source), source["reference"]


def chosen(available: int, wanted: int) -> list[int]:
    """Numbers of the chosen queries, spread evenly over all queries.

    >>> chosen(9, 3), chosen(2, 8)
    ([0, 4, 8], [0, 1])
    """
    import numpy as np

    return np.linspace(0, available - 1, min(available, wanted)).astype(int).tolist()


def file_of(options: Options, split: str, query: str, what: str = "") -> Path:
    """Where a query's picture goes."""
    name = f"{split}-{query}{what}".replace(" ", "-").replace("/", "-")  # of your own, any id
    return options.output / f"{name}.{options.format}"


def picture_of(pixels: "Tensor", transform: "Transform") -> "np.ndarray":
    """The image [H, W, 3] that the model sees."""
    from gatedcir.visualize.maps import to_picture

    return to_picture(pixels, mean=transform.mean, std=transform.std).numpy()
