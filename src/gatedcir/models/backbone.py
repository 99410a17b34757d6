"""BLIP-2's image-text half: vision tower, text embeddings, Q-Former, projections.

Only this module imports transformers' BLIP-2. Names of modules are transformers' own, so that hub
weights load by name. Legend of shapes: B batch, L visual tokens, N layers, Q query tokens, T text
tokens, S a sequence of queries and text, D Q-Former width, Dv vision width, E embedding width.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import Blip2Config, Blip2ForImageTextRetrieval

from gatedcir.models.qformer import qformer_pass
from gatedcir.models.tower import VisionTower

# LAVIS normalises with torch's default here, while transformers reuses the blocks' 1e-6.
_POST_LAYERNORM_EPS = 1e-5


class _Blip2(Blip2ForImageTextRetrieval):
    """BLIP-2 whose vision tower is CLIP's where the config says `pre_layernorm`.

    CLIP normalises the embeddings, and its patches have no bias (Radford et al., ICML 2021).
    """

    def __init__(self, config: Blip2Config) -> None:
        super().__init__(config)
        vision = config.vision_config
        if getattr(vision, "pre_layernorm", False):
            norm = nn.LayerNorm(vision.hidden_size, eps=vision.layer_norm_eps)
            self.vision_model.pre_layernorm = norm
            self.vision_model.embeddings.patch_embedding.register_parameter("bias", None)


class Backbone(VisionTower):
    """The pretrained parts of BLIP-2 that composed retrieval uses (Li et al., ICML 2023)."""

    def __init__(self, blip2: Blip2ForImageTextRetrieval) -> None:
        super().__init__(blip2.vision_model, blip2.config.vision_config)
        self.config: Blip2Config = blip2.config
        self.recipes: tuple[str, ...] = ()  # lines on those of the run that the weights are of
        self.embeddings = blip2.embeddings
        self.qformer = blip2.qformer
        self.query_tokens = blip2.query_tokens  # [1, Q, D]
        self.vision_projection = blip2.vision_projection  # D -> E
        self.text_projection = blip2.text_projection  # D -> E
        # This head is kept, although it is not used, so that exported weights are complete.
        self.itm_head = blip2.itm_head.requires_grad_(False)  # D -> 2
        self.vision_model.post_layernorm.eps = _POST_LAYERNORM_EPS

    @classmethod
    def from_config(cls, config: dict) -> "Backbone":
        """An untrained backbone from the dictionary form of a `Blip2Config`."""
        return cls(_Blip2(Blip2Config.from_dict(config)))

    @classmethod
    def without_weights(cls, config: dict, *, most: int | None = None) -> "Backbone":
        """The names and shapes of a backbone, on the meta device, without memory for weights.

        ValueError if it would have more than `most` layers, each of which takes memory and time.
        """
        known = Blip2Config.from_dict(config)
        for part in (known.vision_config, known.qformer_config) if most is not None else ():
            if part.num_hidden_layers > most:
                raise ValueError(f"{part.num_hidden_layers} layers for {most} weights")
        with torch.device("meta"):
            return cls(_Blip2(known))

    def around(self, weights: Mapping[str, Tensor]) -> "Backbone":
        """The same backbone, made `without_weights`, in float32. Weights in float32 are shared.

        Raises:
            RuntimeError: the weights do not fit it.
        """
        self.load_state_dict({name: w.float() for name, w in weights.items()}, assign=True)
        return self._with_positions()

    @classmethod
    def with_random_weights(cls, config: dict, *, seed: int) -> "Backbone":
        """An untrained backbone: one normal a matrix. Faster than `from_config` at real sizes."""
        backbone = cls.without_weights(config).to_empty(device="cpu")
        generator = torch.Generator().manual_seed(seed)
        for module in backbone.modules():
            for name, parameter in module.named_parameters(recurse=False):
                if parameter.ndim > 1:
                    nn.init.normal_(parameter, std=0.02, generator=generator)
                else:
                    is_scale = isinstance(module, nn.LayerNorm) and name == "weight"
                    nn.init.constant_(parameter, float(is_scale))
        return backbone._with_positions()

    @classmethod
    def from_pretrained(cls, source: str) -> tuple["Backbone", dict[str, list[str]]]:
        """A backbone in float32 from a hub name or a folder in the hub's layout.

        Returns:
            The backbone, and the names of weights that are missing, unexpected, or of another
            shape than the config says.
        """
        blip2, report = _Blip2.from_pretrained(
            source, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
        # Early conversions wrote this buffer out.
        unexpected = [n for n in report["unexpected_keys"] if not n.endswith(".position_ids")]
        wrong = {
            "missing": sorted(report["missing_keys"]),
            "unexpected": sorted(unexpected),
            "of another shape": sorted(map(str, report["mismatched_keys"])),
        }
        return cls(blip2), wrong

    def save_pretrained(self, folder: Path, *, dtype: torch.dtype) -> None:
        """Config and weights in the hub's layout, in another precision."""
        weights = {name: w.to(dtype).contiguous() for name, w in self.state_dict().items()}
        with torch.device("meta"):
            blip2 = Blip2ForImageTextRetrieval(self.config)
        blip2.save_pretrained(folder, state_dict=weights)

    def _with_positions(self) -> "Backbone":
        """Set the text positions after the meta device, because no file holds them."""
        embeddings = self.embeddings
        embeddings.position_ids = torch.arange(embeddings.position_embeddings.num_embeddings)[None]
        return self

    @property
    def num_query_tokens(self) -> int:
        """Q."""
        return self.query_tokens.shape[1]

    @property
    def width(self) -> int:
        """D."""
        return self.config.qformer_config.hidden_size

    def set_attention(self, implementation: str) -> None:
        """Choose transformers' attention function: "eager" or "sdpa"."""
        super().set_attention(implementation)
        self.qformer.set_attn_implementation(implementation)

    def embed_words(self, input_ids: Tensor) -> Tensor:
        """Word embeddings without positions: [B, T] -> [B, T, D]."""
        return self.embeddings.word_embeddings(input_ids)

    def at_positions(self, words: Tensor) -> Tensor:
        """Words and their positions' embeddings, not yet normalised: [B, T, D] -> [B, T, D]."""
        return words + self.embeddings.position_embeddings.weight[: words.shape[1]]

    def normalise_text(self, embedded: Tensor) -> Tensor:
        """The text as the Q-Former's embedding layer gives it: [B, T, D] -> [B, T, D]."""
        return self.qformer.dropout(self.qformer.layernorm(embedded))

    def query_pass(
        self,
        sequence: Tensor,
        *,
        image: Tensor,
        mask: Tensor | None = None,
        kept: slice = slice(None),
    ) -> Tensor:
        """Queries, and the text after them, through the Q-Former. The queries look at the image.

        Args:
            sequence: [B, Q + T, D]; the first Q are query tokens.
            image: [B, L, Dv]; the cross-attention layers attend to it.
            mask: [B, Q + T], 1 where a token counts; None when all do.
            kept: tokens whose outputs are wanted, queries alone or text alone; all by default.

        Returns:
            [B, Q + T, D], or only the kept tokens of it.
        """
        count = self.num_query_tokens
        return qformer_pass(
            self.qformer, sequence, queries=count, mask=mask, image=image, kept=kept
        )

    def text_pass(self, sequence: Tensor, *, mask: Tensor, kept: slice = slice(None)) -> Tensor:
        """A sequence, query tokens included, through the Q-Former's text half, without the image.

        Shapes as in `query_pass`.
        """
        return qformer_pass(self.qformer, sequence, queries=0, mask=mask, kept=kept)
