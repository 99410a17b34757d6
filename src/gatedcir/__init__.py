"""Composed image retrieval with a BLIP-2 Q-Former and gated text-image fusion.

Public names are loaded when they are first asked for, so that `import gatedcir` is quick.
"""

from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gatedcir.errors import UserError
    from gatedcir.gallery.gallery import Gallery
    from gatedcir.gallery.retriever import Retriever
    from gatedcir.models.retriever import ComposedRetriever
    from gatedcir.pretrained import TrainedRetriever

_MODULE_OF = {
    "ComposedRetriever": "models.retriever",
    "Gallery": "gallery.gallery",
    "Retriever": "gallery.retriever",
    "TrainedRetriever": "pretrained",
    "UserError": "errors",
}

__all__ = [
    "ComposedRetriever",
    "Gallery",
    "Retriever",
    "TrainedRetriever",
    "UserError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version(__name__)
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
