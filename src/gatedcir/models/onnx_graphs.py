"""A model as ONNX graphs, which onnxruntime computes without torch (the extra `onnx`).

Shapes: B batch, Q query tokens, T text tokens, E embedding width, H x W pixels.
"""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gatedcir.errors import UserError, reason_of
from gatedcir.models.onnx_model import SHORTEST, inputs_of, needs, session
from gatedcir.models.retriever import ComposedRetriever
from gatedcir.models.text import Tokens
from gatedcir.resources import tensor_bytes

CLOSE = 1e-4  # how far features may be from those of PyTorch
_IN_ONE_FILE = 2**30  # bytes of weights; a file of protobuf ends at 2 GiB


class _Image(nn.Module):
    """Pixels [B, 3, H, W] -> target features [B, Q, E]."""

    def __init__(self, model: ComposedRetriever) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Tensor:
        return self.model.encode_target(pixels)


class _Query(_Image):
    """Pixels and words [B, T] with their mask -> query features [B, E]."""

    def forward(self, pixels: Tensor, words: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return self.model.encode_query(pixels, Tokens(words, mask))[0]


class _Text(_Image):
    """Words [B, T] with their mask -> features of the text alone [B, E]."""

    def __init__(self, model: ComposedRetriever, *, prompted: bool) -> None:
        super().__init__(model)
        self.prompted = prompted

    def forward(self, words: Tensor, mask: Tensor) -> Tensor:  # type: ignore[override]
        return self.model.encode_text(Tokens(words, mask), prompted=self.prompted)


def write_graphs(
    model: ComposedRetriever, folder: Path, *, max_length: int, prompted: bool, int8: bool
) -> dict[str, float]:
    """Write image.onnx, query.onnx and text.onnx, and compare each with PyTorch.

    Args:
        model: in float32, on the CPU.
        folder: is there.
        max_length: the most tokens of a text.
        prompted: whether a text alone goes through the learned prompts.
        int8: keep the weights of matrix products in 8 bits, and round their inputs as they come.

    Returns:
        The greatest difference to a feature of PyTorch, by graph.

    Raises:
        UserError: a package is missing; a part of the model has no form in ONNX; the graphs in
            float32 differ from PyTorch.
    """
    needs("onnx", "onnxruntime", "onnxscript")
    model.eval().requires_grad_(False)
    size = model.backbone.image_size
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    words = torch.arange(2 * 5).view(2, 5)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]])
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", min=3, max=max_length)
    of_words = [{0: batch, 1: length}] * 2
    graphs: dict[str, tuple[_Image, tuple[Tensor, ...], list[dict[int, Any]]]] = {
        "image": (_Image(model), (pixels,), [{0: batch}]),
        "query": (_Query(model), (pixels, words, mask), [{0: batch}, *of_words]),
        "text": (_Text(model, prompted=prompted), (words, mask), of_words),
    }
    return {
        name: _write(folder / f"{name}.onnx", *graph, int8=int8) for name, graph in graphs.items()
    }


def _write(
    file: Path,
    module: _Image,
    example: tuple[Tensor, ...],
    shapes: list[dict[int, Any]],
    *,
    int8: bool,
) -> float:
    large = tensor_bytes(module.state_dict()) > _IN_ONE_FILE
    try:
        with _quiet(), torch.no_grad():
            program = torch.export.export(
                module,
                example,
                dynamic_shapes=tuple(shapes),
                prefer_deferred_runtime_asserts_over_guards=True,
            )
            found = torch.onnx.export(program, dynamo=True, verbose=False)
    except Exception as error:  # the exporters' errors have no common base
        raise UserError(
            f"a part of the model has no form in ONNX ({reason_of(error)}); search with PyTorch."
        ) from error
    assert found is not None
    found.save(file, external_data=large)
    if int8:
        _quantise(file, large=large)
    return _difference(file, module, example, int8=int8)


def _quantise(file: Path, *, large: bool) -> None:
    """Replace a graph by one with matrix products in 8 bits."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    whole = file.with_name("fp32.onnx")
    data = file.with_name(f"{file.name}.data")
    file.rename(whole)  # the file with its weights keeps its name until it is not needed
    with _quiet():
        small = file.with_name(f"int8_{file.name}")
        quantize_dynamic(
            whole,
            small,
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=large,
        )
    whole.unlink()
    data.unlink(missing_ok=True)
    small.rename(file)


def _difference(file: Path, module: _Image, example: tuple[Tensor, ...], *, int8: bool) -> float:
    """The greatest difference to PyTorch, for three images and the shortest texts.

    UserError if it is too great.
    """
    others = [
        torch.cat([value, value[:1]])[:, :SHORTEST] if value.ndim == 2 else value[[0, 1, 0]]
        for value in example
    ]
    with torch.no_grad():
        expected = module(*others).numpy()
    [found] = session(file).run(None, inputs_of(*others))
    difference = float(np.abs(found - expected).max())
    if not int8 and not difference <= CLOSE:
        raise UserError(
            f"{file.name} differs from PyTorch by {difference:.1g}; search with PyTorch, and "
            "report the model."
        )
    return difference


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' remarks on their own progress."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
