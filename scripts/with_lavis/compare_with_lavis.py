"""Compare this project's BLIP-2 with outputs of salesforce-lavis itself: `make test-lavis`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gatedcir.errors import UserError, run_command
from gatedcir.options.parsing import parse

if TYPE_CHECKING:
    from torch import Tensor

    from gatedcir.models.backbone import Backbone
    from gatedcir.models.text import Tokenizer

TOLERANCE = 2e-6
TOWERS = {"vit_g": "EVA ViT-g", "vit_L": "CLIP ViT-L"}
_FIXTURES = Path(__file__).parents[2] / "tests" / "fixtures"


@dataclass(frozen=True)
class Options:
    """What to compare with."""

    reference: Path
    """The folder that scripts/with_lavis/lavis_reference.py wrote."""


def main(argv: Sequence[str] | None = None) -> None:
    """Print the differences. Raise if one is too large."""
    reference = parse(Options, argv, description=__doc__).reference
    if not reference.is_dir():
        raise UserError(f"there is no folder {reference}; `make test-lavis` writes one.")
    too_far = []
    for tower, title in TOWERS.items():
        differences = compare(reference / tower)
        made_with = json.loads((reference / tower / "config.json").read_text())["made_with"]
        print(f"\n{title}; " + ", ".join(f"{name} {v}" for name, v in made_with.items()) + "\n")
        print("| feature | shape | largest value | largest difference |\n|:--|:--|--:|--:|")
        for name, (shape, largest, difference) in differences.items():
            print(f"| {name} | {shape} | {largest:.2f} | {difference:.1e} |")
            if not difference <= TOLERANCE:  # this also finds NaN
                too_far.append(f"{tower}'s {name} by {difference:.1e}")
    if too_far:
        raise UserError(f"more than {TOLERANCE:.0e} apart: {', '.join(too_far)}.")
    for name in ("lavis_vit_g.json", "lavis_vit_L.json"):
        found, expected = (json.loads((at / name).read_text()) for at in (reference, _FIXTURES))
        if found != expected:
            raise UserError(f"LAVIS' names and shapes are not those of {_FIXTURES / name}.")
    print("\nLAVIS' names and shapes at real size are those of tests/fixtures.")


def compare(folder: Path) -> dict[str, tuple[list[int], float, float]]:
    """The features of one tiny model, in LAVIS and here.

    Args:
        folder: blip2.pth, vocab.txt, config.json, and features.pt with inputs and LAVIS' outputs.

    Returns:
        Feature -> shape, largest absolute value, largest absolute difference.

    Raises:
        UserError: the files are not there, or the texts get other token ids.
    """
    import torch

    torch.set_num_threads(1)
    missing = [n for n in ("blip2.pth", "features.pt") if not (folder / n).is_file()]
    if missing:
        raise UserError(f"there is no {folder / missing[0]}; `make test-lavis` writes it.")
    theirs = torch.load(folder / "features.pt", weights_only=True)
    backbone, tokenizer = _load(folder / "blip2.pth")
    ids, mask = tokenizer(theirs["texts"])
    if not (torch.equal(ids, theirs["input_ids"]) and torch.equal(mask, theirs["attention_mask"])):
        raise UserError(f"the texts of {folder} get other token ids than in LAVIS.")
    with torch.no_grad():
        ours = features(backbone, theirs["images"], ids, mask)
    for name in ("text_embeds", "text_embeds_proj"):  # values at padding are never read
        ours[name], theirs[name] = (found[name] * mask[..., None] for found in (ours, theirs))
    return {
        name: (
            list(found.shape),
            theirs[name].abs().max().item(),
            (found - theirs[name]).abs().max().item(),
        )
        for name, found in ours.items()
    }


def features(
    backbone: "Backbone", images: "Tensor", ids: "Tensor", mask: "Tensor"
) -> dict[str, "Tensor"]:
    """Our part of LAVIS' `extract_features` and `compute_itm`, under LAVIS' names.

    Args:
        backbone: in eval mode.
        images: [B, 3, H, W].
        ids: [B, T].
        mask: [B, T].
    """
    import torch
    from torch.nn.functional import normalize

    tokens = backbone.normalise(backbone.vision_levels(images, [-1])[0])  # [B, L, Dv]
    queries = backbone.query_tokens.expand(len(images), -1, -1)  # [B, Q, D]
    words = backbone.at_positions(backbone.embed_words(ids))  # [B, T, D]
    image = backbone.query_pass(queries, image=tokens)
    text = backbone.text_pass(words, mask=mask)
    both_mask = torch.cat([mask.new_ones(queries.shape[:2]), mask], dim=1)  # [B, Q + T]
    both = backbone.query_pass(torch.cat([queries, words], dim=1), image=tokens, mask=both_mask)
    both = both[:, : backbone.num_query_tokens]
    return {
        "visual_tokens": tokens,
        "image_embeds": image,
        "image_embeds_proj": normalize(backbone.vision_projection(image), dim=-1),
        "text_embeds": text,
        "text_embeds_proj": normalize(backbone.text_projection(text), dim=-1),
        "multimodal_embeds": both,
        "itm": backbone.itm_head(both)[..., 1].mean(dim=1),
    }


def _load(file: Path) -> "tuple[Backbone, Tokenizer]":
    """The model of LAVIS' file, with the sizes and the vocabulary next to it."""
    from gatedcir.models.text import Tokenizer
    from gatedcir.models.weights.sources import load

    pretrained = load(str(file))
    return pretrained.backbone.eval(), Tokenizer(pretrained.wordpieces)


if __name__ == "__main__":
    run_command(main)
