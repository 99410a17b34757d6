"""Every kind of stored index by its name."""

from gatedcir.search.embedded import EmbeddedIndex
from gatedcir.search.index import StoredIndex
from gatedcir.search.large import LargeIndex
from gatedcir.search.segments import SegmentedIndex
from gatedcir.search.server import ServerIndex

KINDS: dict[str, type[StoredIndex]] = {
    "exact": SegmentedIndex,
    "large": LargeIndex,
    "embedded": EmbeddedIndex,
    "server": ServerIndex,
}
