"""Settings of the Qdrant engine that the kind embedded does not use, to measure them.

They are a graph over images (HNSW), and compressed features whose best images are scored again.
"""

from typing import Any, ClassVar

from gatedcir.search.embedded import EmbeddedIndex
from gatedcir.search.index import Form, StoredIndex


class _Graph(EmbeddedIndex):
    """An index of the engine that need not be exact."""

    links: ClassVar[int] = 16
    """Of an image in the graph."""

    @classmethod
    def _compression(cls, edge: Any) -> Any:
        return None

    @classmethod
    def _config(cls, form: Form) -> Any:
        import qdrant_edge as edge

        return edge.EdgeConfig(
            vectors=edge.EdgeVectorParams(
                size=form.dim,
                distance=edge.Distance.Dot,
                multivector_config=edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim),
                datatype=edge.VectorStorageDatatype.Float16,
                quantization_config=cls._compression(edge),
            ),
            hnsw_config=edge.HnswIndexConfig(
                m=cls.links, ef_construct=64, full_scan_threshold=10 if cls.links else 10**9
            ),
            optimizers=edge.EdgeOptimizersConfig(indexing_threshold=10),
        )

    @staticmethod
    def _params() -> Any:
        import qdrant_edge as edge

        again = edge.QuantizationSearchParams(rescore=True, oversampling=2.0)
        return edge.SearchParams(quantization=again)


class _Scalar(_Graph):
    links = 0

    @classmethod
    def _compression(cls, edge: Any) -> Any:
        return edge.ScalarQuantizationConfig(edge.ScalarType.Int8, always_ram=True)


class _Product(_Graph):
    links = 0

    @classmethod
    def _compression(cls, edge: Any) -> Any:
        return edge.ProductQuantizationConfig(edge.CompressionRatio.X16, always_ram=True)


class _Turbo(_Graph):
    links = 0

    @classmethod
    def _compression(cls, edge: Any) -> Any:
        bits = edge.TurboQuantBitSize.Bits4
        return edge.TurboQuantQuantizationConfig(always_ram=True, bits=bits)


SETTINGS: dict[str, type[StoredIndex]] = {
    "embedded-graph": _Graph,
    "embedded-scalar": _Scalar,
    "embedded-product": _Product,
    "embedded-turbo": _Turbo,
}
