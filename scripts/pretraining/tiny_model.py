"""The embedded backbone: its words, its sizes, its files."""

import json
import re
import shutil
import string
from pathlib import Path

import torch
from tiny_pictures import IMAGE_SIZE
from transformers import BertTokenizer

from gatedcir.files import whole_folder
from gatedcir.models.backbone import Backbone
from gatedcir.synthetic import edits, garment_text, scenes

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]"]
_MARKS = "‘’“”„–—…•€£¥§©®™°±×÷"  # characters of captions beyond ASCII
_NUMBERS = "¼½¾²³"


def build_vocabulary() -> list[str]:
    """WordPiece entries: specials, characters alone and inside words, and words."""
    letters = string.ascii_lowercase + string.digits + _NUMBERS
    words = scenes.words() | edits.words() | garment_text.words()
    pieces = {piece for word in words for piece in re.findall(r"[a-z0-9]+", word.lower())}
    inside = ("##" + letter for letter in letters)
    characters = [*letters, *string.punctuation, *_MARKS, *inside]
    return list(dict.fromkeys([*SPECIAL, *characters, *sorted(pieces)]))


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
            # Few pictures are seen twice, so there is little over-fitting. Dropout is slow on CPUs.
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
        },
        "num_query_tokens": 8,
        "image_text_hidden_size": 128,
    }


def save(model: Backbone, wordpiece: BertTokenizer, folder: Path, history: list[dict]) -> None:
    """Half-precision weights, config, vocabulary and history, in the hub's layout."""
    with whole_folder(folder) as unfinished:
        model.save_pretrained(unfinished, dtype=torch.float16)
        wordpiece.save_pretrained(unfinished)
        (unfinished / "pretraining.json").write_text(json.dumps(history, indent=1) + "\n")
        shutil.rmtree(folder, ignore_errors=True)  # of the lesson before
