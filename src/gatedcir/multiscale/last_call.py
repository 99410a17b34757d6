"""Modules that can give the intermediate results of their last `forward` afterwards."""

from abc import abstractmethod
from typing import Any

from torch import Tensor, nn

Found = dict[str, list[Tensor]]


class LastCall(nn.Module):
    """`compute` does the work and keeps nothing. `forward` is `compute` with a memory of one call.

    Getters such as `get_features` are documented without arguments and are called after `forward`.
    Training may use their results, so the last maps are kept with their graph until the next call
    of `forward`. The memory belongs to this object in this process: copies and pickles leave it
    out. Another call overwrites it, also a recomputation under gradient checkpointing. To avoid
    the memory, call `compute(x)`, or give the getter its input. Both compute again and leave the
    memory as it is.
    """

    def __init__(self) -> None:
        super().__init__()
        self._last: Found | None = None

    @abstractmethod
    def compute(self, x: Tensor) -> tuple[Any, Found]:
        """The output, and the intermediate results by name."""

    def forward(self, x: Tensor) -> Any:
        """The output of `compute`. The intermediate results are kept until the next call."""
        output, self._last = self.compute(x)
        return output

    def found(self, name: str, x: Tensor | None) -> list[Tensor]:
        """The intermediate results for `x`, or without it for the input of the last `forward`.

        Raises:
            RuntimeError: no `x` is given and `forward` has not been called.
        """
        if x is not None:
            return self.compute(x)[1][name]
        if self._last is None:
            raise RuntimeError(
                f"{type(self).__name__} has not been called yet: call it, or give the input"
            )
        return self._last[name]

    def __getstate__(self) -> dict[str, Any]:
        # A map inside a graph can be neither copied nor pickled.
        return {**self.__dict__, "_last": None}
