"""What each process of a data-parallel test runs: `data_parallel.py FOLDER`, under a launcher."""

import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from gatedcir.models.encoded import Encoded
from gatedcir.options.config import LossConfig
from gatedcir.training.accumulate import backward_in_chunks
from gatedcir.training.bank import own_part, similarity_to_all, whole_bank
from gatedcir.training.losses import losses_of, total_loss

BATCH, PROCESSES, QUERIES, WIDTH = 4, 2, 3, 5
TARGET_IDS = torch.tensor([0, 1, 2, 3, 4, 1, 5, 6])  # one image is the target on both processes


def batch_and_head() -> tuple[Tensor, torch.nn.Linear]:
    """The whole batch, and a layer that stands in for the model; both always the same."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(BATCH * PROCESSES, WIDTH, generator=generator)
    head = torch.nn.Linear(WIDTH, WIDTH * (QUERIES + 2))
    with torch.no_grad():
        head.weight.copy_(torch.randn(head.weight.shape, generator=generator))
        head.bias.zero_()
    return inputs, head


def encoded_by(head: torch.nn.Module, inputs: Tensor) -> Encoded:
    """All features come from one trainable layer."""
    out = torch.nn.functional.normalize(head(inputs).unflatten(1, (QUERIES + 2, WIDTH)), dim=-1)
    prompts = torch.linspace(0, 1, WIDTH)
    return Encoded(out[:, 0], out[:, 1], out[:, 2:], out.mean(1), prompts, {}, {})


def terms_of(
    found: Encoded, target_ids: Tensor, temperature: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The training loss and its terms."""
    losses = losses_of(found, target_ids, temperature)
    return total_loss(losses, LossConfig()), losses


def loss_of(
    head: torch.nn.Module, inputs: Tensor, target_ids: Tensor, temperature: Tensor | None = None
) -> Tensor:
    """The training loss of a layer."""
    temperature = torch.tensor(0.07) if temperature is None else temperature
    return terms_of(encoded_by(head, inputs), target_ids, temperature)[0]


def half_of_the_batch() -> tuple[Tensor, Tensor]:
    """Loss of this process's half of the batch and the gradient of both.

    The parallel model ends with this function: were it the last to hold the process group, torch
    2.13 would at times wait for ever for a thread that waits for the interpreter's lock.
    """
    inputs, head = batch_and_head()
    model = torch.nn.parallel.DistributedDataParallel(head)
    rank = dist.get_rank()
    mine = slice(rank * BATCH, (rank + 1) * BATCH)
    loss = loss_of(model, inputs[mine], TARGET_IDS[mine])
    loss.backward()
    assert head.weight.grad is not None
    return loss.detach(), head.weight.grad


def bank_loss(
    head: torch.nn.Module, inputs: Tensor, labels: Tensor, compare: Callable[[Tensor], Tensor]
) -> Tensor:
    """The contrast of a layer's queries with a bank, by the similarities that `compare` gives."""
    return torch.nn.functional.cross_entropy(compare(encoded_by(head, inputs).query) / 0.07, labels)


def bank_and_labels() -> tuple[Tensor, Tensor]:
    """Features of three images for two processes, and the right image of each triplet."""
    generator = torch.Generator().manual_seed(1)
    bank = torch.randn(3, QUERIES, WIDTH, generator=generator).half()
    return bank, torch.tensor([0, 1, 2, 0, 2, 1, 1, 0])


def half_of_the_bank() -> tuple[Tensor, Tensor, Tensor]:
    """Loss and gradient of this process's half of the batch, and the bank of both processes."""
    inputs, head = batch_and_head()
    bank, labels = bank_and_labels()
    model = torch.nn.parallel.DistributedDataParallel(head)
    rank, own = dist.get_rank(), bank[own_part(len(bank))]
    mine = slice(rank * BATCH, (rank + 1) * BATCH)
    loss = bank_loss(
        model, inputs[mine], labels[mine], lambda query: similarity_to_all(query, own, len(bank))
    )
    loss.backward()
    assert head.weight.grad is not None
    return loss.detach(), head.weight.grad, whole_bank(own, len(bank), torch.device("cpu"))


class Head(torch.nn.Module):
    """The layer, and the temperature among its parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = batch_and_head()[1]
        self.temp = torch.nn.Parameter(torch.tensor(0.07))

    def forward(self, inputs: Tensor) -> Encoded:
        """Features [B, ...] of inputs [B, D]."""
        return encoded_by(self.layer, inputs)


def half_in_chunks() -> tuple[Tensor, Tensor, Tensor]:
    """The same half computed in three chunks: loss, gradients of the layer and the temperature."""
    inputs, head = batch_and_head()[0], Head()
    model = torch.nn.parallel.DistributedDataParallel(head)
    rank = dist.get_rank()
    mine = slice(rank * BATCH, (rank + 1) * BATCH)
    loss, _, _ = backward_in_chunks(
        model,
        [partial(model, part) for part in inputs[mine].tensor_split(3)],
        temperature=head.temp,
        loss_of=lambda found, temp: terms_of(found, TARGET_IDS[mine], temp),
        scale=lambda loss: loss,
        device=torch.device("cpu"),
    )
    assert head.layer.weight.grad is not None and head.temp.grad is not None
    return loss, head.layer.weight.grad, head.temp.grad


def main(folder: str) -> None:
    """Losses and gradients of this process's half of the batch, into `folder`."""
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    torch.save(half_of_the_batch(), f"{folder}/{dist.get_rank()}.pt")
    torch.save(half_in_chunks(), f"{folder}/chunks_{dist.get_rank()}.pt")
    torch.save(half_of_the_bank(), f"{folder}/bank_{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
