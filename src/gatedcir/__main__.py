"""`python -m gatedcir` is the command `gatedcir`."""

import sys

from gatedcir.commands.main import start

if __name__ == "__main__":
    sys.argv[0] = "gatedcir"  # as help and a run's provenance name it
    start()
