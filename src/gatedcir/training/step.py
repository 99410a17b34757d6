"""One training step, for both the training loop and dry runs."""

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator, DistributedType, InitProcessGroupKwargs
from torch import Tensor, nn

from gatedcir.data.batches import Batch
from gatedcir.device import Device, find_device
from gatedcir.errors import UserError
from gatedcir.models.encoded import Encoded
from gatedcir.models.retriever import ComposedRetriever
from gatedcir.models.text import Tokenizer, Tokens
from gatedcir.options.config import Config
from gatedcir.resources import keep_freed_memory
from gatedcir.start import Aux
from gatedcir.training.accumulate import Forward, Part, backward_in_chunks, split
from gatedcir.training.averaging import AveragedWeights
from gatedcir.training.health import finite_everywhere, remark_on_lesson
from gatedcir.training.losses import CHANCES, losses_of, total_loss
from gatedcir.training.optim import check_state, make_optimizer
from gatedcir.training.sharding import (
    average_scalars,
    clip_gradients,
    gathered,
    shard,
    shards_are_asked_for,
    spread,
)
from gatedcir.visual import Visual, move, take

_FOREIGN = (DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)
TEMPERATURES = (0.001, 0.5)  # bounds of the learned temperature, as in ALBEF and BLIP
LEAST_OF_RCL = 0.01  # below it the complementary loss of a hard triplet has no gradient


@dataclass
class TrainingStep:
    """A model with its optimiser, schedule and loss scaler."""

    config: Config
    runs_on: Device
    model: ComposedRetriever
    wrapped: nn.Module  # the model as Accelerate spreads it over processes
    tokenizer: Tokenizer
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR
    scaler: torch.amp.GradScaler  # of the loss, for fp16. It changes nothing otherwise.
    averaged: AveragedWeights | None = None  # over the steps, with --ema
    was_skipped: bool = False  # the last step, with --on-nan skip

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.runs_on.device

    @property
    def rates(self) -> dict[str, float]:
        """The learning rates of the next step: of pretrained weights, and of the fusions."""
        rates = self.schedule.get_last_lr()  # the fusions' groups are the last ones
        return {"learning_rate": float(rates[0]), "fusion_learning_rate": float(rates[-1])}

    @property
    def temperatures(self) -> tuple[float, float]:
        """Bounds of the temperature."""
        least, most = TEMPERATURES
        return (LEAST_OF_RCL if self.config.recipe.loss == "rcl" else least), most

    def chance(self, compared: int) -> float:
        """The contrastive term of a model that guesses among so many targets of a step."""
        return CHANCES[self.config.recipe.loss](compared)

    def remark(self, figures: Mapping[str, float], compared: int) -> str | None:
        """What its user should know of the first epoch's means, if anything."""
        return remark_on_lesson(figures)

    def choose_scales(self, epoch: int) -> None:
        """Read one scale or all of them, as the epoch has it."""
        self.model.single_scale = epoch < self.config.optim.scale_warmup_epochs

    @torch.no_grad()
    def bound_temperature(self) -> None:
        """Keep the temperature within its bounds."""
        self.model.temp.clamp_(*self.temperatures)

    def prepare(self, epoch: int, encoded: Mapping[str, Tensor]) -> None:
        """Get ready for an epoch. Training of the whole model needs nothing.

        Args:
            epoch: its number.
            encoded: where a run goes on in the middle of the epoch, the result of `encoded` there.
        """

    def encoded(self) -> dict[str, Tensor]:
        """What the weights at the epoch's start have encoded, and later ones cannot."""
        return {}

    def __call__(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor], Aux]:
        """Learn from B triplets.

        Returns:
            The loss before the update, its terms, and the fusion's aux (of the last chunk).
        """
        tokens = self.tokenizer(batch.texts)
        count = self.config.optim.accumulate
        parts = split(batch.references, batch.targets, count)
        words = map(Tokens, *(part.tensor_split(count) for part in tokens))
        chunks: list[Forward] = [
            partial(self._encode, batch.images, *both) for both in zip(parts, words, strict=True)
        ]
        weights = None if batch.weights is None else batch.weights.to(self.device)
        target_ids = batch.target_ids.to(self.device, non_blocking=True)
        loss_of = partial(self._loss_of, target_ids, weights)
        self.optimizer.zero_grad()
        if count == 1:
            found = chunks[0]()
            loss, losses = loss_of(found, self.model.temp)
            self.scaler.scale(loss).backward()
        else:
            loss, losses, found = backward_in_chunks(
                self.wrapped,
                chunks,
                temperature=self.model.temp,
                loss_of=loss_of,
                scale=self.scaler.scale,
                device=self.device,
            )
        self._update(loss)
        return loss, losses, found.aux

    def _encode(self, images: Visual, part: Part, texts: Tokens) -> Encoded:
        """Features of some triplets, computed on the model's device in its precision."""
        used, references, targets = part
        if self.config.run.compile:  # for as many images in every batch
            places = torch.cat([references, targets])
            used = places if used is None else used[places]
            references, targets = torch.arange(len(used)).chunk(2)
        shown = images if used is None else take(images, used)
        inputs = (move(each, self.device) for each in (shown, references, targets))
        with self.runs_on.autocast():
            return self.wrapped(*inputs, texts.to(self.device))

    def _loss_of(
        self, target_ids: Tensor, weights: Tensor | None, found: Encoded, temperature: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        options = self.config.loss
        of_scales = None
        if isinstance(options.loss_scale, tuple):
            of_scales = dict(zip(self.model.scales, options.loss_scale, strict=True))
        losses = losses_of(
            found,
            target_ids,
            temperature,
            scale_weights=of_scales,
            consistent=options.loss_consistency > 0,
            shuffled=options.gate_target == "shuffled",
            contrast=self.config.recipe.loss,
            weights=weights,
        )
        return total_loss(losses, options), losses

    def _update(self, loss: Tensor) -> None:
        self.was_skipped = self.config.run.on_nan == "skip" and not finite_everywhere(loss)
        if self.was_skipped:
            self.schedule.step()
            return
        average_scalars(self.model)
        self.scaler.unscale_(self.optimizer)
        clip_gradients(self.model.parameters(), self.config.optim.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.schedule.step()
        self.bound_temperature()
        if self.averaged is not None:
            self.averaged.update()

    def state(self) -> dict[str, Any]:
        """State other than the model that resuming needs. All processes must call it."""
        return {
            "optimizer": gathered(self.optimizer.state_dict()),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        } | ({} if self.averaged is None else {"averaged": self.averaged.state()})

    def load_state(self, state: dict[str, Any]) -> None:
        """Load the result of `state`. Other keys are ignored.

        Raises:
            UserError: it is of an optimiser with other groups of weights.
            ValueError: it fits the optimiser's weights in no way.
        """
        found = state["optimizer"]
        before, now = (
            [len(group["params"]) for group in groups]
            for groups in (found["param_groups"], self.optimizer.param_groups)
        )
        if before != now:
            raise UserError(
                "the optimiser's state groups the weights in another way than this version; go on "
                "with the revision that trained it, which provenance.json names, or start again."
            )
        check_state(found, self.optimizer)
        self.optimizer.load_state_dict(spread(found, self.optimizer))
        self.schedule.load_state_dict(state["schedule"])
        self.scaler.load_state_dict(state["scaler"])
        if self.averaged is not None:
            self.averaged.load_state(state["averaged"])


def make_accelerator(device: str = "auto") -> Accelerator:
    """The processes of a run, on the device that `--device` names.

    We use our own autocast, the same in training and evaluation. With Accelerate's, the first run
    in a process would fix the precision for all later ones.

    Raises:
        UserError: they are to be driven by DeepSpeed or Megatron-LM; there is no such device, or
            it is one GPU for several processes.
    """
    wanted = find_device(device)
    if wanted.index is not None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise UserError(
                f"--device {device} is for one process, and several are started; leave it out."
            )
        os.environ["ACCELERATE_TORCH_DEVICE"] = device
    patience = InitProcessGroupKwargs(timeout=timedelta(hours=6))  # others wait during validation
    accelerator = Accelerator(
        mixed_precision="no",
        cpu=wanted.type == "cpu",  # else processes on CPUs stay alone
        kwargs_handlers=[patience],
    )
    if accelerator.distributed_type in _FOREIGN:
        raise UserError(
            f"{accelerator.distributed_type.value} has its own training step, which this is not; "
            "launch with configs/accelerate/eight_gpus_fsdp.yaml to spread the weights."
        )
    return accelerator


def make_step(
    config: Config,
    accelerator: Accelerator,
    model: ComposedRetriever,
    tokenizer: Tokenizer,
    *,
    steps_per_epoch: int,
    module: nn.Module | None = None,
) -> TrainingStep:
    """The step that the config's options make of a model on its device.

    `module` is what the step calls instead of the model. It holds the model.
    """
    device = accelerator.device
    if device.type == "cpu":
        keep_freed_memory()
    if config.run.compile:
        # All texts get one length, because another length would be compiled again.
        tokenizer = Tokenizer(tokenizer.wordpiece, max_length=tokenizer.max_length, fixed=True)
        model.compile(dynamic=False)
    runs_on = Device.of(config.optim.mixed_precision, device)
    wrapped: nn.Module = model if module is None else module
    if shards_are_asked_for():
        shard(model, device)
    elif accelerator.num_processes > 1:
        wrapped = accelerator.prepare_model(wrapped)
    optimizer, schedule = make_optimizer(model, config.optim, steps_per_epoch=steps_per_epoch)
    return TrainingStep(
        config=config,
        runs_on=runs_on,
        model=model,
        wrapped=wrapped,
        tokenizer=tokenizer,
        optimizer=optimizer,
        schedule=schedule,
        scaler=torch.amp.GradScaler(device.type, enabled=runs_on.precision == torch.float16),
        averaged=AveragedWeights(model, ema) if (ema := config.recipe.ema) > 0 else None,
    )


def check_launch(config: Config, device: torch.device) -> None:
    """UserError if --compile cannot work here, or if options do not go with weights in shards."""
    precision = Device.of(config.optim.mixed_precision, device).precision
    for flag, given in (
        ("compile", config.run.compile),
        ("mixed-precision fp16", precision == torch.float16),
        ("ema", config.recipe.ema > 0),
        ("stage", config.recipe.stage != "whole"),
    ):
        if given and shards_are_asked_for():
            raise UserError(f"--{flag} does not go with weights in shards (FSDP); leave it out.")
    compiler = os.environ.get("CXX", "g++")
    if config.run.compile and device.type == "cpu" and shutil.which(compiler) is None:
        raise UserError(f"--compile needs the C++ compiler {compiler}; install it or leave it out.")
