"""HTTP requests to the page, as mutate_inputs.py changes them: files, asked without a server."""

import asyncio
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import unquote

from gatedcir.errors import UserError


def _requests() -> dict[str, bytes]:
    _, picture = page()
    there, host = f"ref={picture}&k=2", "HTTP/1.1\nHost: localhost\n"
    where = "where=%7B%22price%22%3A%7B%22from%22%3A1%7D%7D"
    texts = {
        "query": f"GET /query.json?{there}&text=0.5*red&alpha=0.5&{where} {host}\n",
        "picture": f"GET /picture/{picture}?side=96 {host}Range: bytes=0-9\n\n",
        "sheet": f"GET /sheet.png?{there}&text=two%20dogs&more={picture} {host}\n",
        "more": f"GET /more?{there}&text=red&start=2 {host}\n",
        "upload": f"POST /upload {host}Content-Length: 9\n\nGIF89a...",
        "page": f"GET /?{there} {host}Accept: text/html\nCookie: a=b\n\n",
    }
    return {name: text.encode() for name, text in texts.items()}


def write(folder: Path) -> list[Path]:
    """Good requests, a file each."""
    files = [folder / name for name in _requests()]
    for file, content in zip(files, _requests().values(), strict=True):
        file.write_bytes(content)
    return files


def read(folder: Path) -> None:
    """Ask the page what a changed file says. If none is changed, what all say."""
    app, _ = page()
    asked = {file.name: file.read_bytes() for file in folder.iterdir()}
    changed = {name: content for name, content in asked.items() if content != _requests()[name]}
    for name, content in (changed or asked).items():
        status, said = asyncio.run(answer(app, content))
        if status >= 500 or b"Traceback" in said:
            raise RuntimeError(f"{status}: {said[:500]!r}")
        if status >= 400 and changed:
            raise UserError(f"{name} was refused with {status}; ask for something else.")


async def answer(app: Any, content: bytes) -> tuple[int, bytes]:
    """Ask as a server would, without one: the status and the body of the answer."""
    head, _, body = content.partition(b"\n\n")
    (first, *lines), sent = head.split(b"\n"), iter([body])
    method, target, *_ = [*first.split(b" "), b"", b""]
    path, _, query = target.partition(b"?")
    headers = [line.partition(b":") for line in lines]
    scope = {
        "type": "http",
        "method": method.decode("latin-1"),
        "path": unquote(path.decode("latin-1")),
        "raw_path": path,
        "query_string": query,
        "headers": [(name.strip().lower(), value.strip()) for name, _, value in headers],
        **{"http_version": "1.1", "scheme": "http", "root_path": ""},
        **{"client": ("127.0.0.1", 1), "server": ("localhost", 80), "asgi": {"version": "3.0"}},
    }
    status, said = 0, bytearray()

    async def receive() -> dict[str, Any]:
        if (part := next(sent, None)) is not None:
            return {"type": "http.request", "body": part, "more_body": False}
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)
        said.extend(message.get("body", b""))

    await app(scope, receive, send)
    return status, bytes(said)


@cache
def page() -> tuple[Any, str]:
    """The page over three pictures, with the embedded model, and an id. Nothing listens."""
    import numpy as np
    from PIL import Image

    from gatedcir.gallery.retriever import Retriever
    from gatedcir.page.engine import Engine
    from gatedcir.page.server import make_app
    from gatedcir.page.shelf import UPLOADS, Kept
    from gatedcir.page.site import Site

    with TemporaryDirectory(prefix="gatedcir_page_") as place:
        photos, index = Path(place) / "photos", Path(place) / "index"
        photos.mkdir()
        for number in range(3):
            Image.fromarray(np.full((8, 8, 3), 80 * number, np.uint8)).save(
                photos / f"{number}.png"
            )
        (photos / "table.csv").write_text("path,price\n0.png,1\n1.png,5\n")
        retriever = Retriever.from_pretrained("tiny")
        retriever.index(photos, to=index, metadata=photos / "table.csv").close()
        uploads: Kept[bytes] = Kept(UPLOADS, len)
        site = Site([Engine(index, retriever, uploads=uploads)], uploads)
        return make_app(site), site.examples(1)[0][0]
