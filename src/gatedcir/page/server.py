"""The page's server: its addresses, its limits, and what it never serves."""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qsl

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.concurrency import run_in_threadpool
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gatedcir.errors import UserError
from gatedcir.page.asked import MOST_BYTES, Asked, from_link
from gatedcir.page.parts import next_page
from gatedcir.page.shelf import SIDE, too_large
from gatedcir.page.site import Site

LOCAL = ["localhost", "127.0.0.1", "[::1]", "testserver"]
_MOST_BODY = 2 * MOST_BYTES  # a picture in base64, and some words
_SECONDS = 60  # in which a body must have come
_TOGETHER = 300_000_000  # bytes of all bodies at a time
_SIDES = (96, SIDE)
# Parts of Gradio that read, keep or fetch files. The page has no use for them.
_CLOSED = ("upload", "upload_progress", "file", "proxy", "stream", "runs", "run-history", "dev")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
        "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class _StopError(Exception):
    """A body is not read to its end."""


def _refusal(message: str, status: int) -> Response:
    """An answer after which nothing more of the request is waited for."""
    return JSONResponse({"error": message}, status, {"Connection": "close"})


class Guard:
    """Refuses bodies that are too large or too slow, and closed addresses.

    It also tells browsers to stay here.
    """

    def __init__(self, app: ASGIApp, seconds: float = _SECONDS, together: int = _TOGETHER) -> None:
        """Guard an app.

        Args:
            app: what answers.
            seconds: in which a body must have come.
            together: bytes of all bodies that are read or answered at a time.
        """
        self.app, self.seconds, self.together = app, seconds, together
        self.held = 0
        """Bytes of them now."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if is_closed(scope["path"]):
            await JSONResponse({"error": "there is nothing here."}, 404)(scope, receive, send)
            return
        headers = dict(scope["headers"])
        # Libraries read these without a check.
        written = scope["query_string"] + headers.get(b"host", b"")
        if not (scope["path"].isprintable() and all(32 < byte < 127 for byte in written)):
            refused = {"error": "the address holds bytes that no address has; write them as %C3."}
            await JSONResponse(refused, 400)(scope, receive, send)
            return
        try:
            size = int(headers.get(b"content-length", b"0"))
        except ValueError:
            size = 0
        if size > _MOST_BODY:
            await _refusal(too_large(size), 413)(scope, receive, send)
            return
        body, has_begun = _Body(self, receive), False

        async def guarded(message: Message) -> None:
            nonlocal has_begun
            if body.refusal is not None and not has_begun:
                return  # what the app makes of a body that ends early
            has_begun = True
            if message["type"] == "http.response.start":
                known = {name.lower() for name, _ in message["headers"]}
                for name, value in _HEADERS.items():
                    if name.lower().encode() not in known:
                        message["headers"].append((name.lower().encode(), value.encode()))
            await send(message)

        try:
            with suppress(_StopError):
                await self.app(scope, body.receive, guarded)
        except ClientDisconnect:
            return  # nobody waits for an answer
        finally:
            self.held -= body.read
        if body.refusal is not None and not has_begun:
            await body.refusal(scope, receive, send)


class _Body:
    """The body of a request, as far as it is let in."""

    def __init__(self, guard: Guard, receive: Receive) -> None:
        self.read = 0
        self.refusal: Response | None = None
        self._guard, self._receive, self._is_whole = guard, receive, False
        self._end = asyncio.get_running_loop().time() + guard.seconds

    async def receive(self) -> Message:
        """Its next part. After the last one: what else comes, without a limit of time."""
        guard = self._guard
        try:
            async with asyncio.timeout_at(None if self._is_whole else self._end):
                message = await self._receive()
        except TimeoutError:
            late = f"the upload took longer than {guard.seconds:g} seconds; try again."
            self.refusal = _refusal(late, 408)
            raise _StopError from None
        came = len(message.get("body", b""))
        self.read, guard.held = self.read + came, guard.held + came
        self._is_whole = self._is_whole or not message.get("more_body", False)
        if self.read > _MOST_BODY:
            self.refusal = _refusal(too_large(self.read), 413)
        elif guard.held > guard.together:
            self.refusal = _refusal("too many uploads come at once; try again later.", 503)
        if self.refusal is not None:
            raise _StopError
        return message


def is_closed(path: str) -> bool:
    """Whether an address is one of Gradio's that the page closes.

    >>> is_closed("/gradio_api/file=/etc/passwd"), is_closed("/gradio_api/queue/join")
    (True, False)
    """
    _, api, rest = path.partition("/gradio_api/")
    return bool(api) and rest.replace("=", "/").split("/")[0] in _CLOSED


def make_app(site: Site, *, local: bool = True) -> FastAPI:
    """The page and its addresses. With `local`, only requests to this machine's own names."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before the first import
    import gradio

    from gatedcir.page.layout import CSS, make_page

    app = FastAPI(title="gatedcir", docs_url=None, redoc_url=None, openapi_url=None)

    async def answered(work: Callable[[], Response]) -> Response:
        try:
            return await run_in_threadpool(work)
        except UserError as error:
            return JSONResponse({"error": str(error)}, 400)

    def asked_in(request: Request) -> Asked:
        return from_link(parse_qsl(request.url.query, max_num_fields=100))

    @app.get("/picture/{picture}")
    async def picture(picture: str, side: int = SIDE) -> Response:
        if side not in _SIDES:
            return JSONResponse({"error": f"a side is one of {_SIDES}."}, 400)

        def work() -> Response:
            try:
                content = site.thumbnail(picture, side)
            except UserError as error:
                return JSONResponse({"error": str(error)}, 404)
            return Response(
                content, media_type="image/jpeg", headers={"Cache-Control": "max-age=3600"}
            )

        return await answered(work)

    @app.get("/query.json")
    async def query(request: Request) -> Response:
        return await answered(lambda: JSONResponse(site.values(asked_in(request))))

    @app.get("/more")
    async def more(request: Request) -> Response:
        def work() -> Response:
            asked = asked_in(request)
            return JSONResponse(next_page(asked, site.find(asked)))

        return await answered(work)

    @app.get("/sheet.png")
    async def sheet(request: Request) -> Response:
        return await answered(
            lambda: Response(site.sheet(asked_in(request)), media_type="image/png")
        )

    @app.post("/upload")
    async def upload(request: Request) -> Response:
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > MOST_BYTES:
                return JSONResponse({"error": too_large(len(content))}, 413)
        return await answered(lambda: JSONResponse({"picture": site.upload(bytes(content))}))

    page = make_page(site)
    page.queue(default_concurrency_limit=8, max_size=500, api_open=True)
    fonts = ["system-ui", "sans-serif"]
    mono = ["ui-monospace", "monospace"]
    theme: Any = gradio.themes.Default(primary_hue="blue", font=fonts, font_mono=mono)
    theme.set(  # more contrast than Gradio's own
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_dark="*primary_700",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
    )
    gradio.mount_gradio_app(
        app,
        page,
        path="/",
        theme=theme,
        css=CSS,
        footer_links=[],
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        mcp_server=False,
        pwa=False,
        show_error=True,
        max_file_size=MOST_BYTES,
    )
    app.add_middleware(Guard)
    if local:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=LOCAL)
    return app
