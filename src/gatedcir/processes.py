"""The processes of a launch: which one this is, and what only one of them says."""

import torch.distributed as dist


def count() -> int:
    """How many there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The number of this one."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this one is the only one, or the first."""
    return rank() == 0


def say(line: str) -> None:
    """Print on the main process."""
    if is_main():
        print(line)
