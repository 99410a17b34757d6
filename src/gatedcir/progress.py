"""Progress bars, which --quiet turns off in this process and in those that it starts."""

import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm

_QUIET = "GATEDCIR_QUIET"


def hide_bars() -> None:
    """Show no bar from now on."""
    os.environ[_QUIET] = "1"


def bar(things: Iterable[Any] | None = None, *, show: bool = True, **settings: Any) -> "tqdm":
    """A bar of tqdm with its settings. Without `show`, or after `hide_bars`, nothing is drawn.

    A bar that does not stay (`leave=False`) is drawn in a terminal only. In a file it would leave
    a blank line.

    >>> list(bar([1, 2], show=False))
    [1, 2]
    """
    from tqdm import tqdm

    hidden = not settings.get("leave", True) and not sys.stderr.isatty()
    return tqdm(things, disable=hidden or not show or _QUIET in os.environ, **settings)
