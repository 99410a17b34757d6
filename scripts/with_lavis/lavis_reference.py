"""Write outputs of salesforce-lavis' classes for comparison: tiny models' features, names, shapes.

Runs in the environment of requirements-lavis.txt: see docs/lavis.md. LAVIS' Blip2Qformer is built
by its own constructor. Only its downloads are replaced (tokenizer, BERT, towers' weights).
"""

import argparse
import json
import platform
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from lavis_weights import import_lavis, lay_over, path, write
from torch import Tensor, nn

from gatedcir.errors import run_command

TOWERS = {"vit_g": "eva_clip_g", "vit_L": "clip_L"}
_BERT_PIECES = 30522
_SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
_PATCH, _BLOCKS, _HEADS, _WIDTH = 8, 3, 4, 48
_BERT = {
    "hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128,
    "max_position_embeddings": 64,
}  # fmt: skip
_IMAGE_SIZE, _QUERIES, _EMBED_DIM = 32, 8, 32
_TEXTS = ["a red dog on the left of two cats", "without the hat", "make it darker"]


def main(argv: Sequence[str] | None = None) -> None:
    """Write, for each tower, a folder of tiny weights and features, and the real names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=path, required=True, help="a new folder")
    output = parser.parse_args(argv).output
    torch.set_num_threads(1)
    import_lavis()
    for tower in TOWERS:
        model = tiny_model(tower)
        write(model, output / tower, name="blip2.pth")
        (output / tower / "config.json").write_text(json.dumps(_hub_config(model, tower), indent=1))
        torch.save(features(model), output / tower / "features.pt")
        (output / f"lavis_{tower}.json").write_text(_listing(real_shapes(tower)))
    print(output)


def tiny_model(tower: str) -> Any:
    """LAVIS' Blip2Qformer, tiny, in eval mode, its weights laid over it from a file."""
    from lavis.models import clip_vit, eva_vit

    if tower == "vit_g":
        settings = {"qkv_bias": True, "mlp_ratio": 4.3637, "use_mean_pooling": False}
        norm = partial(nn.LayerNorm, eps=1e-6)
        vision = eva_vit.VisionTransformer(
            img_size=_IMAGE_SIZE, patch_size=_PATCH, embed_dim=_WIDTH, depth=_BLOCKS,
            num_heads=_HEADS, norm_layer=norm, **settings,
        )  # fmt: skip
    else:
        vision = clip_vit.VisionTransformer(
            input_resolution=_IMAGE_SIZE, patch_size=_PATCH, width=_WIDTH,
            layers=_BLOCKS + 1,  # LAVIS drops the last
            heads=_HEADS, use_grad_checkpointing=False,
        )  # fmt: skip
    words = sorted({word for text in _TEXTS for word in text.split()})
    letters = [prefix + chr(97 + i) for prefix in ("", "##") for i in range(26)]
    with _without_downloads(words + [w for w in letters if w not in words], bert=_BERT):
        from lavis.models import Blip2Qformer
        from lavis.models.blip2_models import blip2

        name = "create_eva_vit_g" if tower == "vit_g" else "create_clip_vit_L"
        with patch.object(blip2, name, lambda *_: vision):
            model = Blip2Qformer(
                vit_model=TOWERS[tower], img_size=_IMAGE_SIZE, vit_precision="fp32",
                num_query_token=_QUERIES, embed_dim=_EMBED_DIM,
            )  # fmt: skip
    _draw(model)
    parameters = dict(model.named_parameters())
    frozen = {name for name, parameter in parameters.items() if not parameter.requires_grad}
    trained = {name: w.clone() for name, w in model.state_dict().items() if name not in frozen}
    for name in parameters.keys() - frozen:
        parameters[name].data.zero_()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint_0.pth"  # LAVIS' trainer leaves out the frozen ones
        torch.save({"model": trained, "epoch": 0}, checkpoint)
        lay_over(model, checkpoint)
    return model.eval()


def _draw(model: nn.Module) -> None:
    """Give weights other values, near one for those of norms and near zero for the rest."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in sorted(model.named_parameters()):
        is_norm = any(part in name for part in ("norm", "Norm", "ln_")) and name.endswith("weight")
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.copy_((1.0 if is_norm or name == "temp" else 0.0) + 0.05 * noise)


def features(model: Any) -> dict[str, Tensor | list[str]]:
    """Inputs, and the outputs of the three modes of LAVIS' `extract_features`."""
    shape = (len(_TEXTS), 3, _IMAGE_SIZE, _IMAGE_SIZE)
    images = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    samples = {"image": images, "text_input": _TEXTS}
    tokens = model.tokenizer(_TEXTS, return_tensors="pt", padding=True)
    modes = ("image", "text", "multimodal")
    image, text, both = (model.extract_features(samples, mode) for mode in modes)
    with torch.no_grad():
        visual_tokens = model.ln_vision(model.visual_encoder(images))
        matching = model.compute_itm(visual_tokens, tokens.input_ids, tokens.attention_mask)
    return {
        "texts": _TEXTS,
        "images": images,
        "input_ids": tokens.input_ids,
        "attention_mask": tokens.attention_mask,
        "visual_tokens": visual_tokens,
        "image_embeds": image.image_embeds,
        "image_embeds_proj": image.image_embeds_proj,
        "text_embeds": text.text_embeds,
        "text_embeds_proj": text.text_embeds_proj,
        "multimodal_embeds": both.multimodal_embeds,
        "itm": matching,
    }


def real_shapes(tower: str) -> dict[str, list[int]]:
    """Names and shapes of LAVIS' whole state at its real size and 224 px. Nothing is computed."""
    pieces = [f"piece{i}" for i in range(_BERT_PIECES - len(_SPECIAL))]
    # The tower's constructor asks a tensor of drop rates for its numbers.
    linspace = patch.object(torch, "linspace", partial(torch.linspace, device="cpu"))
    with _without_downloads(pieces, bert={}), linspace, torch.device("meta"):
        from lavis.models import Blip2Qformer

        model = Blip2Qformer(vit_model=TOWERS[tower], img_size=224)
    return {name: list(tensor.shape) for name, tensor in sorted(model.state_dict().items())}


@contextmanager
def _without_downloads(pieces: Sequence[str], *, bert: dict[str, int]) -> Iterator[None]:
    """Give LAVIS' constructor a vocabulary, BERT's settings and empty tower weights."""
    from lavis.models import clip_vit, eva_vit
    from lavis.models.blip2_models import blip2
    from transformers import BertTokenizer

    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        vocabulary = Path(folder) / "vocab.txt"
        vocabulary.write_text("".join(f"{piece}\n" for piece in [*_SPECIAL, *pieces]))
        nothing = Path(folder) / "empty.pth"
        torch.save({}, nothing)
        size = len(_SPECIAL) + len(pieces)
        config = blip2.BertConfig(vocab_size=size, **bert)

        def replace(owner: object, name: str, value: Callable) -> None:
            stack.enter_context(patch.object(owner, name, value))

        tokenizer = BertTokenizer(str(vocabulary))
        replace(blip2.BertTokenizer, "from_pretrained", lambda _: tokenizer)
        replace(blip2.BertConfig, "from_pretrained", lambda _: config)
        replace(
            blip2.BertLMHeadModel,
            "from_pretrained",
            lambda _, config: blip2.BertLMHeadModel(config),
        )
        for towers in (eva_vit, clip_vit):
            replace(towers, "download_cached_file", lambda *_, **__: nothing)
        yield


def _hub_config(model: Any, tower: str) -> dict[str, Any]:
    """The tiny model's sizes as the hub writes them, and the versions that made it."""
    clip = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "pre_layernorm": True}
    return {
        "model_type": "blip-2",
        "vision_config": {
            "hidden_size": _WIDTH,
            "intermediate_size": {"vit_g": int(_WIDTH * 4.3637), "vit_L": _WIDTH * 4}[tower],
            "num_hidden_layers": _BLOCKS,
            "num_attention_heads": _HEADS,
            "image_size": _IMAGE_SIZE,
            "patch_size": _PATCH,
            **(clip if tower == "vit_L" else {}),
        },
        "qformer_config": {
            **_BERT,
            "vocab_size": len(model.tokenizer),
            "use_qformer_text_input": True,
        },
        "num_query_tokens": _QUERIES,
        "image_text_hidden_size": _EMBED_DIM,
        "made_with": {
            "python": platform.python_version(),
            **{n: version(n) for n in ("salesforce-lavis", "transformers", "timm", "torch")},
        },
    }


def _listing(shapes: dict[str, list[int]]) -> str:
    """One weight a line."""
    lines = [
        f"{json.dumps(name)}:{json.dumps(s, separators=(',', ':'))}" for name, s in shapes.items()
    ]
    return "{\n" + ",\n".join(lines) + "\n}\n"


if __name__ == "__main__":
    run_command(main)
