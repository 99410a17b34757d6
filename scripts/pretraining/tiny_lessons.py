"""The lessons of the embedded backbone: to name what it sees, and to read captions.

Shapes: B pictures, L visual tokens, T text tokens, C cells, D width, E embedding width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from tiny_pictures import Shown
from torch import Tensor, nn

from gatedcir.models.backbone import Backbone
from gatedcir.models.retriever import ComposedRetriever
from gatedcir.models.text import Tokens
from gatedcir.multiscale.maps import to_map
from gatedcir.synthetic.garments import ATTRIBUTES
from gatedcir.synthetic.scenes import BACKGROUNDS, COLOURS, SHAPES, SIZES, TEXTURES, Scene
from gatedcir.training.losses import token_similarity

_SIDE = 3  # cells a side of a scene
_OF_THINGS = {"shape": SHAPES, "colour": tuple(COLOURS), "texture": TEXTURES, "size": SIZES}
_OF_GARMENTS = {
    (category, name): tuple(values)
    for category, attributes in ATTRIBUTES.items()
    for name, values in attributes.items()
}
_UNSAID = -100  # the label that cross_entropy leaves out
MASKED = 0.4  # share of a caption's words


def labels_of(shown: Sequence[Shown]) -> dict[str, Tensor]:
    """The labels of pictures, for each head of `Naming`.

    `shape` and so on: [B, C]. `shape` has one more value for an empty cell. `background` and each
    attribute of garments: [B]. cross_entropy leaves out attributes that a picture does not have.
    """
    count = len(shown)
    found = {name: torch.full((count, _SIDE**2), _UNSAID) for name in _OF_THINGS}
    found["background"] = torch.full((count,), _UNSAID)
    found |= {f"{c}-{n}": torch.full((count,), _UNSAID) for c, n in _OF_GARMENTS}
    for row, one in enumerate(shown):
        if not isinstance(one, Scene):
            for (category, name), values in _OF_GARMENTS.items():
                if one.category == category:
                    found[f"{category}-{name}"][row] = values.index(one[name])
            continue
        found["background"][row] = list(BACKGROUNDS).index(one.background)
        for cell, thing in enumerate(one.cells):
            if thing is None:
                found["shape"][row, cell] = len(SHAPES)
                continue
            for name, all_values in _OF_THINGS.items():
                found[name][row, cell] = all_values.index(getattr(thing, name))
    return found


class Naming(nn.Module):
    """Linear heads over the vision tower's tokens that name the content of every place.

    Captions of a whole picture do not teach a tower places, shapes and textures. Colours, sizes and
    backgrounds are enough for the contrastive loss, and an average over the picture shows these.
    Here the mean of each cell's tokens must name the thing in the cell. Each token must know its
    place, the image's own token must name the background, and all tokens together a garment.
    """

    def __init__(self, width: int, *, side: int) -> None:
        super().__init__()
        self.things = nn.ModuleDict(
            {n: nn.Linear(width, len(v) + (n == "shape")) for n, v in _OF_THINGS.items()}
        )
        self.garments = nn.ModuleDict(
            {f"{c}-{n}": nn.Linear(width, len(v)) for (c, n), v in _OF_GARMENTS.items()}
        )
        self.background = nn.Linear(width, len(BACKGROUNDS))
        self.row, self.column = nn.Linear(width, side), nn.Linear(width, side)
        self.side = side

    def forward(self, tokens: Tensor) -> dict[str, Tensor]:
        """Tokens [B, L, Dv] -> logits by name: [B, C, values] for things, else [B, values]."""
        image, patches = to_map(tokens)
        cells = F.adaptive_avg_pool2d(patches, _SIDE).flatten(2).transpose(1, 2)  # [B, C, Dv]
        mean = tokens.mean(1)
        return {
            **{name: head(cells) for name, head in self.things.items()},
            **{name: head(mean) for name, head in self.garments.items()},
            "background": self.background(image[:, 0]),
        }

    def losses(self, tokens: Tensor, labels: dict[str, Tensor]) -> dict[str, Tensor]:
        """Cross-entropies by name. Those of garments are one mean, each attribute counted once."""
        logits = self.forward(tokens)
        found = {
            name: F.cross_entropy(logits[name].flatten(0, -2), labels[name].flatten())
            for name in (*self.things, "background")
            if (labels[name] >= 0).any()
        }
        of_garments = [
            F.cross_entropy(logits[name], labels[name], reduction="sum") for name in self.garments
        ]
        said = sum((labels[name] >= 0).sum() for name in self.garments)
        found["garment"] = torch.stack(of_garments).sum() / said.clamp(min=1)  # type: ignore[union-attr]
        places = torch.arange(self.side, device=tokens.device)
        row = self.row(tokens[:, 1:]).unflatten(1, (self.side, self.side))  # [B, side, side, side]
        column = self.column(tokens[:, 1:]).unflatten(1, (self.side, self.side))
        for name, logit, label in (("row", row, places[:, None]), ("column", column, places)):
            every = label.expand(len(tokens), self.side, self.side)
            found[name] = F.cross_entropy(logit.flatten(0, 2), every.flatten()) / 2
        return found


class Reading(nn.Module):
    """The Q-Former's lessons from captions.

    `captions` is BLIP-2's image-text contrast: the best of an image's Q projected query tokens
    against the caption's [CLS]. One of two lessons is added to it. `words` replaces BLIP-2's
    image-grounded generation: queries, words and image together must tell masked words of the
    caption. `changed` is the same contrast for a composed query. This query is made of another
    image and of a text with the caption's details that this image lacks. The model must take
    details from the image if the text leaves them out. If the two differ, the text must win.
    """

    def __init__(self, backbone: Backbone, *, mask_id: int, special: int) -> None:
        super().__init__()
        self.retriever = ComposedRetriever(backbone)
        self.mask_id, self.special = mask_id, special
        self.log_temperature = nn.Parameter(torch.tensor(0.07).log())
        self.transform = nn.Sequential(
            nn.Linear(backbone.width, backbone.width), nn.GELU(), nn.LayerNorm(backbone.width)
        )
        self.bias = nn.Parameter(torch.zeros(backbone.embeddings.word_embeddings.num_embeddings))

    def own_parameters(self) -> list[nn.Parameter]:
        """Weights that are trained in addition to the backbone."""
        return [self.log_temperature, self.bias, *self.transform.parameters()]

    def targets(self, level: Tensor) -> Tensor:
        """Images [B, L, Dv], the tower's last layer -> [B, Q, E]."""
        return self.retriever.encode_target([level])

    def captions(self, captions: Tokens) -> Tensor:
        """Whole captions -> [B, E]."""
        backbone = self.retriever.backbone
        words = backbone.at_positions(backbone.embed_words(captions.input_ids))
        hidden = backbone.text_pass(words, mask=captions.attention_mask, kept=slice(0, 1))
        return F.normalize(backbone.text_projection(hidden[:, 0]).float(), dim=-1)

    def changed(self, level: Tensor, changes: Tokens) -> Tensor:
        """Images, and texts with the captions' details that the images lack -> [B, E]."""
        return self.retriever.encode_query([level], changes)[0]

    def words(self, level: Tensor, captions: Tokens) -> tuple[Tensor, Tensor]:
        """Logits [words, vocabulary] of the masked words, and which they are [words]."""
        backbone, ids = self.retriever.backbone, captions.input_ids
        masked = (torch.rand(ids.shape, device=ids.device) < MASKED) & (ids >= self.special)
        words = backbone.at_positions(backbone.embed_words(torch.where(masked, self.mask_id, ids)))
        count = backbone.num_query_tokens
        queries = backbone.query_tokens.expand(len(ids), -1, -1)
        mask = F.pad(captions.attention_mask, (count, 0), value=1)
        image, _ = self.retriever.visual_tokens([level])
        hidden = backbone.query_pass(torch.cat([queries, words], 1), image=image, mask=mask)
        found = self.transform(hidden[:, count:][masked])
        return found @ backbone.embeddings.word_embeddings.weight.T + self.bias, ids[masked]

    def contrast(self, features: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy of [B, E] and [B, Q, E] in both directions: a scalar."""
        temperature = self.log_temperature.exp().clamp(0.01, 0.5)
        logits = token_similarity(features, targets) / temperature
        labels = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def split_places(width: int, side: int, *, amplitude: float = 0.25) -> Tensor:
    """Fixed 2-D positions to start from, sines of row and column: [side * side, width].

    Random positions of the usual size are too small next to the patches. The model then learns no
    places for a long time.
    """
    quarter = width // 4
    rates = side ** -torch.linspace(0, 1, quarter)
    angles = torch.arange(side)[:, None] * rates * torch.pi / 2
    line = torch.cat([angles.sin(), angles.cos()], dim=1)  # [side, width / 2]
    rows = line[:, None].expand(side, side, -1)
    columns = line[None].expand(side, side, -1)
    return amplitude * torch.cat([rows, columns], dim=-1).flatten(0, 1)
