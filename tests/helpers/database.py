"""A database server's stand-in: the client's own local mode, which outlives connections."""

import pytest

from gatedcir.search import server
from gatedcir.search.server import Server


@pytest.fixture
def database(monkeypatch):
    """Every folder that names no server gets a collection here. Returns the client."""
    client = pytest.importorskip("qdrant_client").QdrantClient(":memory:")
    monkeypatch.setattr(client, "close", lambda: None)
    monkeypatch.setattr(server, "connect", lambda url: client)
    read = Server.read

    def read_or_make(folder):
        if not (folder / "server.json").exists():
            Server.new("http://here").write(folder)
        return read(folder)

    monkeypatch.setattr(Server, "read", read_or_make)
    return client
