"""A connection of the page's server: one whose request does not come in time is closed."""

import asyncio
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class Connection(H11Protocol):
    """Uvicorn's connection, with a limit of time for the line and the headers of a request.

    A client that sends them letter by letter would hold it for ever. `Guard` limits the body.
    """

    seconds: ClassVar[float] = 20
    """From the opening of the connection, or from the first byte of a later request."""
    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:
        """As `asyncio.Protocol`."""
        super().connection_made(transport)
        self._limit = self.loop.call_later(self.seconds, transport.close)

    def data_received(self, data: bytes) -> None:
        """As `asyncio.Protocol`. Further bytes of the same headers get no more time."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._take_limit_back()
        elif self._limit is None:
            self._limit = self.loop.call_later(self.seconds, self.transport.close)

    def connection_lost(self, exc: Exception | None) -> None:
        """As `asyncio.Protocol`."""
        self._take_limit_back()
        super().connection_lost(exc)

    def _take_limit_back(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
