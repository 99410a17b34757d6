"""A batch in chunks, with the loss and the gradients of the whole batch.

If the gradients of small batches were added up, each query would only see the negatives of its own
chunk. We therefore follow GradCache (Gao et al., RepL4NLP 2021). First, all features are computed
without a graph, and the loss of the whole batch is differentiated with respect to them. Then every
chunk is computed again with its graph, from the same random numbers, and passes these gradients on
to the weights. This costs one more forward pass, and memory for the graph of one chunk.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_leaves, tree_map

from gatedcir.models.encoded import Encoded

Forward = Callable[[], Encoded]


class Part(NamedTuple):
    """Some triplets of a batch."""

    images: Tensor | None  # the numbers of the images that they show, each once. None for all.
    references: Tensor  # which of those is each triplet's reference
    targets: Tensor  # which of those is each triplet's target


def backward_in_chunks(
    wrapped: nn.Module,
    chunks: Sequence[Forward],
    *,
    temperature: nn.Parameter,
    loss_of: Callable[[Encoded, Tensor], tuple[Tensor, dict[str, Tensor]]],
    scale: Callable[[Tensor], Tensor],
    device: torch.device,
) -> tuple[Tensor, dict[str, Tensor], Encoded]:
    """Add the gradients of the whole batch's loss to the weights.

    Dropout draws for each chunk by itself, and draws the same numbers in both passes. A layer that
    normalises over the batch would normalise over a chunk, and count it twice.

    Args:
        wrapped: the module that the chunks call, on this process or spread over several. Several
            processes exchange gradients once.
        chunks: each computes one part of the batch whenever it is called.
        temperature: a parameter of the module that the loss reads too.
        loss_of: features of the batch, and the temperature -> the loss and its terms.
        scale: scales the loss before it is differentiated.
        device: where the module is, for its random numbers.

    Returns:
        The loss and its terms, without a graph, and the last chunk's features and aux.
    """
    states, parts = [], []
    with torch.no_grad():
        for chunk in chunks:
            states.append(random_state(device))
            found = chunk()
            parts.append(found._replace(aux={}))  # gates are large
    after = random_state(device)
    leaves = [tensor.requires_grad_() for part in parts for tensor in _features(part)]
    leaf = temperature.detach().requires_grad_()
    loss, losses = loss_of(_join(parts), leaf)
    scale(loss).backward()
    gradients = iter([tensor.grad for tensor in leaves])
    for number, (chunk, state) in enumerate(zip(chunks, states, strict=True), start=1):
        last = number == len(chunks)
        with nullcontext() if last else _alone(wrapped):
            set_random_state(state, device)
            found = chunk()
            roots = _features(found)
            given = [next(gradients) for _ in roots]
            if last:  # processes exchange gradients here, once for every parameter
                roots.append(temperature)
                given.append(leaf.grad)
            used = [(root, g) for root, g in zip(roots, given, strict=True) if g is not None]
            torch.autograd.backward([root for root, _ in used], [g for _, g in used])
    set_random_state(after, device)
    return loss.detach(), {name: value.detach() for name, value in losses.items()}, found


def split(references: Tensor, targets: Tensor, chunks: int) -> Iterator[Part]:
    """Triplets in parts of nearly equal size, each with only the images that it shows.

    Args:
        references: [B], which of a batch's images is each triplet's reference.
        targets: [B], which of them is each triplet's target.
        chunks: how many parts.

    >>> [part.images.tolist() for part in split(torch.tensor([0, 0]), torch.tensor([1, 2]), 2)]
    [[0, 1], [0, 2]]
    """
    if chunks == 1:
        yield Part(None, references, targets)
        return
    for pair in zip(references.tensor_split(chunks), targets.tensor_split(chunks), strict=True):
        used, places = torch.cat(pair).unique(return_inverse=True)
        yield Part(used, *places.chunk(2))


def _features(found: Encoded) -> list[Tensor]:
    """All that the loss differentiates, in a fixed order."""
    return [leaf for leaf in tree_leaves(_by_triplet(found)) if leaf is not None]


def _join(parts: list[Encoded]) -> Encoded:
    """The chunks' features as those of one batch."""
    joined = tree_map(
        lambda *each: None if each[0] is None else torch.cat(each), *map(_by_triplet, parts)
    )
    return Encoded(**joined, prompt_mean=parts[0].prompt_mean, aux={})


def _by_triplet(found: Encoded) -> dict[str, Any]:
    """The fields that have a row for each triplet."""
    fields = found._asdict()
    return {name: fields[name] for name in fields if name not in ("prompt_mean", "aux")}


def _alone(wrapped: nn.Module) -> AbstractContextManager:
    """A context in which gradients stay on their process."""
    return wrapped.no_sync() if isinstance(wrapped, DistributedDataParallel) else nullcontext()


def random_state(device: torch.device) -> list[Tensor]:
    """The states of the random generators of the CPU and the GPU."""
    own = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return [torch.get_rng_state(), *own]


def set_random_state(state: list[Tensor], device: torch.device) -> None:
    """Set the states that `random_state` gave."""
    torch.set_rng_state(state[0])
    if len(state) > 1:
        torch.cuda.set_rng_state(state[1], device)
