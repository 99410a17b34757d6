"""Captioned synthetic pictures, in groups, for the pretraining of the embedded backbone.

The pictures of a group differ in the group's subject: in anything, in places alone, or in one part
of a whole scene. Only combinations of the given split are shown. Shapes: P pictures, B of a batch.
"""

import multiprocessing
import random
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from gatedcir.children import workers
from gatedcir.data.transforms import CLIP_MEAN, CLIP_STD, Transform
from gatedcir.synthetic import garment_text, garments, scene_families, scenes
from gatedcir.synthetic.garments import Garment
from gatedcir.synthetic.scenes import Scene

IMAGE_SIZE = 64
GROUP = 8  # pictures
_CHUNK = 50  # groups that a process draws at a time
_to_pixels = Transform("targetpad", IMAGE_SIZE, 1.25, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

Shown = Scene | Garment


def _scene(split: str, rng: random.Random, things: int) -> Scene:
    """A number of random things at random places, before a random background."""
    cells: list[scenes.Thing | None] = [None] * len(scenes.CELLS)
    for cell in rng.sample(range(len(cells)), things):
        cells[cell] = scenes.sample_thing(rng, split)
    return Scene(tuple(cells), rng.choice(list(scenes.BACKGROUNDS)))


def few(split: str, rng: random.Random) -> list[Shown]:
    """Unrelated scenes of one or two things."""
    return [_scene(split, rng, rng.choice((1, 1, 2))) for _ in range(GROUP)]


def crowded(split: str, rng: random.Random) -> list[Shown]:
    """Unrelated scenes of three to nine things, so that one picture has much to name."""
    return [_scene(split, rng, rng.choice((3, 5, 6, 7, 8, 9))) for _ in range(GROUP)]


def moved(split: str, rng: random.Random) -> list[Shown]:
    """The same one or two things before the same background, each time elsewhere."""
    first = _scene(split, rng, rng.choice((1, 1, 2)))
    found = {first}
    while len(found) < GROUP:
        cells = rng.sample(first.cells, len(first.cells))
        found.add(Scene(tuple(cells), first.background))
    return sorted(found, key=repr)


def near(split: str, rng: random.Random) -> list[Shown]:
    """Scenes of one family."""
    return list(scene_families.sample_near_scenes(split, rng, GROUP))


def near_garments(split: str, rng: random.Random) -> list[Shown]:
    """Garments of one family."""
    category = rng.choice(tuple(garments.ATTRIBUTES))
    return rng.sample(garments.family(category, split, rng).garments, GROUP)


KINDS: dict[str, Callable[[str, random.Random], list[Shown]]] = {
    "few": few,
    "crowded": crowded,
    "moved": moved,
    "near": near,
    "garments": near_garments,
}


@dataclass(frozen=True)
class Pictures:
    """Groups of pictures, one after the other."""

    pixels: Tensor  # [P, 3, H, W] uint8
    shown: list[Shown]

    def normalised(self, indices: Sequence[int] | slice) -> Tensor:
        """The model's input: [B, 3, H, W]."""
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
        return (self.pixels[indices].float() / 255 - mean) / std

    def sample_groups(self, groups: int, rng: random.Random) -> list[int]:
        """Indices of the pictures of random groups."""
        starts = rng.sample(range(0, len(self.shown), GROUP), groups)
        return [start + i for start in starts for i in range(GROUP)]


def draw(kind: str, split: str, *, groups: int, seed: int, processes: int = 2) -> Pictures:
    """Draw a number of groups of a kind. The same seed gives the same pictures."""
    chunks = [
        (kind, split, min(_CHUNK, groups - start), f"{seed}/{kind}/{split}/{start}")
        for start in range(0, groups, _CHUNK)
    ]
    pixels, shown = [], []
    with ExitStack() as stack:
        run: Callable = map
        if len(chunks) > 1:
            spawn = multiprocessing.get_context("spawn")  # forked threads of torch would hang
            run = stack.enter_context(workers(processes, spawn)).map
        bar = stack.enter_context(tqdm(total=groups, desc=f"drawing {kind}", unit="group"))
        for some, of_chunk in run(_draw_chunk, *zip(*chunks, strict=True)):
            pixels.append(torch.from_numpy(some))
            shown += of_chunk
            bar.update(len(of_chunk) // GROUP)
    return Pictures(torch.cat(pixels), shown)


def _draw_chunk(kind: str, split: str, groups: int, seed: str) -> tuple[np.ndarray, list[Shown]]:
    rng = random.Random(seed)
    shown = [one for _ in range(groups) for one in KINDS[kind](split, rng)]
    pixels = []
    for one in shown:
        image = scenes.draw(one, rng) if isinstance(one, Scene) else garments.draw(one)
        pixels.append((_to_pixels(image) * 255).round().byte().numpy())
    return np.stack(pixels), shown


def describe(shown: Shown, rng: random.Random, *, keep: float) -> str:
    """A caption in random words that says each detail with probability `keep`."""
    if isinstance(shown, Scene):
        return scenes.describe(shown, rng, keep=keep)
    return garment_text.describe(shown, rng, partial=1 - keep)


def describe_change(before: Shown, after: Shown, rng: random.Random, *, keep: float) -> str:
    """The details of `after` that `before` lacks, each with the probability that `describe` uses.

    For garments, all differences are named, whatever `keep` is.
    """
    if isinstance(before, Scene) and isinstance(after, Scene):
        return scenes.describe_change(before, after, rng, keep=keep)
    assert isinstance(before, Garment)
    assert isinstance(after, Garment)
    return garment_text.describe_change(before, after, rng)
