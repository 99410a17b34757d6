"""Trained models for other programs: load from a folder, the hub or a run, and write."""

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from gatedcir.assemble.kept import checkpoint_of
from gatedcir.assemble.model import trained_model
from gatedcir.errors import UserError, check_new_folder
from gatedcir.files import whole_files
from gatedcir.models.retriever import ComposedRetriever
from gatedcir.models.text import Tokenizer
from gatedcir.models.weights import hub_folder
from gatedcir.models.weights.names import ADDED, to_lavis, to_sprc
from gatedcir.models.weights.sources import SPRC_MODEL, load
from gatedcir.models.weights.vocabulary import vocabulary, wordpieces_from_json
from gatedcir.options.config import Config
from gatedcir.resources import tensor_bytes
from gatedcir.run_folder.checkpoint import Checkpoint
from gatedcir.run_folder.provenance import provenance


@dataclass(frozen=True)
class TrainedRetriever:
    """A model with its tokenizer, its options and its metrics."""

    model: ComposedRetriever
    tokenizer: Tokenizer
    config: Config
    """Options of its training, including those of fusion and transform."""
    epoch: int = 0
    """Epochs of training. 0 for weights that were not trained here."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Metrics on the validation split, in percent."""
    provenance: dict[str, Any] = field(default_factory=provenance)
    """The origin of the weights, and under `data` the protocol of each split."""

    @classmethod
    def from_pretrained(cls, name: str | Path) -> "TrainedRetriever":
        """A model in eval mode on the CPU, by any name that --model-path takes.

        Raises:
            UserError: nothing there, or not readable.
        """
        found = load(str(name))
        parts = trained_model(found, str(name))
        if found.run is None:
            return cls(*parts)
        return cls(*parts, found.run.epoch, found.run.metrics, found.run.provenance)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write a new folder in the hub's layout. `from_pretrained` reads it bit for bit.

        Raises:
            UserError: the folder is there and not empty.
        """
        hub_folder.write(self.to_checkpoint(), Path(folder))

    def push_to_hub(self, repository: str, *, private: bool = False) -> str:
        """Upload the folder of `save_pretrained`. Returns the repository's address.

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


_CONTENTS: dict[str, Callable[[Checkpoint], dict[str, Any]]] = {
    "lavis": lambda run: {"model": to_lavis(run.weights)},
    "sprc": lambda run: {"epoch": run.epoch, SPRC_MODEL: to_sprc(run.weights)},
}


def export_folder(name: str, folder: Path, *, push: str | None = None) -> str | None:
    """Write a model in the hub's layout. The name is one that --model-path takes.

    Args:
        name: of the model.
        folder: a new one.
        push: the hub repository to upload it to, if any.

    Returns:
        The repository's address, if there is one.

    Raises:
        UserError: the folder is not empty, or there is no such model or repository name, all
            before anything is written; or the upload failed.
    """
    if push is not None:
        hub_folder.check_repository(push)
    check_new_folder(folder, "--output")
    TrainedRetriever.from_pretrained(name).save_pretrained(folder)
    return None if push is None else hub_folder.push(folder, push)


_ENDING = {"lavis": ".pth", "sprc": ".pt"}


def export_file(name: str, file: Path, kind: str, *, drop_fusion: bool = False) -> None:
    """Write the model in LAVIS' or SPRC's names, with vocab.txt and config.json next to it.

    Args:
        name: of the model, as --model-path takes it.
        file: a new one in a folder without the other two.
        kind: "lavis" or "sprc".
        drop_fusion: leave out a fusion, because neither format has one. This changes the model.

    Raises:
        UserError: one of the files exists already, the model has a fusion, there is no model by
            this name, or there is no room. Nothing is written then.
    """
    contents = _CONTENTS[kind]
    if file.suffix not in _ENDING.values():
        raise UserError(
            f"{file} is no name for weights of --format {kind}; let it end in {_ENDING[kind]}."
        )
    targets = [file.with_name("vocab.txt"), file.with_name("config.json"), file]
    for path in targets:
        if path.exists():
            raise UserError(
                f"{path} is there already; name a file in a new folder, as vocab.txt and "
                "config.json go next to it."
            )
    run = _without_fusion(
        TrainedRetriever.from_pretrained(name).to_checkpoint(), name, kind, allowed=drop_fusion
    )
    content = contents(run)
    # The weights are moved last.
    with whole_files(*targets, size=tensor_bytes(content)) as unfinished:
        words = vocabulary(wordpieces_from_json(run.tokenizer))
        (unfinished / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
        sizes = json.dumps(run.backbone, indent=2)
        (unfinished / "config.json").write_text(sizes + "\n", encoding="utf-8")
        torch.save(content, unfinished / file.name)


def _without_fusion(run: Checkpoint, name: str, kind: str, *, allowed: bool) -> Checkpoint:
    """The run without the weights of its fusions. UserError if it has one and must keep it."""
    options = run.config["model"]
    strategy = options["gated-fusion"]["strategy"]
    has = [f"{strategy} fusion"] if strategy != "none" else []
    plain = {"visual-layers": [-1], "visual-scales": [1.0]}
    if any(list(options[option]) != value for option, value in plain.items()):
        has.append("other layers or scales than the last one at 1.0")
    if options["neck"] != "none":
        has.append(f"a {options['neck']} neck")
    if options.get("query-branch", "none") != "none":
        has.append("a Q-Former for queries alone")
    if options.get("matcher", "none") != "none":
        has.append("a matcher")
    if has and not allowed:
        raise UserError(
            f"{name} has {' and '.join(has)}, for which --format {kind} has no place; take "
            "--format hub, or pass --drop-fusion to lose what it learned."
        )
    weights = {n: weight for n, weight in run.weights.items() if not n.startswith(ADDED)}
    return replace(run, weights=weights)
