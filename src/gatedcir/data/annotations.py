"""JSON files of annotations, and errors in words for the broken ones."""

from pathlib import Path
from typing import TypeVar

from gatedcir.errors import UserError
from gatedcir.files import parse_json

Value = TypeVar("Value")
CORRECT = "correct the file, or download it again"


def read_json(path: Path, kind: type[Value], *, layout: str) -> Value:
    """The `kind` (list or dict) in an annotation file, in UTF-8, UTF-16 or UTF-32.

    A byte order mark is allowed. `layout` is the expected layout of the dataset, shown if the
    file is missing. Raises UserError on a missing file, on invalid JSON and on another type.
    """
    try:
        content = parse_json(path.read_bytes())  # bytes, so that json detects the encoding
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"The annotation file {path} does not exist; the expected layout is {layout}, "
            "in the folder that --data-path names."
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"The annotation file {path} cannot be read as JSON ({error}); {CORRECT}."
        ) from error
    if not isinstance(content, kind):
        raise UserError(
            f"The annotation file {path} must hold a {kind.__name__} at its top level; {CORRECT}."
        )
    return content


def field(entry: object, key: str, kind: type[Value], *, where: str) -> Value:
    """`entry[key]` of type `kind`. Else a UserError names `where`, the place of the entry.

    >>> field({"caption": "is red"}, "caption", str, where="entry 0 of cap.json")
    'is red'
    """
    if not isinstance(entry, dict):
        raise UserError(f"The {where} must be an object with the key '{key}'; {CORRECT}.")
    if key not in entry:
        raise UserError(f"The {where} lacks the key '{key}'; {CORRECT}.")
    value = entry[key]
    if not isinstance(value, kind):
        raise UserError(
            f"The key '{key}' of the {where} must hold a {kind.__name__}, not {value!r}; {CORRECT}."
        )
    return value
