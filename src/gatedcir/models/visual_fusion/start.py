"""Let a visual fusion begin as the identity, in front of a pretrained Q-Former.

Shapes: B batch, L visual tokens, Dv vision width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ResidualStart(nn.Module):
    """Main tokens + gain * a module's output for all tokens. The gain [Dv] starts at zero.

    The output is therefore the main tokens at step 0. A zero gain still learns: its gradient is
    that of the output times the module's output, which is not zero. The module's parameters do not
    change at step 0. After the first step the gain lets gradients through to them.

    Args:
        module: takes levels [B, L, Dv], a list or a single one, and returns (tokens, aux).
        width: Dv.
        main: which entry of a list is the main one.
    """

    def __init__(self, module: nn.Module, width: int, *, main: int = 0) -> None:
        super().__init__()
        self.module = module
        self.main = main
        self.gain = nn.Parameter(torch.zeros(width))

    def forward(self, levels: Tensor | Sequence[Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Levels [B, L, Dv] -> [B, L, Dv].

        Returns:
            The tokens, and the module's aux with `fusion_gain`, the gain's mean absolute value
            (a scalar).

        Raises:
            ValueError: the module's tokens have another shape than the main ones.
        """
        # Without the levels of other scales, the main one is the first.
        main = levels if isinstance(levels, Tensor) else levels[self.main % len(levels)]
        fused, aux = self.module(levels)
        if fused.shape != main.shape:
            raise ValueError(f"tokens {list(fused.shape)} on top of tokens {list(main.shape)}")
        return main + self.gain * fused, {**aux, "fusion_gain": self.gain.abs().mean().detach()}
