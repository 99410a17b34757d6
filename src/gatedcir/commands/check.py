"""Read a data set once, and say what is wrong with it."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gatedcir.commands.main import COMMANDS
from gatedcir.errors import UserError
from gatedcir.options.config import DataConfig, DataPath, InDataset, NumWorkers
from gatedcir.options.parsing import parse
from gatedcir.outputs import check_files_to_write

_STATUS = "The exit status is 0 if nothing is wrong, 1 if something is, 2 if it cannot be read."


@dataclass(frozen=True)
class Options:
    """What to read, and where to write the report."""

    dataset: InDataset
    data_path: DataPath = None
    images: bool = True
    """Read the images too. --no-images looks at the annotations alone."""
    output: tuple[Path, ...] = ()
    """Files to write the whole report to: .json, .html or .txt. The text is always printed."""
    num_workers: NumWorkers = DataConfig.num_workers


def main(argv: Sequence[str] | None = None) -> None:
    """Print the report. If there are findings, exit with status 1."""
    options = parse(Options, argv, description=f"{COMMANDS['check']} {_STATUS}")
    from gatedcir.doctor import report
    from gatedcir.doctor.findings import Findings
    from gatedcir.doctor.forms import read_dataset
    from gatedcir.doctor.images import check_images, compare_names
    from gatedcir.doctor.triplets import check_part
    from gatedcir.files import write_json, write_text

    for file in options.output:
        if file.suffix not in report.FORMS:
            raise UserError(f"--output {file} must end in {', '.join(report.FORMS)}; rename it.")
    check_files_to_write(("--output", file, f"findings{file.suffix}") for file in options.output)
    folder = DataConfig(options.dataset, options.data_path).folder
    found, images = Findings(), None
    parts, absent = read_dataset(options.dataset, folder, found, images=options.images)
    for part in parts:
        check_part(part, found)
    if options.images:
        images = check_images(parts, found, num_workers=options.num_workers)
    else:
        compare_names(parts, found)
    queries = {part.name: len(part.entries) for part in parts}
    made = report.Report(options.dataset, folder, queries, absent, images, found)
    print(report.as_text(made))
    for file in options.output:
        content = report.FORMS[file.suffix](made)
        write_text(file, content) if isinstance(content, str) else write_json(file, content)
    if found:
        sys.exit(1)
