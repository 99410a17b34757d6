"""Where the runs of a grid are started, by the name in `--engine`."""

from collections.abc import Callable

from gatedcir.ablation.runs import Engine, Processes
from gatedcir.ablation.slurm import SlurmJobs

ENGINES: dict[str, Callable[..., Engine]] = {"processes": Processes, "slurm": SlurmJobs}
