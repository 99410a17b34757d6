"""Whether a folder can be a dataset in its published layout, and what it is if it cannot."""

from pathlib import Path

from gatedcir.data.image_files import Listings
from gatedcir.errors import UserError

SIGNS = {"CIRR": "cirr/captions", "FashionIQ": "image_splits"}
"""A folder that each dataset has and the other one has not."""
ORIGINS = {
    "CIRR": "https://github.com/Cuberick-Orion/CIRR",
    "FashionIQ": "https://github.com/XiaoxiaoGuo/fashion-iq",
}


def check_layout(dataset: str, root: Path) -> None:
    """Look at a dataset's folder before its files are read.

    Raises:
        UserError: it is a file, is not there, holds another dataset, holds the dataset one folder
            further down, or holds photos only.
    """
    sources = f"it comes from {ORIGINS[dataset]}, and gatedcir synthetic draws a "
    sources += "small one for trials"
    if root.is_file():
        raise UserError(
            f"--data-path {root} is a file; name the folder that holds {dataset} in its published "
            f"layout ({sources})."
        )
    if not root.exists():
        raise UserError(
            f"there is no folder {root}; name that of {dataset} with --data-path ({sources})."
        )
    if (root / SIGNS[dataset]).is_dir():
        return
    for other, sign in SIGNS.items():
        if other != dataset and (root / sign).is_dir():
            raise UserError(
                f"{root} holds {other} and not {dataset}; pass --dataset {other}, or name another "
                "folder with --data-path."
            )
    inner = sorted(place for place in root.iterdir() if (place / SIGNS[dataset]).is_dir())
    if inner:
        raise UserError(f"{root} holds {dataset} in a folder; pass --data-path {inner[0]}.")
    photos = sum(map(len, Listings().images(root).values()))
    if photos:
        raise UserError(
            f"{root} holds {photos} images and no annotations of {dataset}, which say what to "
            f"search for; name the dataset's folder with --data-path ({sources})."
        )
