"""The command `gatedcir`: it imports only the subcommand that is asked for."""

import difflib
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

from gatedcir.errors import UserError, run_command

COMMANDS = {
    "demo": "Draw data, fine-tune, compare, draw gate maps.",
    "train": "Fine-tune on CIRR, FashionIQ, or triplets of your own.",
    "check": "Read a dataset once, and say what is wrong with it.",
    "evaluate": "Evaluate a checkpoint on a split with published targets.",
    "compare": "Compare two models on the same queries.",
    "report": "Show runs as one HTML page.",
    "score": "Measure anybody's predictions, whatever model made them.",
    "submit": "Write the files of a dataset's test server, or check such files.",
    "gates": "Draw where the text opens the gate.",
    "fusion": "Draw what the visual fusion makes of an image.",
    "index": "Index a folder of photos, for searches.",
    "search": "Search an index of photos by an image, a text, or both.",
    "serve": "Serve a page to search with, in the browser.",
    "ablate": "Compare cells of options over several seeds.",
    "average": "Average the weights of several runs.",
    "describe": "Print and draw what a model consists of.",
    "export": "Take weights out, for other programs.",
    "cache": "Cache the vision features that training with the same flags reads.",
    "convert": "Write a dataset as files of triplets, the form of your own data.",
    "resize": "Copy a dataset with its images resized.",
    "synthetic": "Draw a synthetic dataset.",
}
_STARTS_PROCESSES = ("ablate", "demo")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the subcommand that the first word names, with the words after it."""
    name, *words = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help", "--help-all"):
        print(_help())
    elif name == "--version":
        print(f"gatedcir {version('gatedcir')}")
    elif name in COMMANDS:
        import_module(f"gatedcir.commands.{name}").main(words)
    else:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        way_out = f"{near[0]} is the nearest" if near else "gatedcir --help lists all"
        raise UserError(f"there is no command {name}; {way_out}.")


def start(name: str | None = None) -> None:
    """Run a command as this process: the one with this name, or the one that its words name."""
    if (name or " ".join(sys.argv[1:2])) in _STARTS_PROCESSES:
        # Child processes end too, the same way as after Ctrl-C.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    run_command(main if name is None else lambda: main([name, *sys.argv[1:]]))


def _help() -> str:
    width = max(map(len, COMMANDS))
    return "\n".join(
        (
            "usage: gatedcir COMMAND [OPTIONS]\n",
            "Composed image retrieval: an image and a sentence give a ranked list of images.\n",
            *(f"  {name:{width}}  {text}" for name, text in COMMANDS.items()),
            "\ngatedcir COMMAND --help lists a command's options, gatedcir --version the version.",
        )
    )
