"""Snapshots of a server's collection: what is asked of the server, which a small one stands for."""

import json
import logging
import traceback
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
from conftest import bad

from gatedcir.commands import index
from gatedcir.errors import UserError
from gatedcir.gallery.identity import PARTS
from gatedcir.search.server import KEY, Server

pytest.importorskip("qdrant_client")
pytestmark = pytest.mark.filterwarnings("ignore:Api key is used")
MADE = {"name": "one.snapshot", "creation_time": None, "size": 9, "checksum": None}


class Qdrant(BaseHTTPRequestHandler):
    """The requests that snapshots need, as Qdrant answers them."""

    def answer(self):
        server, (path, _, query) = self.server, self.path.partition("?")
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        server.asked.append(f"{self.command} {path.rpartition('/collections/')[2]}")
        if self.headers.get("api-key") != server.key:
            return self.send({"status": {"error": "no key"}}, 401)
        kind = path.rsplit("/", 1)[-1]
        if self.command == "GET" and kind == "one.snapshot":
            return self.send(server.snapshot)
        if kind == "upload":
            server.uploaded, server.there = (query, body), True
        found = {
            "exists": {"exists": server.there},
            "cluster": {
                **{"peer_id": 1, "shard_count": 1, "local_shards": [], "shard_transfers": []},
                "remote_shards": server.remote,
            },
            "snapshots": MADE,
        }.get(kind, True)
        return self.send({"result": found, "status": "ok", "time": 0.0})

    do_GET = do_POST = do_DELETE = answer  # noqa: N815

    def send(self, content, status=200):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Nothing is printed."""


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv(KEY, "secret")
    with ThreadingHTTPServer(("127.0.0.1", 0), Qdrant) as found:
        found.asked, found.uploaded, found.there, found.key = [], None, True, "secret"
        found.snapshot, found.remote = b"\0features", []
        thread = Thread(target=found.serve_forever, args=(0.01,))
        thread.start()
        yield found
        found.shutdown()
        thread.join()


@pytest.fixture
def folder(server, tmp_path):
    """An index of the kind server, as far as snapshots look at it."""
    Server(f"http://127.0.0.1:{server.server_port}", "c").write(tmp_path / "i" / "features")
    manifest = {"model": "tiny", "identity": dict.fromkeys(PARTS, ""), "kind": "server"}
    (tmp_path / "i" / "index.json").write_text(
        json.dumps(manifest | {"tokens": 2, "dim": 4, "precision": "fp16", "format": 1})
    )
    return tmp_path / "i"


def test_a_snapshot_is_written_and_not_left_on_the_server(server, folder, tmp_path, capsys):
    index.main(["--index", str(folder), "--save-snapshot", str(tmp_path / "s")])
    assert (tmp_path / "s").read_bytes() == b"\0features"
    assert server.asked == [
        *("GET c/cluster", "POST c/snapshots"),
        *("GET c/snapshots/one.snapshot", "DELETE c/snapshots/one.snapshot"),
    ]
    server.remote = [{"shard_id": 1, "peer_id": 2, "state": "Active"}]
    words = ["--index", folder, "--save-snapshot", tmp_path / "more"]
    bad(index, words, "spread over several machines", "--copy-of")


def test_a_collection_is_made_from_a_snapshot_and_never_overwritten(server, folder, tmp_path):
    (tmp_path / "s").write_bytes(b"\0features")
    words = ["--index", folder, "--load-snapshot", tmp_path / "s"]
    bad(index, words, "has the collection c, which would be overwritten")
    assert server.uploaded is None
    server.there = False
    index.main(list(map(str, words)))
    query, body = server.uploaded
    assert query == "wait=true&priority=snapshot" and b"\0features" in body


def test_what_is_wrong_is_said(server, folder, tmp_path, monkeypatch):
    bad(index, ["--index", folder, "--load-snapshot", tmp_path / "no"], "there is no snapshot")
    words = ["--index", folder, "--save-snapshot", tmp_path / "s"]
    bad(index, [*words, "--compact"], "--save-snapshot takes an index as it is; leave all other")
    monkeypatch.setenv(KEY, "wrong")
    bad(index, words, f"wants a key; set {KEY} to it")
    assert not (tmp_path / "s").exists()
    manifest = folder / "index.json"
    manifest.write_text(manifest.read_text().replace('"server"', '"exact"'))
    bad(index, words, "is of the kind exact, and snapshots are for server; copy its folder.")


def test_the_key_is_shown_and_written_nowhere(
    server, folder, tmp_path, capsys, caplog, monkeypatch
):
    caplog.set_level(logging.DEBUG)
    shown = []
    save = ["--index", str(folder), "--save-snapshot", str(tmp_path / "s")]
    load = ["--index", str(folder), "--load-snapshot", str(tmp_path / "s")]
    new = ["--copy-of", str(folder), "--output", str(tmp_path / "new"), "--index-url"]
    here = f"http://127.0.0.1:{server.server_port}"
    for key, known in (("key-7391", True), ("other-7391", False), ("key\n-7391", False)):
        monkeypatch.setenv(KEY, key)
        server.key = "key-7391"
        for words in (save, load, [*new, here], ["--index", str(folder), "--info"]):
            server.there = "--load-snapshot" not in words
            try:
                index.main(words)
                assert known
            except Exception as error:  # of any library
                shown += traceback.format_exception(error)
                assert isinstance(error, UserError)
    assert any(f"wants a key; set {KEY} to it" in line for line in shown)
    assert any(f"{KEY} holds letters that no key has; set it again" in line for line in shown)
    message = bad(index, [*new, here.replace("//", "//me:7391@")], "a password", f"set {KEY}")
    assert "POST c/snapshots" in server.asked and server.uploaded is not None
    printed = capsys.readouterr()
    assert "7391" not in "".join([*shown, message, printed.out, printed.err, caplog.text])
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len(files) >= 3 and not any(b"7391" in file.read_bytes() for file in files)
