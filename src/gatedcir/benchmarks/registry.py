"""Every data set by its name, and your own by a path."""

from gatedcir.benchmarks.base import Benchmark
from gatedcir.benchmarks.circo import CIRCO
from gatedcir.benchmarks.cirr import CIRR
from gatedcir.benchmarks.fashioniq import FASHIONIQ
from gatedcir.benchmarks.own import is_own, own
from gatedcir.plugins import find, wrong_kind

BENCHMARKS: dict[str, Benchmark] = {"CIRR": CIRR, "FashionIQ": FASHIONIQ, "CIRCO": CIRCO}


def benchmark(name: str) -> Benchmark:
    """The data set of a name, of a file or folder of triplets, or of a path like `my_file:MyData`.

    Raises:
        UserError: there is none.
    """
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    if is_own(name):
        return own(name, taken=BENCHMARKS)
    found = find(name, what="data set")
    if not isinstance(found, Benchmark):
        wanted = "an object of gatedcir.benchmarks.base.Benchmark"
        raise wrong_kind(name, what="data set", wanted=wanted)
    return found
