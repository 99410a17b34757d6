"""Copy a dataset with its images already padded, resized and cropped for one model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro
from tqdm import tqdm

from gatedcir.config import DataConfig, DataPath, InDataset, NewFolder, NumWorkers, TransformConfig
from gatedcir.data import resized
from gatedcir.data.transforms import make_transform
from gatedcir.data.triplets import NAMES_SHOWN
from gatedcir.errors import UserError, check_new_folder, run_command
from gatedcir.files import whole_folder
from gatedcir.parsing import parse


@dataclass(frozen=True)
class Options:
    """What to copy where."""

    dataset: InDataset
    output: NewFolder
    data_path: DataPath = None
    image_size: int = 224
    """Side of the model's input in pixels."""
    num_workers: NumWorkers = DataConfig.num_workers
    transform: Annotated[TransformConfig, tyro.conf.arg(name="")] = field(
        default_factory=TransformConfig
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Write the copy, without images that are missing or cannot be read."""
    options = parse(Options, argv, description="Copy a dataset with its images resized.")
    source = DataConfig(options.dataset, options.data_path).folder
    check_new_folder(options.output, "--output")
    output = options.output.resolve()
    if output.is_relative_to(source.resolve()):
        raise UserError(f"--output {options.output} lies in the dataset's folder; name another.")
    transform = make_transform(
        options.transform.transform,
        size=options.image_size,
        target_ratio=options.transform.target_ratio,
        draft=options.transform.draft,
    )
    resized.check_note(source, transform)
    annotations = resized.annotation_files(source)
    parts = resized.read_parts(options.dataset, source, annotations)
    places = resized.choose_places(options.dataset, source, parts.values())
    files = {path: place for (_, path), place in places.items()}
    size, refusals = 0, []
    with whole_folder(output) as folder:
        resized.write_annotations(source, folder, annotations, parts, places)
        copies = resized.copy_images(folder, files, transform, num_workers=options.num_workers)
        for copy in tqdm(copies, "images", len(files), unit="img"):
            if copy.refusal:
                refusals.append(copy.refusal)
            else:
                size += copy.path.stat().st_size
        resized.check_copy(options.dataset, folder, parts, places)
        resized.write_note(folder, transform)
    for refusal in sorted(refusals)[:NAMES_SHOWN]:
        print(refusal)
    if refusals:
        print(f"{len(refusals)} images that cannot be read are left out")
    count = len(files) - len(refusals)
    print(f"{output}: {count} images of {options.image_size} px, {size / 1e6:.1f} MB")


if __name__ == "__main__":
    run_command(main)
