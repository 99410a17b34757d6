"""Progress bars, which --quiet turns off in this process and in those that it starts."""

import os
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

    >>> list(bar([1, 2], show=False))
    [1, 2]
    """
    from tqdm import tqdm

    return tqdm(things, disable=not show or _QUIET in os.environ, **settings)
