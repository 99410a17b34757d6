"""A reference image and a text -> a query; an image -> its target features.

Both are encoded only here. Training, evaluation, submission and pictures call
`encode_query` and `encode_target`. Shapes: B batch, L visual tokens, N layers, Q query tokens,
T text tokens, D Q-Former width, Dv vision width, E embedding width.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from gatedcir.models.backbone import Backbone
from gatedcir.models.encoded import Encoded
from gatedcir.models.gated_fusion.gated import NoFusion, tokens_and_aux
from gatedcir.models.gated_fusion.survival import Survival, gate_target, over_channels, relative
from gatedcir.models.image_reader import ImageReader
from gatedcir.models.matcher import Matcher
from gatedcir.models.passes import first_pass, four_passes, target_pass, text_features, with_prompts
from gatedcir.models.qformer import project
from gatedcir.models.query_branch import QueryBranch
from gatedcir.models.scale_towers import ScaleTowers
from gatedcir.models.text import Tokens
from gatedcir.models.visual_fusion.fusion import VisualFusion
from gatedcir.start import Aux
from gatedcir.visual import Visual

Reads = Literal["embeddings", "qformer"]


class ComposedRetriever(ImageReader):
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
        reads: the fusion reads the words' embeddings, or the outputs of the Q-Former's text half.
        sequential: in training, keep the tower's activations for one scale at a time.
        each_scale: `forward` also gives features from each scale alone.
        survival: `forward` also gives the gate and what it should be.
        scale_towers: the towers that read some scales in place of the backbone's.
        query_branch: a Q-Former of its own that encodes queries.
        matcher: judges pairs of queries and images.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        layers: Sequence[int] = (-1,),
        scales: Sequence[float] = (1.0,),
        visual_fusion: VisualFusion | None = None,
        fusion: nn.Module | None = None,
        reads: Reads = "embeddings",
        sequential: bool = False,
        each_scale: bool = False,
        survival: Survival | None = None,
        scale_towers: ScaleTowers | None = None,
        query_branch: QueryBranch | None = None,
        matcher: Matcher | None = None,
    ) -> None:
        taught_by = () if survival is None else tuple(survival.layers or layers)
        super().__init__(
            backbone,
            layers=layers,
            scales=scales,
            also=taught_by,
            visual_fusion=visual_fusion,
            scale_towers=scale_towers or ScaleTowers(),
            sequential=sequential,
        )
        self.fusion = NoFusion() if fusion is None else fusion
        self.reads, self.survival, self.each_scale = reads, survival, each_scale
        self.query_branch, self.matcher = query_branch, matcher
        self.lesson_places = self.places_of(taught_by or layers)
        """The outputs of `levels` that the lesson compares, or would compare."""
        std = backbone.config.qformer_config.initializer_range
        self.prompt_tokens = nn.Parameter(torch.randn_like(backbone.query_tokens) * std)
        self.temp = nn.Parameter(torch.tensor(0.07))

    @property
    def embedding_width(self) -> int:
        """E."""
        return self.backbone.vision_projection.out_features

    @property
    def num_query_tokens(self) -> int:
        """Q."""
        return self.backbone.num_query_tokens

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
            keep: [B, L] or a shape that expands to it. If bool: the tokens that the text may
                change. The others stay as they are in the image. If float: the factor of each
                token's change. Aux says what it would say without `keep`.

        Returns:
            [B, E] of norm 1, and aux: the fusions', `prompts` [B, Q, D], the outputs of the fusion
            pass at its query tokens, and `fused` [B, L, Dv], the image's tokens after the fusion.
        """
        tokens, aux = self.visual_tokens(visual)
        words = self.backbone.embed_words(text.input_ids)
        query, more = self._query(tokens, words, text.attention_mask, keep=keep)
        return query, aux | more

    def _targets(self, tokens: Tensor) -> Tensor:
        """[B, L, Dv] -> [B, Q, E]."""
        return project(self.backbone.vision_projection, target_pass(self.backbone, tokens))

    def _query(
        self, tokens: Tensor, words: Tensor, text_mask: Tensor, keep: Tensor | None = None
    ) -> tuple[Tensor, Aux]:
        """[B, L, Dv], word embeddings [B, T, D] and their mask [B, T] -> [B, E], and aux."""
        # Once for both passes: two look-ups would sum the same gradients in another order.
        words = self.backbone.at_positions(words)
        prompts, aux = self._prompts(tokens, words, text_mask, keep)
        return self._second_pass(prompts, words, text_mask), aux

    def _prompts(
        self, tokens: Tensor, words: Tensor, text_mask: Tensor, keep: Tensor | None = None
    ) -> tuple[Tensor, Aux]:
        """The fusion pass over words at their positions: [B, Q, D], and aux, with them too."""
        image, aux = self._fused(tokens, words, text_mask, keep)
        prompts = first_pass(self.backbone, self.query_branch, words, text_mask, image=image)
        return prompts, {**aux, "prompts": prompts, "fused": image}

    def _fused(
        self, tokens: Tensor, words: Tensor, text_mask: Tensor, keep: Tensor | None = None
    ) -> tuple[Tensor, Aux]:
        """Tokens [B, L, Dv] after the fusion with words at their positions, and its aux."""
        text = self._read(words, text_mask)
        image, aux = tokens_and_aux(self.fusion, tokens, text, text_mask)
        if keep is not None and keep.dtype == torch.bool:
            image = torch.where(keep[..., None], image, tokens)
        elif keep is not None:
            image = tokens + keep[..., None].to(tokens.dtype) * (image - tokens)
        return image, dict(aux)

    def encode_prompts(self, visual: Visual, text: Tokens) -> Tensor:
        """The outputs of the fusion pass, from which `query_of` makes the query: [B, Q, D]."""
        return self.prompts_of(self.visual_tokens(visual)[0], text)

    def prompts_of(self, tokens: Tensor, text: Tokens) -> Tensor:
        """The same of token maps [B, L, Dv]: [B, Q, D]."""
        return self._prompts(tokens, self._words(text), text.attention_mask)[0]

    def match(self, prompts: Tensor, text: Tokens, tokens: Tensor) -> Tensor:
        """How well B candidates fit B queries: a logit each, [B].

        Args:
            prompts: [B, Q, D], of `prompts_of`.
            text: of the B queries.
            tokens: [B, L, Dv], the candidates' token maps.
        """
        assert self.matcher is not None
        return self.matcher(prompts, self._words(text), text.attention_mask, tokens)

    def query_of(self, prompts: Tensor, text: Tokens) -> Tensor:
        """The query of B outputs of `encode_prompts` and their texts: [B, E] of norm 1."""
        return self._second_pass(prompts, self._words(text), text.attention_mask)

    def _words(self, text: Tokens) -> Tensor:
        """Word embeddings at their positions: [B, T, D]."""
        return self.backbone.at_positions(self.backbone.embed_words(text.input_ids))

    def _second_pass(self, prompts: Tensor, words: Tensor, text_mask: Tensor) -> Tensor:
        """Prompts [B, Q, D], words at their positions [B, T, D] and their mask -> [B, E]."""
        reader = self.query_branch or self.backbone
        return text_features(reader, torch.cat([prompts, words], 1), text_mask)

    def _read(self, words: Tensor, text_mask: Tensor) -> Tensor:
        """What the fusion reads of the words at their positions: [B, T, D] -> [B, T, D]."""
        if self.reads == "qformer":
            return self.backbone.text_pass(words, mask=text_mask)
        return self.backbone.normalise_text(words)

    def encode_text(self, text: Tokens, *, prompted: bool = True) -> Tensor:
        """Features of B texts without an image: [B, E] of norm 1.

        They have the learned prompts. Without `prompted` they are BLIP-2's own, for weights whose
        prompts nobody has trained.
        """
        words = self.backbone.embed_words(text.input_ids)
        if prompted:
            return self._text(words, text.attention_mask)
        return text_features(self.backbone, self.backbone.at_positions(words), text.attention_mask)

    def _text(self, words: Tensor, text_mask: Tensor) -> Tensor:
        """Word embeddings [B, T, D] and their mask [B, T] -> [B, E]."""
        sequence = with_prompts(self.backbone, self.prompt_tokens, words)
        return text_features(self.backbone, sequence, text_mask)

    def forward(self, images: Visual, references: Tensor, targets: Tensor, text: Tokens) -> Encoded:
        """All features of a batch of triplets.

        Args:
            images: U images. Each is read once, even if several triplets show it.
            references: [B], which of the images is each triplet's reference.
            targets: [B], the same for each triplet's target.
            text: of the B triplets.
        """
        read = self.levels(images)
        levels = self.normalised_levels(read)
        tokens, aux = self.visual_fusion(levels)  # [U, L, Dv]
        # One lookup only, because each lookup has a gradient of the vocabulary's size.
        words = self.backbone.embed_words(text.input_ids)
        shown = tokens.index_select(0, references)
        placed = self.backbone.at_positions(words)
        fused, more = self._fused(shown, placed, text.attention_mask)
        passed = four_passes(
            self.backbone,
            self.query_branch,
            placed,
            text.attention_mask,
            alone=with_prompts(self.backbone, self.prompt_tokens, words),
            image=fused,
            targets=tokens.index_select(0, targets),
        )
        by_scale = {}
        if self.each_scale:
            by_scale = self._by_scale(levels, references, targets, words, text.attention_mask)
        gate, wanted = None, None
        if self.survival is not None:
            gate = over_channels(more)
            if self.survival.taught == "change":
                gate = relative((fused - shown)[:, 1:].float().abs().mean(-1))
            teachers = [read[place] for place in self.lesson_places]
            wanted = gate_target(teachers, references, targets, cut=self.survival.cut)
        return Encoded(
            query=passed.query,
            text=passed.text,
            targets=passed.targets,
            fusion_mean=passed.prompts.float().mean(1),
            prompt_mean=self.prompt_tokens.detach().mean((0, 1)),
            aux=aux | more | ({} if wanted is None else {"gate_target": wanted}),
            by_scale=by_scale,
            gate=gate,
            gate_target=wanted,
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
        scales = (1.0,) if self.single_scale else self.scales
        return {
            scale: (
                self._query(level.index_select(0, references), words, text_mask)[0],
                self._targets(level.index_select(0, targets)),
            )
            for scale, level in zip(scales, levels[:: len(self.layers)], strict=True)
        }
