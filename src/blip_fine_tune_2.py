"""Fine-tune a composed-image-retrieval model: parse, build, fit."""

from collections.abc import Sequence

from gatedcir.config import Config, parse
from gatedcir.errors import run_command


def main(argv: Sequence[str] | None = None) -> None:
    """Train as the flags say; print where the run is."""
    config = parse(Config, argv, description="Fine-tune on CIRR or FashionIQ.")
    from gatedcir.train import fit

    folder = fit(config)
    if folder is not None:
        print(f"run: {folder}")


if __name__ == "__main__":
    run_command(main)
