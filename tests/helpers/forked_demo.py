"""`python -m gatedcir demo` of an installed package, for `forked_demo.py -m gatedcir demo FLAGS`.

All of it is forked from one process, except one of the three trainings, which is started as users
start it.
"""

import os
import sys
from multiprocessing import forkserver

import forked


def demo(flags: list[str]) -> None:
    """The demo, in a forked process."""
    from gatedcir.ablation import runs
    from gatedcir.commands.main import main

    forkserver._forkserver.ensure_running = lambda: None  # type: ignore[method-assign] # it does
    starts = iter([runs.start])

    def start(*given, **more):
        return next(starts, forked.start)(*given, **more)

    runs.start = start
    main(flags)


if __name__ == "__main__":
    if sys.argv[1] == "-m":
        done = forked.call([sys.executable, __file__, *sys.argv[3:]], {**os.environ})
        sys.stdout.write(done.stdout)
        sys.stderr.write(done.stderr)
        sys.exit(done.returncode)
    demo(sys.argv[1:])
