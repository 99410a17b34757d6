"""Pretrain the embedded tiny BLIP-2 on captioned synthetic scenes and garments.

Image-text contrastive, as BLIP-2's first stage: the best of an image's Q projected query tokens
against the caption's [CLS], in both directions. A batch is made of groups of near-identical
pictures, so that what tells them apart must be seen. Only combinations of the train split are
shown. Writes a folder in the hub's layout; under two hours on two CPU cores with the defaults.
"""

import json
import random
import re
import shutil
import string
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset
from tqdm import tqdm
from transformers import BertTokenizer, get_cosine_schedule_with_warmup

from gatedcir.assemble import precision_of
from gatedcir.config import parse
from gatedcir.data.transforms import make_transform
from gatedcir.errors import run_command
from gatedcir.models.backbone import Backbone
from gatedcir.models.text import Tokenizer, Tokens
from gatedcir.synthetic import edits, garment_text, garments, scene_families, scenes
from gatedcir.validate import autocast

IMAGE_SIZE = 64
CAPTION_LENGTH = 56  # whole captions of four things; fine-tuning reads shorter texts


@dataclass
class Options:
    """What to train and for how long."""

    output: Path
    """Folder to write; made anew at every save."""
    steps: int = 3000
    """Optimiser steps."""
    groups: int = 24
    """Groups of near-identical pictures in a batch, half scenes and half garments."""
    group_size: int = 8
    """Pictures in a group."""
    learning_rate: float = 1e-3
    """Peak of the cosine."""
    seed: int = 0
    """Seed of weights and pictures."""
    save_every: int = 500
    """Steps between saves and evaluations."""


def build_vocabulary() -> list[str]:
    """WordPiece entries: specials, every printable ASCII character alone and inside, and words."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
    letters = string.ascii_lowercase + string.digits
    words = scenes.words() | edits.words() | garment_text.words()
    pieces = {piece for word in words for piece in re.findall(r"[a-z0-9]+", word.lower())}
    characters = [*letters, *string.punctuation, *("##" + letter for letter in letters)]
    return list(dict.fromkeys([*special, *characters, *sorted(pieces)]))


class CaptionedGroups(IterableDataset):
    """An endless stream of batches: uint8 pictures [B, 3, H, W] and their B captions."""

    def __init__(self, *, groups: int, group_size: int, seed: int, split: str) -> None:
        self.groups, self.group_size, self.seed, self.split = groups, group_size, seed, split

    def __iter__(self) -> Iterator[tuple[Tensor, list[str]]]:
        rng = random.Random(self.seed)
        transform = make_transform("targetpad", size=IMAGE_SIZE)
        while True:
            pictures, captions = [], []
            for number in range(self.groups):
                # Most captions are complete: a partial one may fit several of its group.
                keep = 1.0 if rng.random() < 0.75 else 0.8
                if number % 2 == 0:
                    for scene in scene_families.sample_near_scenes(
                        self.split, rng, self.group_size
                    ):
                        pictures.append(transform(scenes.draw(scene, rng)))
                        captions.append(scenes.describe(scene, rng, keep=keep))
                else:
                    category = rng.choice(tuple(garments.ATTRIBUTES))
                    near = garments.family(category, self.split, rng).garments
                    for garment in rng.sample(near, self.group_size):
                        pictures.append(transform(garments.draw(garment)))
                        captions.append(garment_text.describe(garment, rng, partial=1 - keep))
            yield torch.stack(pictures), captions


def similarities(model: Backbone, pixels: Tensor, tokens: Tokens) -> Tensor:
    """Cosine of every caption with the best query token of every picture: [texts, images]."""
    image = model.normalise(model.vision_levels(pixels, (-1,))[0])  # [B, L, Dv]
    queries = model.query_tokens.expand(len(pixels), -1, -1)
    targets = model.vision_projection(model.query_pass(queries, image=image))  # [B, Q, E]
    text = model.text_pass(model.embed_text(tokens.input_ids), mask=tokens.attention_mask)
    captions = model.text_projection(text[:, 0])  # [B, E]
    targets, captions = F.normalize(targets, dim=-1), F.normalize(captions, dim=-1)
    return torch.einsum("te,iqe->tiq", captions, targets).amax(-1)


@torch.no_grad()
def evaluate(model: Backbone, tokenizer: Tokenizer, split: str, *, count: int = 1000) -> float:
    """Text-to-image R@1 in percent among unrelated pictures of a split."""
    stream = iter(CaptionedGroups(groups=count, group_size=1, seed=1, split=split))
    pixels, captions = next(stream)
    device = model.query_tokens.device
    model.eval()
    found = similarities(model, pixels.to(device), tokenizer(captions).to(device)).argmax(1)
    model.train()
    return (found.cpu() == torch.arange(count)).double().mean().item() * 100


def main(argv: Sequence[str] | None = None) -> None:
    """Train, and save every so often."""
    options = parse(Options, argv, description="Pretrain the embedded tiny BLIP-2.")
    torch.manual_seed(options.seed)
    words = build_vocabulary()
    wordpiece = BertTokenizer(vocab={word: index for index, word in enumerate(words)})
    tokenizer = Tokenizer(wordpiece, max_length=CAPTION_LENGTH)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Backbone.from_config(tiny_config(len(words))).to(device)
    # For matrices this small, CPUs are twice as fast without the fused kernel.
    model.set_attention("eager" if device.type == "cpu" else "sdpa")
    # transformers leaves them at zero, where all query tokens would stay alike.
    torch.nn.init.normal_(model.query_tokens, std=0.02)
    log_temperature = torch.nn.Parameter(torch.tensor(0.07, device=device).log())
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": 0.05},
            {"params": [*others, log_temperature], "weight_decay": 0.0},
        ],
        lr=options.learning_rate,
        betas=(0.9, 0.98),
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, options.steps // 20, options.steps)
    data = CaptionedGroups(
        groups=options.groups, group_size=options.group_size, seed=options.seed, split="train"
    )
    batches = iter(DataLoader(data, batch_size=None, num_workers=1, prefetch_factor=4))
    model.train()
    history = []
    bar = tqdm(range(1, options.steps + 1), unit="step")
    for step in bar:
        pixels, captions = next(batches)
        with autocast(device, precision_of("auto", device)):
            logits = similarities(model, pixels.to(device), tokenizer(captions).to(device))
        logits = logits.float() / log_temperature.exp().clamp(0.01, 0.5)
        labels = torch.arange(len(logits), device=device)
        loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 20 == 0:
            hits = (logits.argmax(1) == labels).double().mean().item() * 100
            bar.set_postfix(loss=f"{loss.item():.3f}", hits=f"{hits:.0f}%")
        if step % options.save_every == 0 or step == options.steps:
            recalls = {split: evaluate(model, tokenizer, split) for split in ("train", "val")}
            history.append({"step": step, "loss": loss.item(), **recalls})
            bar.write(json.dumps(history[-1]))
            save(model, wordpiece, options.output, history)


def tiny_config(vocabulary: int) -> dict:
    """Six vision blocks and four Q-Former blocks, 128 wide, 64 px, patch 8, 8 queries."""
    return {
        "vision_config": {
            "hidden_size": 128,
            "intermediate_size": 512,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "image_size": IMAGE_SIZE,
            "patch_size": 8,
            "initializer_range": 0.02,
        },
        "qformer_config": {
            "vocab_size": vocabulary,
            "hidden_size": 128,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "intermediate_size": 512,
            "max_position_embeddings": 64,
            "use_qformer_text_input": True,
            # Pictures never repeat: nothing to over-fit to, and dropout is slow on CPUs.
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
        "num_query_tokens": 8,
        "image_text_hidden_size": 128,
    }


def save(model: Backbone, wordpiece: BertTokenizer, folder: Path, history: list[dict]) -> None:
    """Half-precision weights, config, vocabulary and history, in the hub's layout."""
    unfinished = folder.with_name(folder.name + ".unfinished")
    model.save_pretrained(unfinished, dtype=torch.float16)
    wordpiece.save_pretrained(unfinished)
    (unfinished / "pretraining.json").write_text(json.dumps(history, indent=1) + "\n")
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.replace(folder)


if __name__ == "__main__":
    run_command(main)
