"""Training that ends abruptly in its second epoch, under a launcher: a preemption.

It is gone after the epoch's first step, which `--save-every-steps 1` has saved.
"""

import os
import sys

import blip_fine_tune_2

if __name__ == "__main__":
    from gatedcir.training.saving import Saving
    from gatedcir.training.so_far import SoFar

    after_step = Saving.after_step

    def cut_off(self: Saving, epoch: int, so_far: SoFar) -> None:
        """Save as usual, and then leave."""
        after_step(self, epoch, so_far)
        if epoch == 1:
            self.accelerator.wait_for_everyone()  # one that ends would end the one that writes
            os._exit(1)

    Saving.after_step = cut_off  # type: ignore[method-assign]
    blip_fine_tune_2.main(sys.argv[1:])
