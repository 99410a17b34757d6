"""BLIP-2's image-text half: vision tower, text embeddings, Q-Former, projections.

Only this module imports transformers' BLIP-2. Names of modules are transformers' own, so that hub
weights load by name. Legend of shapes: B batch, L visual tokens, N layers, Q query tokens, T text
tokens, S a sequence of queries and text, D Q-Former width, Dv vision width, E embedding width.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import Blip2Config, Blip2ForImageTextRetrieval

from gatedcir.models.qformer import qformer_pass
from gatedcir.multiscale.maps import resize, resize_positions, to_tokens
from gatedcir.multiscale.recompute import call
from gatedcir.multiscale.scale_sizes import scaled_size

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


class Backbone(nn.Module):
    """The pretrained parts of BLIP-2 that composed retrieval uses (Li et al., ICML 2023)."""

    def __init__(self, blip2: Blip2ForImageTextRetrieval) -> None:
        super().__init__()
        self.config: Blip2Config = blip2.config
        self.vision_model = blip2.vision_model
        self.embeddings = blip2.embeddings
        self.qformer = blip2.qformer
        self.query_tokens = blip2.query_tokens  # [1, Q, D]
        self.vision_projection = blip2.vision_projection  # D -> E
        self.text_projection = blip2.text_projection  # D -> E
        # This head is kept, although it is not used, so that exported weights are complete.
        self.itm_head = blip2.itm_head.requires_grad_(False)  # D -> 2
        self.vision_model.post_layernorm.eps = _POST_LAYERNORM_EPS
        self.sources: tuple[str, ...] = ()  # names of weights with this frozen tower
        self.recompute = False  # the activations of the tower's blocks, in the backward pass

    @classmethod
    def from_config(cls, config: dict) -> "Backbone":
        """An untrained backbone from the dictionary form of a `Blip2Config`."""
        return cls(_Blip2(Blip2Config.from_dict(config)))

    @classmethod
    def without_weights(cls, config: dict) -> "Backbone":
        """The names and shapes of a backbone, on the meta device, without memory for weights."""
        with torch.device("meta"):
            return cls.from_config(config)

    @classmethod
    def from_state(cls, config: dict, weights: Mapping[str, Tensor]) -> "Backbone":
        """A backbone in float32 around weights. It shares those that are float32 already.

        Raises:
            RuntimeError: the weights do not fit the config.
        """
        backbone = cls.without_weights(config)
        backbone.load_state_dict({name: w.float() for name, w in weights.items()}, assign=True)
        return backbone._with_positions()

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

    def resize(self, image_size: int) -> None:
        """Take images of another size: patch positions are interpolated, the CLS token's kept.

        The interpolation is bicubic, with the alignment that LAVIS uses for each tower.

        Raises:
            ValueError: the size is no positive multiple of the patch size.
        """
        vision, embeddings = self.config.vision_config, self.vision_model.embeddings
        if image_size < 1 or image_size % vision.patch_size:
            raise ValueError(f"{image_size} is no multiple of a patch's {vision.patch_size} px")
        new = image_size // vision.patch_size
        embeddings.position_embedding = nn.Parameter(self._positions(new).detach().clone())
        vision.image_size = embeddings.image_size = image_size
        embeddings.num_patches, embeddings.num_positions = new * new, new * new + 1

    def _positions(self, side: int) -> Tensor:
        """Position embeddings of a grid of `side` patches a side: [1, 1 + side * side, Dv]."""
        own = self.vision_model.embeddings.position_embedding
        return resize_positions(own, side, aligned=self.has_pre_layernorm)

    @property
    def has_pre_layernorm(self) -> bool:
        """Whether the vision tower is CLIP's."""
        return hasattr(self.vision_model, "pre_layernorm")

    @property
    def num_query_tokens(self) -> int:
        """Q."""
        return self.query_tokens.shape[1]

    @property
    def vision_width(self) -> int:
        """Dv."""
        return self.config.vision_config.hidden_size

    @property
    def width(self) -> int:
        """D."""
        return self.config.qformer_config.hidden_size

    @property
    def image_size(self) -> int:
        """Side of the square input image in pixels."""
        return self.config.vision_config.image_size

    def token_count(self, scale: float = 1.0) -> int:
        """L of an image that is read at a scale."""
        side = self._side(self.image_size, scale) // self.config.vision_config.patch_size
        return 1 + side * side

    def _side(self, image_size: int, scale: float) -> int:
        """Side in pixels at a scale, in whole patches."""
        patch = self.config.vision_config.patch_size
        return scaled_size((image_size, image_size), scale, patch)[0]

    def set_trainable(self, *, vision: bool) -> None:
        """Freeze or train the vision tower. Its last LayerNorm and all the rest always train."""
        for module in self._tower():
            module.requires_grad_(vision)

    def set_tower_dtype(self, dtype: torch.dtype) -> None:
        """Keep the vision tower's weights in a precision. Its last LayerNorm stays as it is."""
        for module in self._tower():
            module.to(dtype)

    def _tower(self) -> list[nn.Module]:
        """The part that fine-tuning freezes: all of the vision tower below its last LayerNorm."""
        vision = self.vision_model
        before = [vision.pre_layernorm] if self.has_pre_layernorm else []
        return [vision.embeddings, *before, vision.encoder]

    def set_attention(self, implementation: str) -> None:
        """Choose transformers' attention function: "eager" or "sdpa"."""
        self.vision_model.set_attn_implementation(implementation)
        self.qformer.set_attn_implementation(implementation)

    def check_layers(self, layers: Sequence[int]) -> list[int]:
        """Block indices as in a list, counted from the first block.

        Raises:
            ValueError: no layer, one that the tower does not have, or one twice.
        """
        count = len(self.vision_model.encoder.layers)
        found = [layer % count for layer in layers if -count <= layer < count]
        if not layers or len(set(found)) < len(layers):
            raise ValueError(
                f"{list(layers)} are not layers of a tower of {count} blocks, or name one twice"
            )
        return found

    def vision_levels(
        self, pixels: Tensor, layers: Sequence[int], *, scale: float = 1.0
    ) -> list[Tensor]:
        """Outputs of chosen blocks, before the last LayerNorm. Higher blocks are skipped.

        Args:
            pixels: [B, 3, H, W], normalised.
            layers: block indices as in a list, -1 the last.
            scale: the image is read at this multiple of its size, rounded to whole patches, with
                interpolated positions.

        Returns:
            One [B, L, Dv] tensor a layer, in the order asked for. L depends on the scale.

        Raises:
            ValueError: a layer that the tower does not have.
        """
        blocks = self.vision_model.encoder.layers
        wanted = self.check_layers(layers)
        hidden = self._embed(pixels, scale)  # [B, L, Dv]
        if self.has_pre_layernorm:
            hidden = self.vision_model.pre_layernorm(hidden)
        kept = {}
        for index, block in enumerate(blocks[: max(wanted) + 1]):
            hidden = call(block, hidden, recompute=self.recompute)
            if index in wanted:
                kept[index] = hidden
        return [kept[index] for index in wanted]

    def _embed(self, pixels: Tensor, scale: float) -> Tensor:
        """Patches and positions of the image at a scale: [B, L, Dv]."""
        embeddings, patch = self.vision_model.embeddings, self.config.vision_config.patch_size
        side = self._side(pixels.shape[-1], scale)
        if side == pixels.shape[-1]:
            return embeddings(pixels)
        weight = embeddings.patch_embedding.weight
        patches = embeddings.patch_embedding(resize(pixels, (side, side)).to(weight.dtype))
        tokens = to_tokens(embeddings.class_embedding.expand(len(pixels), 1, -1), patches)
        return tokens + self._positions(side // patch).to(tokens.dtype)

    def normalise(self, level: Tensor) -> Tensor:
        """The tower's last LayerNorm (LAVIS' ln_vision): [B, L, Dv] -> [B, L, Dv]."""
        return self.vision_model.post_layernorm(level)

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
