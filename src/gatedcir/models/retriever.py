"""A reference image and a text -> a query; an image -> its target features.

Both are encoded only here. Training, evaluation, submission and pictures call
`encode_query` and `encode_target`. Shapes: B batch, L visual tokens, N layers, Q query tokens,
T text tokens, D Q-Former width, Dv vision width, E embedding width.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatedcir.models.backbone import Backbone
from gatedcir.models.gated_fusion.gated import NoFusion, tokens_and_aux
from gatedcir.models.text import Tokens
from gatedcir.models.visual_fusion.fusion import VisualFusion
from gatedcir.start import Aux
from gatedcir.visual import Visual


class Encoded(NamedTuple):
    """The features of a batch that one training step needs. All have norm 1."""

    query: Tensor  # [B, E], reference and text
    text: Tensor  # [B, E], prompts and text without the image
    targets: Tensor  # [B, Q, E]
    fusion_mean: Tensor  # [B, D], mean of the fusion pass' outputs
    prompt_mean: Tensor  # [D], mean of the prompts, detached
    aux: Aux  # the fusions' gates, weights and figures
    by_scale: dict[float, tuple[Tensor, Tensor]]  # query and targets from each scale alone


class ComposedRetriever(nn.Module):
    """Composed image retrieval with the Q-Former and learned sentence-level prompts.

    This is SPRC (Bai et al., ICLR 2024) with two fusions in front of the Q-Former. The first fuses
    the vision tower's layers and scales, for every image. The second fuses the text into the
    reference's visual tokens. Without the two it is the published model.

    Args:
        backbone: the pretrained parts.
        layers: blocks of the vision tower whose outputs are read, -1 the last.
        scales: multiples of the image's size at which the tower reads it.
        visual_fusion: makes one token map of all of these; see `VisualFusion`.
        fusion: lets the text change the reference's tokens; one of `STRATEGIES`.
        each_scale: `forward` also gives features from each scale alone.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        layers: Sequence[int] = (-1,),
        scales: Sequence[float] = (1.0,),
        visual_fusion: nn.Module | None = None,
        fusion: nn.Module | None = None,
        each_scale: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.layers, self.scales, self.each_scale = tuple(layers), tuple(scales), each_scale
        self.visual_fusion = (
            VisualFusion(width=backbone.vision_width) if visual_fusion is None else visual_fusion
        )
        self.fusion = NoFusion() if fusion is None else fusion
        std = backbone.config.qformer_config.initializer_range
        self.prompt_tokens = nn.Parameter(torch.randn_like(backbone.query_tokens) * std)
        self.temp = nn.Parameter(torch.tensor(0.07))

    @property
    def embedding_width(self) -> int:
        """E."""
        return self.backbone.vision_projection.out_features

    @property
    def use_gated_fusion(self) -> bool:
        """Whether the text changes the reference's tokens. False takes the fusion out for good.

        Raises:
            ValueError: it is set to True where there is no fusion.
        """
        return not isinstance(self.fusion, NoFusion)

    @use_gated_fusion.setter
    def use_gated_fusion(self, wanted: bool) -> None:
        if wanted and not self.use_gated_fusion:
            raise ValueError("this model has no fusion to use: set model.fusion to one")
        if not wanted:
            self.fusion = NoFusion()

    def feature_bytes(self, dtype: torch.dtype) -> int:
        """Size in memory of the output of `levels` for one image."""
        tokens = sum(self.backbone.token_count(scale) for scale in self.scales)
        return tokens * len(self.layers) * self.backbone.vision_width * dtype.itemsize

    def levels(self, visual: Visual) -> list[Tensor]:
        """The vision tower's outputs that the model reads, before its last LayerNorm.

        Under autocast they have its type, although the tower's residual stream keeps its own.
        Outputs that are computed on the fly then equal those that were cached in half the memory.
        """
        if not isinstance(visual, Tensor):
            return visual
        found = [
            level
            for scale in self.scales
            for level in self.backbone.vision_levels(visual, self.layers, scale=scale)
        ]
        kind = visual.device.type
        if torch.is_autocast_enabled(kind):
            found = [level.to(torch.get_autocast_dtype(kind)) for level in found]
        return found

    def normalised_levels(self, visual: Visual) -> list[Tensor]:
        """All levels after the tower's last LayerNorm, in the Q-Former's precision."""
        return [self.backbone.normalise(x.to(self.temp.dtype)) for x in self.levels(visual)]

    def visual_tokens(self, visual: Visual) -> tuple[Tensor, Aux]:
        """The one token map that the Q-Former reads: [B, L, Dv], and the visual fusion's aux."""
        return self.visual_fusion(self.normalised_levels(visual))

    def encode_target(self, visual: Visual) -> Tensor:
        """Target features of B images: [B, Q, E], each of norm 1."""
        return self._targets(self.visual_tokens(visual)[0])

    def encode_query(
        self, visual: Visual, text: Tokens, *, keep: Tensor | None = None
    ) -> tuple[Tensor, Aux]:
        """Query features of B reference images and texts.

        Args:
            visual: the reference images.
            text: how to change them.
            keep: bool, [B, L] or a shape that expands to it: the tokens that the text may change.
                The others stay as they are in the image, and aux says what it would say without
                `keep`.

        Returns:
            [B, E] of norm 1, and aux: the fusions', and `prompts` [B, Q, D], the outputs of the
            fusion pass at its query tokens.
        """
        tokens, aux = self.visual_tokens(visual)
        words = self.backbone.embed_words(text.input_ids)
        query, more = self._query(tokens, words, text.attention_mask, keep=keep)
        return query, aux | more

    def _targets(self, tokens: Tensor) -> Tensor:
        """[B, L, Dv] -> [B, Q, E]."""
        queries = self.backbone.query_tokens.expand(len(tokens), -1, -1)
        hidden = self.backbone.query_pass(queries, image=tokens)  # [B, Q, D]
        return _project(self.backbone.vision_projection, hidden)

    def _query(
        self, tokens: Tensor, words: Tensor, text_mask: Tensor, keep: Tensor | None = None
    ) -> tuple[Tensor, Aux]:
        """[B, L, Dv], word embeddings [B, T, D] and their mask [B, T] -> [B, E], and aux."""
        words = self.backbone.at_positions(words)
        text = self.backbone.normalise_text(words)
        image, aux = tokens_and_aux(self.fusion, tokens, text, text_mask)
        if keep is not None:
            image = torch.where(keep[..., None], image, tokens)
        queries = self.backbone.query_tokens.expand(len(words), -1, -1)  # [B, Q, D]
        count = queries.shape[1]
        mask = _with_queries(text_mask, count)
        both = torch.cat([queries, words], 1)
        prompts = self.backbone.query_pass(both, image=image, mask=mask, kept=slice(0, count))
        # The text's [CLS] comes after the Q prompts.
        second = torch.cat([prompts, words], 1)
        cls = self.backbone.text_pass(second, mask=mask, kept=slice(count, count + 1))
        query = _project(self.backbone.text_projection, cls[:, 0])
        return query, {**aux, "prompts": prompts}

    def encode_text(self, text: Tokens) -> Tensor:
        """Features of B texts with the learned prompts, without an image: [B, E] of norm 1."""
        return self._text(self.backbone.embed_words(text.input_ids), text.attention_mask)

    def _text(self, words: Tensor, text_mask: Tensor) -> Tensor:
        """Word embeddings [B, T, D] and their mask [B, T] -> [B, E]."""
        prompts = self.prompt_tokens.expand(len(words), -1, -1)  # [B, Q, D]
        # The prompts come after the [CLS].
        sequence = torch.cat([words[:, :1], prompts, words[:, 1:]], 1)  # [B, Q + T, D]
        sequence = self.backbone.at_positions(sequence)
        mask = _with_queries(text_mask, prompts.shape[1])
        hidden = self.backbone.text_pass(sequence, mask=mask, kept=slice(0, 1))
        return _project(self.backbone.text_projection, hidden[:, 0])

    def forward(self, images: Visual, references: Tensor, targets: Tensor, text: Tokens) -> Encoded:
        """All features of a batch of triplets.

        Args:
            images: U images. Each is read once, even if several triplets show it.
            references: [B], which of the images is each triplet's reference.
            targets: [B], the same for each triplet's target.
            text: of the B triplets.
        """
        levels = self.normalised_levels(images)
        tokens, aux = self.visual_fusion(levels)  # [U, L, Dv]
        # One lookup only, because each lookup has a gradient of the vocabulary's size.
        words = self.backbone.embed_words(text.input_ids)
        query, more = self._query(tokens.index_select(0, references), words, text.attention_mask)
        by_scale = {}
        if self.each_scale:
            by_scale = self._by_scale(levels, references, targets, words, text.attention_mask)
        return Encoded(
            query=query,
            text=self._text(words, text.attention_mask),
            targets=self._targets(tokens.index_select(0, targets)),
            fusion_mean=more.pop("prompts").float().mean(1),
            prompt_mean=self.prompt_tokens.detach().mean((0, 1)),
            aux=aux | more,
            by_scale=by_scale,
        )

    def _by_scale(
        self,
        levels: list[Tensor],
        references: Tensor,
        targets: Tensor,
        words: Tensor,
        text_mask: Tensor,
    ) -> dict[float, tuple[Tensor, Tensor]]:
        """Query and target features from the main layer of each scale alone."""
        return {
            scale: (
                self._query(level.index_select(0, references), words, text_mask)[0],
                self._targets(level.index_select(0, targets)),
            )
            for scale, level in zip(self.scales, levels[:: len(self.layers)], strict=True)
        }


def _project(head: nn.Module, hidden: Tensor) -> Tensor:
    """[..., D] -> [..., E] of norm 1, in float32, because half precision blurs close ranks."""
    with torch.autocast(hidden.device.type, enabled=False):
        return F.normalize(head(hidden.float()), dim=-1)


def _with_queries(text_mask: Tensor, count: int) -> Tensor:
    """The mask of Q tokens that always count and the text: [B, T] -> [B, Q + T]."""
    return F.pad(text_mask, (count, 0), value=1)
