"""A run's folder: resolved config, provenance, metrics by epoch, checkpoints."""

import time
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from torch.utils.tensorboard import SummaryWriter

from gatedcir.checkpoint import write_json, write_text
from gatedcir.config import CONFIG_FILE, Config
from gatedcir.errors import UserError, check_folder_to_write
from gatedcir.parsing import to_dict

RUNS = Path("runs")  # holds the folders of runs that are given none
TRAIN, VALIDATION = "train_metrics.csv", "validation_metrics.csv"


class RunFolder:
    """Writes what a run leaves behind; every file is replaced whole."""

    def __init__(self, path: Path, *, done: int = 0) -> None:
        """Open a folder; rows of epochs after `done` are dropped, as resuming makes them anew."""
        self.path = path
        self.tables: dict[str, list[dict[str, Any]]] = {TRAIN: [], VALIDATION: []}
        for name in self.tables:
            file = path / name
            if done and file.is_file():
                table = pd.read_csv(file)
                rows = table[table["epoch"] < done].to_dict("records")
                self.tables[name] = [{str(key): value for key, value in r.items()} for r in rows]
        self.board = SummaryWriter(str(path / "tensorboard"), purge_step=done)

    @staticmethod
    def check_new(path: Path) -> None:
        """UserError if a path already holds a run, or cannot become a folder."""
        check_folder_to_write(path, "--output-dir")
        if (path / CONFIG_FILE).exists():
            raise UserError(
                f"{path} already holds a run; name another folder with --output-dir, or go on "
                f"with --resume {path} if it kept its training."
            )

    @classmethod
    def create(cls, config: Config, made_by: dict[str, Any]) -> "RunFolder":
        """A new folder with config and provenance; UserError if it already holds a run."""
        name = f"{config.data.dataset.lower()}-{config.backbone.blip_model_name}"
        path = config.run.output_dir or RUNS / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
        cls.check_new(path)
        path.mkdir(parents=True, exist_ok=True)
        write_json(path / "provenance.json", made_by)
        write_text(path / CONFIG_FILE, yaml.safe_dump(to_dict(config), sort_keys=False))
        return cls(path)

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints are."""
        return self.path / "checkpoints"

    def has(self, table: str, epoch: int) -> bool:
        """Whether a table has an epoch's row."""
        return any(row["epoch"] == epoch for row in self.tables[table])

    def add(self, table: str, epoch: int, row: dict[str, float]) -> None:
        """Append one epoch's row to a table and to TensorBoard."""
        rows = self.tables[table]
        rows.append({"epoch": epoch, **row})
        write_text(self.path / table, pd.DataFrame(rows).to_csv(index=False))
        kind = table.removesuffix("_metrics.csv")
        for name, value in row.items():
            self.board.add_scalar(f"{kind}/{name}", value, epoch)
        self.board.flush()
