"""Training that ends abruptly in its second epoch, under a launcher: a preemption."""

import os
import sys

import blip_fine_tune_2

if __name__ == "__main__":
    from gatedcir.training.trainer import Trainer

    train_epoch = Trainer.train_epoch

    def cut_off(self: Trainer, epoch: int) -> dict[str, float]:
        """The first epoch as it is; then this process is gone."""
        if epoch == 1:
            os._exit(1)
        return train_epoch(self, epoch)

    Trainer.train_epoch = cut_off  # type: ignore[method-assign]
    blip_fine_tune_2.main(sys.argv[1:])
