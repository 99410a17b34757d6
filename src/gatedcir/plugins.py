"""Your own classes and objects by a dotted path, `my_file:MyFusion`, without an install step.

For this, the current folder is put on the import path, after all installed packages.
"""

import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from gatedcir.errors import UserError, reason_of

_PATH = re.compile(r"\w+(\.\w+)*:\w+")


def is_path(name: str) -> bool:
    """Whether a name is a dotted path.

    >>> is_path("my_file:MyFusion"), is_path("folder.my_file:MyFusion"), is_path("gated")
    (True, True, False)
    """
    return _PATH.fullmatch(name) is not None


def find(path: str, *, what: str) -> Any:
    """The object of a dotted path.

    Args:
        path: a module, a colon, and a name in it.
        what: the kind of object that is expected, for messages, such as "fusion strategy".

    Raises:
        UserError: no such module, an error in it, or no such name.
    """
    where, _, name = path.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        module = import_module(where)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{where}.".startswith(f"{error.name}."):
            file = f"{where.replace('.', '/')}.py"
            raise UserError(
                f"the {what} {path} needs the module {where}, which is neither in {here} nor "
                f"installed; start in the folder that holds {file}, or name it in PYTHONPATH."
            ) from None
        raise _broken(path, what, where, error) from None
    except Exception as error:  # a user's file may raise anything
        raise _broken(path, what, where, error) from None
    try:
        return getattr(module, name)
    except AttributeError:
        place = getattr(module, "__file__", None) or where
        raise UserError(
            f"the {what} {path} is not there: {place} has no {name}; correct the name."
        ) from None


def wrong_kind(path: str, *, what: str, wanted: str) -> UserError:
    """The error of an object that exists but is not of the expected kind."""
    return UserError(f"{path} is no {what}; name {wanted}.")


@contextmanager
def errors_of(owner: str, *, what: str, code: Any) -> Iterator[None]:
    """Turn what your own code raises into one sentence that names it and the line.

    Errors of the package's own code pass, because they are defects of it.

    Args:
        owner: the name that the code was asked for by.
        what: it is, for the message.
        code: the function or object that the block calls.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if is_ours(code):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        file = getattr(sys.modules.get(_module_of(code)), "__file__", None)
        last = next((frame for frame in reversed(frames) if frame.filename == file), frames[-1])
        raise UserError(
            f"{what} {owner} fails in line {last.lineno} of {last.filename} "
            f"({type(error).__name__}: {reason_of(error)}); mend it."
        ) from error


def is_ours(code: Any) -> bool:
    """Whether a function or object, or the one that it was made from, is of this package.

    >>> is_ours(find), is_ours(re.compile)
    (True, False)
    """
    return _module_of(code).partition(".")[0] == "gatedcir"


def _module_of(code: Any) -> str:
    return getattr(getattr(code, "func", code), "__module__", None) or ""


def _broken(path: str, what: str, module: str, error: Exception) -> UserError:
    reason = f"{type(error).__name__}: {reason_of(error)}"
    return UserError(
        f"the {what} {path} cannot be used, because importing {module} fails ({reason}); mend it."
    )
