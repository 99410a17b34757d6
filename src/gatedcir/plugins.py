"""Your own classes and objects by a dotted path, `my_file:MyFusion`, without an install step.

For this, the current folder is put on the import path, after all installed packages.
"""

import re
import sys
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


def _broken(path: str, what: str, module: str, error: Exception) -> UserError:
    reason = f"{type(error).__name__}: {reason_of(error)}"
    return UserError(
        f"the {what} {path} cannot be used, because importing {module} fails ({reason}); mend it."
    )
