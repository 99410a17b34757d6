"""The lessons of the tiny BLIP-2, and the school that teaches them."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from tiny_lessons import Naming, Reading, labels_of, split_places
from tiny_model import SPECIAL, build_vocabulary, save, tiny_config
from tiny_pictures import GROUP, Pictures, Shown, describe, describe_change, draw
from torch import Tensor, nn
from tqdm import tqdm
from transformers import BertTokenizer, get_cosine_schedule_with_warmup

from gatedcir.device import Device
from gatedcir.models.backbone import Backbone
from gatedcir.models.text import Tokenizer, Tokens
from gatedcir.training.losses import token_similarity

if TYPE_CHECKING:
    from pretrain_tiny import Options

CAPTION_LENGTH = 56  # whole captions of four things. Fine-tuning reads shorter texts.
WHOLE, NEARLY = 0.75, 0.8  # share of captions with every detail, and details that others keep
_ENCODED = 256  # pictures that the frozen tower sees at a time
_TESTED = 800  # pictures of an evaluation


@dataclass(frozen=True)
class Lesson:
    """A number of steps, on batches with a number of groups of each kind of picture."""

    name: str
    steps: int
    learning_rate: float
    groups: dict[str, int]
    beside: Literal["words", "changes"] = "words"
    """The second lesson, in addition to whole captions."""


# Number of groups of each kind to learn from.
DRAWN = {"few": 2500, "crowded": 5000, "moved": 2500, "near": 5000, "garments": 2000}
NAMING = Lesson("naming", 1000, 1.2e-3, {"crowded": 7, "few": 3, "near": 4, "garments": 2})
READING = (
    Lesson("single things", 900, 6e-4, {"few": 24}),
    Lesson("their places", 400, 6e-4, {"moved": 16, "few": 4, "near": 4}),
    Lesson("whole pictures", 500, 6e-4, {"near": 10, "moved": 2, "few": 2, "garments": 5}),
    Lesson("changes", 1600, 5e-4, {"near": 10, "moved": 2, "few": 1, "garments": 4}, "changes"),
)


class School:
    """The model, what it learns from, and what it has learnt."""

    def __init__(self, options: "Options") -> None:
        torch.manual_seed(options.seed)
        self.options = options
        self.rng = random.Random(options.seed)
        words = build_vocabulary()
        self.wordpiece = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
        self.tokenizer = Tokenizer(self.wordpiece, max_length=CAPTION_LENGTH)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.runs_on = Device.of("auto", self.device)
        self.model = Backbone.from_config(tiny_config(len(words)))
        vision = self.model.config.vision_config
        side = vision.image_size // vision.patch_size
        with torch.no_grad():
            # transformers leaves the queries at zero. All of them would then stay equal.
            nn.init.normal_(self.model.query_tokens, std=0.02)
            positions = self.model.vision_model.embeddings.position_embedding
            positions[0, 1:] = split_places(vision.hidden_size, side)
        self.model.to(self.device).train()
        # For matrices this small, CPUs are twice as fast without the fused kernel.
        self.model.set_attention("eager" if self.device.type == "cpu" else "sdpa")
        self.naming = Naming(vision.hidden_size, side=side).to(self.device)
        self.reading = Reading(self.model, mask_id=words.index("[MASK]"), special=len(SPECIAL)).to(
            self.device
        )
        self.pictures = {
            kind: draw(kind, "train", groups=self._part(groups, least=least), seed=options.seed)
            for kind, groups in DRAWN.items()
            if (least := max(lesson.groups.get(kind, 0) for lesson in (NAMING, *READING)))
        }
        self.tests = {
            (kind, split): draw(kind, split, groups=self._part(_TESTED // GROUP, least=2), seed=1)
            for kind in ("few", "moved", "near", "garments")
            for split in ("train", "val")
        }
        self.history: list[dict] = []

    def teach_naming(self, lesson: Lesson) -> None:
        """The tower: pixels to names."""
        labels = {kind: labels_of(self.pictures[kind].shown) for kind in lesson.groups}
        vision = [*self.model.vision_model.parameters(), *self.naming.parameters()]
        optimizer, schedule, steps = self._optimizer(vision, lesson)
        for _ in (bar := tqdm(range(steps), lesson.name, unit="step")):
            chosen = self._choose(lesson)
            pixels = torch.cat([self.pictures[k].normalised(at) for k, at in chosen.items()])
            with self.runs_on.autocast():
                [level] = self.model.vision_levels(pixels.to(self.device), (-1,))
                tokens = self.model.normalise(level)
            names = {
                name: torch.cat([labels[k][name][at] for k, at in chosen.items()]).to(self.device)
                for name in labels["few"]
            }
            losses = self.naming.losses(tokens.float(), names)
            _update(torch.stack(list(losses.values())).sum(), optimizer, schedule, vision)
            bar.set_postfix({name: f"{value.item():.2f}" for name, value in losses.items()})
        self._record(lesson, steps)

    def teach_reading(self, lessons: Sequence[Lesson]) -> None:
        """The Q-Former: captions and the frozen tower's features to one another."""
        self.model.set_trainable(vision=False)
        kinds = {kind for lesson in lessons for kind in lesson.groups}
        features = {kind: self._encode(self.pictures[kind]) for kind in sorted(kinds)}
        learning = [p for p in self.model.parameters() if p.requires_grad]
        learning += self.reading.own_parameters()
        for lesson in lessons:
            optimizer, schedule, steps = self._optimizer(learning, lesson)
            for _ in (bar := tqdm(range(steps), lesson.name, unit="step")):
                batch = {
                    kind: (features[kind][at], [self.pictures[kind].shown[i] for i in at])
                    for kind, at in self._choose(lesson).items()
                }
                with self.runs_on.autocast():
                    losses = self._read(batch, lesson)
                _update(torch.stack(list(losses.values())).sum(), optimizer, schedule, learning)
                bar.set_postfix({name: f"{value.item():.3f}" for name, value in losses.items()})
            self._record(lesson, steps)

    def _read(
        self, batch: dict[str, tuple[Tensor, list[Shown]]], lesson: Lesson
    ) -> dict[str, Tensor]:
        """The losses of a lesson, by kind, because captions of one kind have similar lengths."""
        reading = self.reading
        targets, captions, others = [], [], []
        for feature, shown in batch.values():
            level = feature.float().to(self.device)
            keep = [1.0 if self.rng.random() < WHOLE else NEARLY for _ in shown]
            tokens = self._tokens(shown, keep)
            targets.append(reading.targets(level))
            captions.append(reading.captions(tokens))
            if lesson.beside == "changes":
                others.append(self._changed(level, shown, keep))
            else:
                logits, ids = reading.words(level, tokens)
                others.append(F.cross_entropy(logits.float(), ids))
        images = torch.cat(targets)
        found = {"captions": reading.contrast(torch.cat(captions), images)}
        if lesson.beside == "changes":
            return found | {"changes": reading.contrast(torch.cat(others), images)}
        return found | {"words": torch.stack(others).mean()}

    def _changed(self, level: Tensor, shown: list[Shown], keep: Sequence[float]) -> Tensor:
        """Queries for all pictures, each made of another one of its group: [B, E]."""
        step = self.rng.randrange(1, GROUP)
        others = [i - i % GROUP + (i + step) % GROUP for i in range(len(shown))]
        texts = [
            describe_change(shown[other], one, self.rng, keep=k)
            for other, one, k in zip(others, shown, keep, strict=True)
        ]
        return self.reading.changed(level[others], self.tokenizer(texts).to(self.device))

    def _tokens(self, shown: Sequence[Shown], keep: Sequence[float]) -> Tokens:
        texts = [describe(o, self.rng, keep=k) for o, k in zip(shown, keep, strict=True)]
        return self.tokenizer(texts).to(self.device)

    def _part(self, number: int, *, least: int) -> int:
        return max(least, round(number * self.options.share))

    def _optimizer(
        self, parameters: list[nn.Parameter], lesson: Lesson
    ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler, int]:
        """AdamW, warm-up and cosine over the lesson's steps."""
        steps = self._part(lesson.steps, least=1)
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups, lr=lesson.learning_rate, betas=(0.9, 0.98))
        return optimizer, get_cosine_schedule_with_warmup(optimizer, steps // 20, steps), steps

    def _choose(self, lesson: Lesson) -> dict[str, list[int]]:
        """A batch: indices of pictures by kind."""
        return {
            kind: self.pictures[kind].sample_groups(groups, self.rng)
            for kind, groups in lesson.groups.items()
        }

    @torch.no_grad()
    def _encode(self, pictures: Pictures) -> Tensor:
        """The tower's last layer, in half precision: [P, L, Dv]."""
        found = []
        for start in tqdm(range(0, len(pictures.shown), _ENCODED), "vision features", leave=False):
            pixels = pictures.normalised(slice(start, start + _ENCODED)).to(self.device)
            with self.runs_on.autocast():
                found.append(self.model.vision_levels(pixels, (-1,))[0].half().cpu())
        return torch.cat(found)

    @torch.no_grad()
    def _record(self, lesson: Lesson, steps: int) -> None:
        """Record R@1 in percent, of whole captions among all tested pictures of a kind. Save it."""
        row: dict = {"lesson": lesson.name, "steps": steps}
        for (kind, split), pictures in self.tests.items():
            rng = random.Random(0)
            captions = [describe(one, rng, keep=1.0) for one in pictures.shown]
            tokens = self.tokenizer(captions).to(self.device)
            level = self._encode(pictures).float().to(self.device)
            targets = self.reading.targets(level)
            found = token_similarity(self.reading.captions(tokens), targets).argmax(1).cpu()
            right = (found == torch.arange(len(found))).double().mean().item()
            row[f"{split}_{kind}"] = round(100 * right, 1)
        tqdm.write(json.dumps(row))
        self.history.append(row)
        save(self.model, self.wordpiece, self.options.output, self.history)


def _update(
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    parameters: list[nn.Parameter],
) -> None:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    schedule.step()
