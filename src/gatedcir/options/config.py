"""Every option of every command, once: its name, type, default and meaning.

The dataclasses give both the flags (`--learning-rate`, `--model.gated-fusion.strategy`) and the
YAML keys (`learning-rate`, `model: {gated-fusion: {strategy: ...}}`). `parsing` reads both. The
model's are in `model_config`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import tyro

from gatedcir.benchmarks.own import is_own
from gatedcir.benchmarks.registry import BENCHMARKS, benchmark
from gatedcir.errors import UserError
from gatedcir.options.marks import FREE_ON_RESUME, MAY_BE_PATH, OneOf, Range, Seldom
from gatedcir.options.model_config import ModelConfig
from gatedcir.options.recipe_config import RecipeConfig

Value = TypeVar("Value")
Free = Annotated[Value, FREE_ON_RESUME]
Precision = Literal["auto", "fp32", "bf16", "fp16"]

MOST_SEED = 2**32  # NumPy takes less

# Options that several commands take. Each has the same meaning in all of them.
DATASETS = OneOf(BENCHMARKS, "my_file:MyData", "triplets.jsonl", is_own)
InDataset = Annotated[
    str,
    DATASETS,
    MAY_BE_PATH,
    tyro.conf.arg(
        metavar=DATASETS.metavar,
        help="Dataset in its published layout, a file or folder of your own triplets, or a reader "
        "of your own by a path.",
    ),
]
MaybeDataset = Annotated[str | None, DATASETS, MAY_BE_PATH, tyro.conf.arg(metavar=DATASETS.metavar)]
DataPath = Annotated[
    Path | None,
    FREE_ON_RESUME,
    tyro.conf.arg(
        help="The dataset's folder. Without it: ./cirr_dataset, ./fashionIQ_dataset, "
        "./circo_dataset, or the folder of your own triplets."
    ),
]
ModelPath = Annotated[
    Path,
    tyro.conf.arg(
        help="A run's folder, a checkpoint file, or any weights that training's --backbone takes."
    ),
]
NewFolder = Annotated[
    Path, tyro.conf.arg(help="Folder to write. It must not exist yet, or be empty.")
]
NumWorkers = Annotated[
    int, FREE_ON_RESUME, Range(0), tyro.conf.arg(help="Processes that load images.")
]
SkipUnreadable = Annotated[
    bool,
    tyro.conf.arg(
        aliases=("--skip-missing",),
        help="Read all images first, and leave out images that are missing or cannot be read. "
        "Every report says how many.",
    ),
]
Categories = Annotated[
    tuple[Literal["dress", "shirt", "toptee"], ...],
    tyro.conf.arg(help="FashionIQ's categories that are used. Every report names them."),
]
ALL_CATEGORIES: Categories = ("dress", "shirt", "toptee")
Gallery = Annotated[
    Literal["split", "all"] | Path,
    tyro.conf.arg(
        help="The images that are searched at evaluation: those of the split, or those of all "
        "splits (for FashionIQ, of the category). Own triplets also take a folder of images, or a "
        "file that lists images."
    ),
]
FashionIQGallery = Annotated[
    Literal["original", "val-split"],
    tyro.conf.arg(
        help="FashionIQ gallery: the whole published split, or only images of its triplets."
    ),
]
MeasuredSplit = Annotated[
    Literal["val", "train", "test"],
    tyro.conf.arg(help="The dataset's split. Its targets must be published."),
]
AnsweredSplit = Annotated[
    Literal["test", "val"],
    tyro.conf.arg(help="The split whose queries are answered. CIRR's test split is test1."),
]
Device = Annotated[
    str,
    tyro.conf.arg(
        help="Where to compute: cpu, cuda, or one GPU such as cuda:1. auto: a GPU if there is one."
    ),
]
Limit = Annotated[
    int | None,
    tyro.conf.arg(
        help="For trials: use only this many triplets, the first ones of each split (for "
        "FashionIQ, of each category). Every report says so."
    ),
]
OLD_OUTPUT = tyro.conf.arg(aliases=("--output-dir",))  # as release 0.1 called it
TrainTriplets = Annotated[int, tyro.conf.arg(help="Training triplets to draw.")]


@dataclass(frozen=True)
class DataConfig:
    """Which images and texts, and how they are read."""

    dataset: InDataset
    data_path: DataPath = None
    fashioniq_protocol: Seldom[FashionIQGallery] = "original"
    fashioniq_categories: Categories = ALL_CATEGORIES
    gallery: Seldom[Gallery] = "split"
    skip_unreadable: SkipUnreadable = False
    num_workers: NumWorkers = 2
    limit: Limit = None

    @property
    def folder(self) -> Path:
        """The dataset's folder."""
        found = self.data_path or benchmark(self.dataset).folder
        if found is None:
            raise UserError(f"{self.dataset} has no usual folder; name it with --data-path.")
        return found


@dataclass(frozen=True)
class TransformConfig:
    """How an image becomes the model's input."""

    transform: Seldom[Literal["targetpad", "squarepad", "clip"]] = "targetpad"
    """How an image becomes a square: pad to the target ratio, pad to a square, or only crop."""
    target_ratio: Seldom[Annotated[float, Range(1)]] = 1.25
    """Side ratio to which targetpad pads longer images."""
    draft: Seldom[bool] = False
    """Decode JPEGs at a fraction of their size, but at least twice the input's (Pillow's draft
    mode). This is faster. Pixels differ a little from those that published weights know."""


@dataclass(frozen=True)
class BackboneConfig:
    """Which pretrained weights."""

    blip_model_name: Seldom[Literal["blip2_cir_align_prompt"]] = "blip2_cir_align_prompt"
    """The composed-retrieval model, as the published trainer names it. There is one. Without gated
    fusion it is the published SPRC."""
    backbone: Free[Annotated[str, MAY_BE_PATH]] = "tiny"
    """tiny (embedded), pretrain or coco (BLIP-2 of the hub), pretrain_vitL (LAVIS' file in this
    folder), another hub name, a folder in the hub's layout, a .pth of LAVIS, a .pt of SPRC, or a
    run. random-vit-g and random-vit-l have the real sizes, random weights and the tiny vocabulary.
    Use them to try out speed and memory."""
    image_size: int | None = None
    """Side of the input in pixels. Positions are interpolated. Without it: the weights' own."""
    train_vision: bool = False
    """Train the vision tower too, for other image domains. Its features are then not cached."""
    gradient_checkpointing: Free[Seldom[bool]] = False
    """Keep only the inputs of the trained tower's blocks, and compute the rest again for the
    gradients. They stay the same. This needs less memory and more time."""
    scales_sequential: Free[Seldom[bool]] = False
    """Keep the activations of the trained tower for one scale at a time. The gradients stay the
    same."""


@dataclass(frozen=True)
class LossConfig:
    """Weights of the loss terms other than the contrastive one."""

    loss_align: Annotated[float, Range(0)] = 0.4
    """Weight of a term that draws the Q-Former's outputs for reference and text, and the learned
    prompts, towards each other."""
    loss_rtc: Annotated[float, Range(0)] = 0.4
    """Weight of a term that asks the text and the learned prompts, without the reference's image,
    to find the target."""
    loss_scale: Seldom[Annotated[float | tuple[float, ...], Range(0)]] = 0.0
    """Weight of the main term again for each of --model.visual-scales alone. With one number,
    scale 1.0 counts fully, and the others half. Several numbers are the weights of the scales."""
    loss_consistency: Seldom[Annotated[float, Range(0)]] = 0.0
    """Weight of the mean absolute difference between the similarities that each scale alone gives
    and those of scale 1.0."""
    loss_gate: Annotated[float, Range(0)] = 0.0
    """Weight of a term that teaches the gate: it should open where the reference does not survive
    in the target. Needs a strategy with a gate."""
    gate_target: Literal["survival", "shuffled"] = "survival"
    """What --loss-gate teaches: the triplet's own map, or another triplet's, as a control."""
    gate_target_layers: tuple[int, ...] | None = None
    """Blocks of the vision tower whose outputs make that map. Without it: --model.visual-layers."""
    gate_target_for: Literal["gate", "change"] = "gate"
    """What is taught: the gate, or how far each place changes relative to the image's most changed
    one."""
    gate_target_cut: Annotated[float, Range(1e-6)] = 0.3
    """A place whose best cosine in the target is lower than 1 by this much counts as changed."""
    loss_itm: Seldom[float] = 0.0
    """Accepted for commands of the published trainer. This model has no matching term: 0 only."""

    @property
    def reads_each_scale(self) -> bool:
        """Whether a term needs features from each scale alone."""
        weights = self.loss_scale if isinstance(self.loss_scale, tuple) else (self.loss_scale,)
        return any(weight > 0 for weight in (*weights, self.loss_consistency))


@dataclass(frozen=True)
class OptimConfig:
    """How long and how fast to train."""

    num_epochs: Annotated[int, Range(1)] = 10
    """Epochs. Warm-up and cosine decay span exactly these."""
    batch_size: Annotated[int, Range(1)] = 64
    """Triplets in one step of one process. Each query is compared with the targets of all
    processes."""
    related: Annotated[int, Range(1)] = 1
    """How many triplets with similar images are put together in a batch: of one image set (CIRR)
    or one category (FashionIQ). Their targets are then hard to tell apart. 1: batches are random,
    as published."""
    accumulate: Annotated[int, Range(1)] = 1
    """Parts in which a step computes its batch. Loss and gradients stay those of the whole batch.
    Parts need less memory, and cost one more forward pass."""
    learning_rate: Annotated[float, Range(0)] = 1e-5
    """Peak learning rate."""
    fusion_rate: Seldom[Annotated[float, Range(0)]] = 1.0
    """Learning rate of the text-image and visual fusions, which start untrained, as a multiple of
    --learning-rate."""
    warmup: Seldom[Annotated[float, Range(0, below=1)]] = 0.02
    """Share of the steps with a rising learning rate."""
    scale_warmup_epochs: Seldom[Annotated[int, Range(0)]] = 0
    """Epochs at the start in which the model reads scale 1.0 alone. The other scales then join.
    Optimiser and schedule go on."""
    weight_decay: Seldom[Annotated[float, Range(0)]] = 0.05
    """AdamW's decay of matrices. Biases, norms, prompts and the temperature have none."""
    max_grad_norm: Seldom[Annotated[float, Range(1e-6)]] = 1.0
    """Gradients are scaled down to this norm."""
    seed: Annotated[int, Range(0, below=MOST_SEED)] = 0
    """Seed of weights, order, captions and dropout."""
    mixed_precision: Precision = "auto"
    """Autocast. auto: bf16 if the device computes in it, else fp32."""
    cache_dtype: Seldom[Precision] = "auto"
    """Precision of cached vision features. auto: the tower's own, so that nothing changes."""


@dataclass(frozen=True)
class RunConfig:
    """What a run keeps and where."""

    output: Annotated[Path | None, OLD_OUTPUT, FREE_ON_RESUME] = None
    """Folder to write. Without it: a new one below runs/."""
    resume: Free[Path | None] = None
    """Go on with the run in this folder, with its options. It must have had --save-training."""
    validation_frequency: Seldom[Free[Annotated[int, Range(0)]]] = 1
    """Epochs from one validation to the next. The last epoch is always validated. 0: no validation
    split is read. The last state is then saved, because the best one is not known."""
    log_every: Seldom[Free[Annotated[int, Range(0)]]] = 0
    """Steps from one row of train_steps.csv to the next. 0: 1% of an epoch."""
    tracker: Seldom[Free[tuple[Literal["tensorboard", "trackio", "wandb", "mlflow"], ...]]] = (
        "tensorboard",
    )
    """What shows the training: one or several. Each but tensorboard needs its package."""
    on_nan: Seldom[Free[Literal["stop", "skip"]]] = "stop"
    """What to do where a step's loss is not finite. stop: end the run. skip: leave the step out and
    count it. Both name its triplets in the run's folder."""
    save: Seldom[Free[bool]] = True
    """Keep weights. --no-save, for trials, turns off --save-best and --save-training."""
    save_training: Free[bool] = False
    """Save the state after every epoch and within it, so that --resume can go on."""
    save_every_minutes: Seldom[Free[Annotated[float, Range(0)]]] = 10.0
    """Save that state within an epoch too, when so many minutes have passed since the last time. 0:
    only at the end of an epoch."""
    save_every_steps: Seldom[Free[Annotated[int, Range(0)]]] = 0
    """Save that state after every so many steps of an epoch. 0: by minutes alone."""
    save_best: Free[bool] = True
    """Save the model whenever its validation is the best so far."""
    save_tower: Seldom[Free[bool]] = False
    """Keep a frozen vision tower in every checkpoint too. Without it, a checkpoint names the tower
    by its hash, and opening takes it from the weights that the run began with."""
    save_memory: Seldom[Free[bool]] = False
    """At evaluation, keep the gallery's features in the main memory, not on the GPU."""
    cache_features: Free[Literal["auto", "memory", "none"] | Path] = "auto"
    """Keep the frozen tower's features, in a folder or in memory. The folder is made or completed
    if necessary. auto: in memory if half of the free memory is enough."""
    cache_device: Seldom[Free[Literal["auto", "gpu", "ram", "disk"]]] = "auto"
    """Where cached features are read from. auto: from memory if half of the free memory is enough,
    else from the folder."""
    compile: Seldom[Free[bool]] = False
    """Compile the training step (torch.compile, static shapes). The first step is then slow."""
    device: Free[Device] = "auto"
    dry_run: Free[bool] = False
    """Only measure two training steps and one evaluation batch, with random data in the real
    shapes. No dataset is read and nothing is written."""

    @property
    def validates(self) -> bool:
        """Whether the model is validated at all."""
        return self.validation_frequency > 0

    @property
    def keeps_last(self) -> bool:
        """Whether the last state is saved."""
        return self.save and (self.save_training or not self.validates)

    @property
    def keeps_best(self) -> bool:
        """Whether the best model is saved."""
        return self.save and self.save_best and self.validates


FlatData = Annotated[DataConfig, tyro.conf.arg(name="")]


@dataclass(frozen=True)
class Config:
    """A fine-tuning run."""

    data: FlatData
    transform: Seldom[Annotated[TransformConfig, tyro.conf.arg(name="")]] = field(
        default_factory=TransformConfig
    )
    backbone: Annotated[BackboneConfig, tyro.conf.arg(name="")] = field(
        default_factory=BackboneConfig
    )
    loss: Annotated[LossConfig, tyro.conf.arg(name="")] = field(default_factory=LossConfig)
    recipe: Annotated[RecipeConfig, tyro.conf.arg(name="")] = field(default_factory=RecipeConfig)
    optim: Annotated[OptimConfig, tyro.conf.arg(name="")] = field(default_factory=OptimConfig)
    run: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
