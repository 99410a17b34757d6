"""Write the two files that the CIRR test server takes: parse, open, rank, check, write."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gatedcir.config import DataConfig, DataPath, ModelPath, NumWorkers
from gatedcir.errors import check_folder_to_write, run_command
from gatedcir.parsing import parse


@dataclass(frozen=True)
class Options:
    """Which model, and where its answers go."""

    model_path: ModelPath
    output_dir: Path
    """Folder for the two files."""
    data_path: DataPath = None
    num_workers: NumWorkers = DataConfig.num_workers


def main(argv: Sequence[str] | None = None) -> None:
    """Rank CIRR's test1 and write both files."""
    options = parse(Options, argv, description="Write the CIRR server's two files.")
    from gatedcir.assemble import open_evaluator
    from gatedcir.retrieval.submission import write_submission
    from gatedcir.validate import rank

    check_folder_to_write(options.output_dir, "--output-dir")
    data = DataConfig("CIRR", options.data_path, num_workers=options.num_workers)
    evaluator, [split] = open_evaluator(options.model_path, data, "test1")
    ranking = rank(split, *evaluator.encode(split))
    numbers = range(len(split.triplets))
    for file in write_submission(
        options.output_dir,
        pair_ids=[triplet.query_id for triplet in split.triplets],
        references=[triplet.reference for triplet in split.triplets],
        retrieved=[ranking.names(number) for number in numbers],
        group_retrieved=[ranking.group_names(number) for number in numbers],
    ):
        print(f"{file}: {len(numbers)} queries, {file.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    run_command(main)
