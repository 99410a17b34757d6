"""Copy a dataset with its images already padded, resized and cropped for one model."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

import tyro

from gatedcir.commands.main import COMMANDS
from gatedcir.errors import UserError, check_new_folder
from gatedcir.files import whole_folder
from gatedcir.options.config import (
    DATASETS,
    DataConfig,
    DataPath,
    NewFolder,
    NumWorkers,
    SkipUnreadable,
    TransformConfig,
)
from gatedcir.options.parsing import parse
from gatedcir.progress import bar


@dataclass(frozen=True)
class Options:
    """What to copy where."""

    dataset: Annotated[
        str,
        DATASETS,
        tyro.conf.arg(
            metavar=DATASETS.metavar,
            help="Dataset in its published layout. One of your own needs a Benchmark with "
            "`copies`.",
        ),
    ]
    output: NewFolder
    data_path: DataPath = None
    image_size: int = 224
    """Side of the model's input in pixels."""
    skip_unreadable: SkipUnreadable = False
    num_workers: NumWorkers = DataConfig.num_workers
    transform: Annotated[TransformConfig, tyro.conf.arg(name="")] = field(
        default_factory=TransformConfig
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Write the copy, without images that are missing.

    An image that cannot be read ends the command. With --skip-unreadable it is left out.
    """
    options = parse(Options, argv, description=COMMANDS["resize"])
    from gatedcir.benchmarks import resized
    from gatedcir.data.left_out import LIST, MISSING, count_reasons, write_list
    from gatedcir.data.readable import find_unreadable, refusal_of
    from gatedcir.data.transforms import make_transform

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
    named = {path for part in parts.values() for path in part.paths.values()}
    size, refused = 0, set()
    with whole_folder(output) as folder:
        resized.write_annotations(source, folder, annotations, parts, places)
        copies = resized.copy_images(folder, files, transform, num_workers=options.num_workers)
        for copy in bar(copies, desc="images", total=len(files), unit="img"):
            if copy.refusal:
                refused.add(copy.path)
            else:
                size += copy.path.stat().st_size
        suspects = {file for file, place in files.items() if folder / place in refused}
        left_out = dict.fromkeys(suspects, "not readable")
        left_out |= find_unreadable(
            sorted(suspects | (named - files.keys())),
            num_workers=options.num_workers,
            progress=False,
        )
        unreadable = {file: why for file, why in left_out.items() if why != MISSING}
        if unreadable and not options.skip_unreadable:
            raise refusal_of(left_out, len(named))
        if left_out:
            write_list(left_out, folder)
        resized.check_copy(options.dataset, folder, parts, places)
        resized.write_note(folder, transform)
    if left_out:
        print(
            f"{len(left_out)} of {len(named)} images are left out "
            f"({count_reasons(left_out.values())}); {output / LIST} lists them"
        )
    count = len(named) - len(left_out)
    print(f"{output}: {count} images of {options.image_size} px, {size / 1e6:.1f} MB")
