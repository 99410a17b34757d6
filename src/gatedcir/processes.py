"""The processes of a launch: the number of this one, and messages that only one prints."""

import torch.distributed as dist


def count() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """The rank of this process."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this process is the only one, or the first."""
    return rank() == 0


def say(line: str) -> None:
    """Print on the main process."""
    if is_main():
        print(line)
