"""The features of all training images, and the similarity of a query to each of them.

Several processes each keep an equal part of the bank, in the order of the processes.
Shapes: W processes, B queries, G images of the bank, g images of a block or of a part, Q token
features of an image, E embedding width.
"""

import os
import tempfile
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributed.nn.functional import all_gather, all_to_all_single

from gatedcir import processes
from gatedcir.files import room_for

_BLOCK_ENTRIES = 1 << 22  # products held at once
_SHARE_OF_GPU = 0.5  # of its free memory, which one store may take


class _BankSimilarity(torch.autograd.Function):
    """The best inner product with any token of each image, block by block.

    The backward pass needs only the place of the best token, one byte for each query and image (two
    from 256 tokens on). Autograd would keep all products, Q times as many floats.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, bank: Tensor, entries: int) -> Tensor:
        """[B, E], [G, Q, E] -> [B, G] in the query's precision."""
        images, tokens, _ = bank.shape
        found = query.new_empty(len(query), images)
        kind = torch.uint8 if tokens <= 256 else torch.int16
        best = torch.empty(len(query), images, dtype=kind, device=query.device)
        for some in _blocks(query, bank, entries):
            products = (query @ _rows(bank[some], query).T).unflatten(1, (-1, tokens))  # [B, g, Q]
            found[:, some], which = products.max(-1)
            best[:, some] = which
        ctx.save_for_backward(query, bank, best)
        ctx.entries = entries
        return found

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of the query: the sum of the best tokens, weighted. The bank has none."""
        query, bank, best = ctx.saved_tensors
        found = torch.zeros_like(query)
        for some in _blocks(query, bank, ctx.entries):
            weights = gradient[:, some]
            chosen = gradient.new_zeros(*weights.shape, bank.shape[1])  # [B, g, Q]
            chosen.scatter_(2, best[:, some, None].long(), weights[..., None])
            found += chosen.flatten(1) @ _rows(bank[some], query)
        return found, None, None


def bank_similarity(query: Tensor, bank: Tensor, *, entries: int = _BLOCK_ENTRIES) -> Tensor:
    """Best inner product of each query with an image's features: [B, E], [G, Q, E] -> [B, G].

    Value and gradient are those of `losses.token_similarity`. Of several best tokens the gradient
    takes the first. The bank has no gradient, and may have another precision and memory.

    Args:
        query: [B, E].
        bank: [G, Q, E].
        entries: products that are held at once.

    >>> query = torch.tensor([[1.0, 0.0]], requires_grad=True)
    >>> found = bank_similarity(query, torch.tensor([[[0.5, 9.0], [0.25, 0.0]]]).half())
    >>> found.sum().backward()
    >>> found.tolist(), query.grad.tolist()
    ([[0.5]], [[0.5, 9.0]])
    """
    return _BankSimilarity.apply(query, bank, entries)


def own_part(images: int) -> slice:
    """The images of the bank that this process keeps. Later processes may have fewer, or none.

    >>> own_part(5)
    slice(0, 5, None)
    """
    width, rank = _width(images), processes.rank()
    return slice(min(images, rank * width), min(images, (rank + 1) * width))


def _width(images: int) -> int:
    """How many images the first process keeps, which has the most."""
    return -(-images // processes.count())


def similarity_to_all(query: Tensor, part: Tensor, images: int) -> Tensor:
    """As `bank_similarity`, with the images of all processes: [B, E], [g, Q, E] -> [B, G].

    Each process compares the queries of all with its own part, and sends each query's numbers to
    the process that asked. So no process needs another one's part. All of them must call it, with
    as many queries each. Gradients flow back the same way.

    Args:
        query: [B, E], of this process.
        part: [g, Q, E], the images `own_part(images)`.
        images: G.
    """
    if processes.count() == 1:
        return bank_similarity(query, part)
    found = bank_similarity(torch.cat(all_gather(query)), part)  # [W * B, g]
    found = F.pad(found, (0, _width(images) - len(part)))
    found = all_to_all_single(torch.empty_like(found), found)  # this process's rows, by part
    return found.unflatten(0, (processes.count(), -1)).transpose(0, 1).flatten(1)[:, :images]


def whole_bank(part: Tensor, images: int, device: torch.device) -> Tensor:
    """The parts of all processes together, on all of them: [g, Q, E] -> [G, Q, E] on the CPU.

    Args:
        part: [g, Q, E], the images `own_part(images)`.
        images: G.
        device: where processes can exchange tensors.
    """
    if processes.count() == 1:
        return part
    full = F.pad(part.to(device), (0, 0, 0, 0, 0, _width(images) - len(part)))
    parts = []
    for number in range(processes.count()):
        sent = full.clone()
        dist.broadcast(sent, number)
        parts.append(sent.cpu())
    return torch.cat(parts)[:images]


def _blocks(query: Tensor, bank: Tensor, entries: int) -> list[slice]:
    """Slices of the bank's images."""
    width = max(1, entries // (len(query) * bank.shape[1]))
    return [slice(start, start + width) for start in range(0, len(bank), width)]


def _rows(block: Tensor, query: Tensor) -> Tensor:
    """A block [g, Q, E] as rows [g * Q, E], where and as the query is."""
    return block.to(query.device, query.dtype).flatten(0, 1)


def make_store(shape: tuple[int, ...], *, device: torch.device, folder: Path) -> Tensor:
    """Room for features in half precision: on a GPU if it has the memory, else in a file.

    The file has no name in the folder. It ends with the process, even if that is killed.

    Raises:
        UserError: the folder has no room for it.
    """
    size = 2 * prod(shape)
    if not size:  # of which no file can be mapped
        return torch.zeros(shape, dtype=torch.float16)
    if device.type == "cuda" and size < _SHARE_OF_GPU * torch.cuda.mem_get_info(device)[0]:
        return torch.zeros(shape, dtype=torch.float16, device=device)
    with room_for(folder, size=size), tempfile.TemporaryFile(dir=folder) as file:
        if hasattr(os, "posix_fallocate"):  # else a full disk kills the process at some later page
            os.posix_fallocate(file.fileno(), 0, size)
        return torch.from_numpy(np.memmap(file, np.float16, mode="w+", shape=shape))
