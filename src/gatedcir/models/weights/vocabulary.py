"""The WordPieces that belong to weights: the ones next to them, or BERT's own."""

import copy
from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError
from tokenizers import Tokenizer as WordPieces
from transformers import BertTokenizer, PreTrainedTokenizerFast

from gatedcir.errors import UserError, reason_of
from gatedcir.models.weights.locations import is_reachable

_FILES = ("tokenizer.json", "vocab.txt")
_BERT = "bert-base-uncased"
_START = "[DEC]"  # BLIP-2 adds it to BERT's vocabulary (Li et al., 2023)


def read_wordpieces(source: str, *, rows: int) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder or hub name, its size checked against the word embeddings.

    Raises:
        UserError: it cannot be read, or has another size than the embeddings.
    """
    try:
        wordpieces = BertTokenizer.from_pretrained(source)
    except Exception as error:  # this call uses a dozen libraries
        raise UserError(
            f"the vocabulary of {source} cannot be read: {reason_of(error)}; copy it again."
        ) from None
    return _of_size(wordpieces, source, rows)


def wordpieces_beside(file: Path, *, rows: int) -> PreTrainedTokenizerFast:
    """The tokenizer in the folder of a weights file, else bert-base-uncased's with [DEC].

    Raises:
        UserError: both are missing, or the size is not that of the word embeddings.
    """
    if any((file.parent / name).is_file() for name in _FILES):
        return read_wordpieces(str(file.parent), rows=rows)
    vocabulary = _bert_vocabulary()
    if vocabulary is None:
        raise UserError(
            f"{file} comes without its vocabulary, and that of {_BERT} is neither cached here nor "
            f"reachable; on a machine with internet run `hf download {_BERT} vocab.txt --local-dir "
            f".`, and put vocab.txt into {file.parent}."
        )
    return _of_size(BertTokenizer(vocab=str(vocabulary)), _BERT, rows)


def _bert_vocabulary() -> Path | None:
    """BERT's vocabulary file from the hub's cache or the hub. None if both lack it."""
    try:
        return Path(hf_hub_download(_BERT, "vocab.txt", local_files_only=True))
    except LocalEntryNotFoundError:
        if not is_reachable(_BERT):
            return None
    return Path(hf_hub_download(_BERT, "vocab.txt"))


def _of_size(
    wordpieces: PreTrainedTokenizerFast, source: str, rows: int
) -> PreTrainedTokenizerFast:
    """The tokenizer with [DEC]. It must then have one entry for each row of the embeddings."""
    if len(wordpieces) == rows - 1 and _START not in wordpieces.get_vocab():
        wordpieces.add_special_tokens({"bos_token": _START})
    if len(wordpieces) != rows:
        raise UserError(
            f"the vocabulary of {source} has {len(wordpieces)} entries where the weights have "
            f"{rows}; put the vocab.txt that they were trained with next to them."
        )
    return wordpieces


def wordpieces_from_json(text: str) -> PreTrainedTokenizerFast:
    """The tokenizer that a checkpoint holds. UserError if it holds something else."""
    try:
        found = WordPieces.from_str(text)
    except Exception as error:  # the library raises no narrower one
        raise UserError(
            f"the tokenizer in the checkpoint cannot be read ({reason_of(error)}); copy the "
            "checkpoint again."
        ) from None
    return PreTrainedTokenizerFast(tokenizer_object=found, pad_token="[PAD]")


def padded(wordpieces: PreTrainedTokenizerFast, *, rows: int) -> PreTrainedTokenizerFast:
    """The same tokenizer with unused entries, as many as the word embeddings have rows."""
    larger = copy.deepcopy(wordpieces)
    larger.add_tokens([f"[unused{number}]" for number in range(rows - len(larger))])
    return larger


def vocabulary(wordpieces: PreTrainedTokenizerFast) -> list[str]:
    """The entries by number, as in vocab.txt. A last [DEC] is left out: readers add it."""
    entries = sorted(wordpieces.get_vocab(), key=wordpieces.get_vocab().__getitem__)
    return entries[:-1] if entries[-1] == _START else entries
