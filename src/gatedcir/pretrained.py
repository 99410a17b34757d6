"""A trained model as other programs use it: from a folder, the hub or a run, and back."""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gatedcir import checkpoint
from gatedcir.checkpoint import Checkpoint
from gatedcir.config import Config
from gatedcir.models import hub_folder
from gatedcir.models.build import checkpoint_of, trained_model
from gatedcir.models.composer import ComposedRetriever
from gatedcir.models.sources import load
from gatedcir.models.text import Tokenizer


@dataclass(frozen=True)
class TrainedRetriever:
    """A model with its tokenizer, its options and what was measured of it."""

    model: ComposedRetriever
    tokenizer: Tokenizer
    config: Config
    """Options of its training, those of fusion and transform among them."""
    epoch: int = 0
    """Epochs of training; 0 for weights that were not trained here."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Of the validation split, in percent."""
    provenance: dict[str, Any] = field(default_factory=checkpoint.provenance)
    """Where it was made, and under `data` the protocol of each split."""

    @classmethod
    def from_pretrained(cls, name: str | Path) -> "TrainedRetriever":
        """A model in eval mode on the CPU, by whatever name --model-path takes.

        Raises:
            UserError: nothing there, or not readable.
        """
        found = load(str(name))
        parts = trained_model(found, str(name))
        if found.run is None:
            return cls(*parts)
        return cls(*parts, found.run.epoch, found.run.metrics, found.run.provenance)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a new folder in the hub's layout; `from_pretrained` reads it bit for bit.

        Raises:
            UserError: the folder is there and not empty.
        """
        hub_folder.write(self.to_checkpoint(), Path(folder))

    def push_to_hub(self, repository: str, *, private: bool = False) -> str:
        """Upload what `save_pretrained` writes; the repository's address.

        Raises:
            UserError: no hub name, or the hub refuses or cannot be reached.
        """
        hub_folder.check_repository(repository)
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / repository.rpartition("/")[2]
            self.save_pretrained(folder)
            return hub_folder.push(folder, repository, private=private)

    def to_checkpoint(self) -> Checkpoint:
        """The model as it is now, without a trainer's state."""
        return checkpoint_of(
            self.model,
            self.tokenizer,
            self.config,
            epoch=self.epoch,
            metrics=self.metrics,
            provenance=self.provenance,
        )
