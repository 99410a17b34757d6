"""ONNX graphs in the place of a model: the same features by onnxruntime (the extra `onnx`).

Shapes: B batch, Q query tokens, T text tokens, E embedding width, H x W pixels.
"""

import importlib.util
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gatedcir.errors import UserError, reason_of
from gatedcir.models.text import Tokens
from gatedcir.start import Aux
from gatedcir.visual import Visual

GRAPHS = ("image", "query", "text")
SHORTEST = 3  # tokens of a text in a graph: [CLS], a word, [SEP]


class OnnxModel:
    """The encoders of `ComposedRetriever`, without its fusions' reports.

    Args:
        folder: holds the graphs.
        num_query_tokens: Q.
        embedding_width: E.
    """

    matcher = None
    fusion = None

    def __init__(self, folder: Path, *, num_query_tokens: int, embedding_width: int) -> None:
        needs("onnxruntime")
        self.num_query_tokens, self.embedding_width = num_query_tokens, embedding_width
        try:
            self._sessions = {name: session(folder / f"{name}.onnx") for name in GRAPHS}
        except Exception as error:  # the runtime's errors have no common base
            raise UserError(
                f"the graphs of {folder} cannot be opened ({reason_of(error)}); export the model "
                "again."
            ) from None

    def levels(self, pixels: Tensor) -> Tensor:
        """The graphs read pixels."""
        return pixels

    def encode_target(self, pixels: Tensor) -> Tensor:
        """As `ComposedRetriever.encode_target`."""
        return self._run("image", pixels)

    def encode_query(
        self, visual: Visual, text: Tokens, *, keep: Tensor | None = None
    ) -> tuple[Tensor, Aux]:
        """As `ComposedRetriever.encode_query`, with an empty aux. UserError if `keep` is given."""
        if keep is not None:
            raise UserError("ONNX graphs have no strength of the fusion; search with PyTorch.")
        assert isinstance(visual, Tensor)
        return self._run("query", visual, *_padded(text)), {}

    def encode_text(self, text: Tokens, *, prompted: bool = True) -> Tensor:
        """As `ComposedRetriever.encode_text`. The graph was written with or without prompts."""
        return self._run("text", *_padded(text))

    def _run(self, name: str, *values: Tensor) -> Tensor:
        [found] = self._sessions[name].run(None, inputs_of(*values))
        return torch.from_numpy(found)


def _padded(text: Tokens) -> Tokens:
    """Texts of no word, made as long as the graphs want them."""
    missing = max(0, SHORTEST - text.input_ids.shape[1])
    return Tokens(*(F.pad(part, (0, missing)) for part in text)) if missing else text


def inputs_of(*values: Tensor) -> dict[str, Any]:
    """Pixels, or words and their mask, or all three, by the names of the graphs' inputs."""
    names = (("pixels",) if values[0].ndim == 4 else ()) + ("words", "mask")
    return {name: value.numpy() for name, value in zip(names, values, strict=False)}


def session(file: Path) -> Any:
    """A graph that is ready to run, with as many threads as torch."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def needs(*packages: str) -> None:
    """UserError if packages of the extra are not installed."""
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"ONNX needs {' and '.join(missing)}, not installed here; run pip install "
            "'gatedcir[onnx]'."
        )
