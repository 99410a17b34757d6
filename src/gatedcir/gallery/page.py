"""What a search found, as one HTML file with its pictures inside."""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path

from gatedcir.data.pictures import open_image
from gatedcir.errors import UserError
from gatedcir.gallery.gallery import Hit
from gatedcir.outputs import PAGE_SIGN

_SIDE = 256  # pixels of a picture
_STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; margin: 2rem; background: #fafafa; color: #222 }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 1rem }
figure { margin: 0; padding: .6rem; background: #fff; border: 1px solid #ddd; border-radius: 6px }
img { width: 100%; height: 200px; object-fit: contain }
figcaption { overflow-wrap: anywhere } small { color: #666 }
header { display: flex; gap: 1rem; align-items: center; margin-bottom: 1.5rem }
header figure { width: 200px }
"""


def page_of(image: Path | None, text: str | None, hits: Sequence[Hit]) -> str:
    """A page with the query and its results, best first."""
    query = [] if image is None else [_figure(image, f"query: {escape(image.name)}")]
    query += [] if text is None else [f"<p>{escape(text)}</p>"]
    found = [_figure(hit.path, _caption(hit)) for hit in hits]
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">',
            PAGE_SIGN,
            "<title>gatedcir search</title>",
            f"<style>{_STYLE}</style>",
            f"<header>{''.join(query)}</header>",
            f"<main>\n{chr(10).join(found) or 'nothing was found'}\n</main>\n</html>\n",
        )
    )


def _caption(hit: Hit) -> str:
    fields = "".join(f"<br>{escape(f'{n}: {value}')}" for n, value in hit.metadata.items())
    return f"{hit.rank}. {escape(str(hit.path))}<br><small>{hit.score:.4f}{fields}</small>"


def _figure(path: Path, caption: str) -> str:
    try:
        picture = open_image(path, at_least=_SIDE)
    except UserError:
        return f"<figure><p>the file is gone</p><figcaption>{caption}</figcaption></figure>"
    picture.thumbnail((_SIDE, _SIDE))
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=85)
    data = base64.b64encode(content.getvalue()).decode()
    return (
        f'<figure><img alt="" src="data:image/jpeg;base64,{data}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )
