"""A cross-encoder of sentence-transformers as the judge of a search's first images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gatedcir.benchmarks.ranks import Scores
from gatedcir.errors import UserError, reason_of
from gatedcir.evaluation.reranking import Asked, Candidate
from gatedcir.models.weights.locations import is_reachable


@dataclass(frozen=True)
class CrossEncoderReranker:
    """Scores the pairs ((reference, text), candidate), and looks at nothing else."""

    encoder: Any  # a sentence_transformers.CrossEncoder
    open: Callable[[str], Image.Image]
    """Name of an image -> the image."""

    def rerank(self, query: Asked, candidates: Sequence[Candidate]) -> Scores:
        """As the protocol of `Reranker` says."""
        asked = {"image": self.open(query.reference), "text": query.text}
        pairs = [(asked, {"image": self.open(candidate.name)}) for candidate in candidates]
        found = np.asarray(self.encoder.predict(pairs, show_progress_bar=False))
        if found.shape != (len(pairs),):
            raise UserError(
                f"the cross-encoder gives {found.shape[1:]} numbers for a pair of images; name one "
                "that gives a single score."
            )
        return found.astype(np.float32)


def load_cross_encoder(name: str, device: str) -> Any:
    """The cross-encoder of that name on the hub, or in that folder. None of its own code is run.

    Raises:
        UserError: sentence-transformers is not installed, or the model cannot be had or reads no
            images.
    """
    try:
        from sentence_transformers import CrossEncoder
    except ImportError:
        raise UserError(
            "a cross-encoder needs sentence-transformers; run pip install 'gatedcir[rerank]'."
        ) from None
    if not Path(name).exists() and not is_reachable(name):
        raise UserError(
            f"there is no cross-encoder {name} here, and on the hub it is neither cached nor "
            f"reachable; check the path, or on a machine with internet run `hf download {name}`."
        )
    try:
        encoder = CrossEncoder(name, device=device, trust_remote_code=False)
    except Exception as error:  # its kinds depend on what the name stands for
        raise UserError(
            f"the cross-encoder {name} could not be opened ({reason_of(error)}); name a "
            "cross-encoder of sentence-transformers on the hub, or a folder that holds one."
        ) from error
    if not encoder.supports(("image", "text")):
        raise UserError(
            f"the cross-encoder {name} does not read an image with a text; name a multimodal one."
        )
    return encoder
