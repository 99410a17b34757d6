"""An index on a server: what the folder holds, and what is said when the server is not there."""

import json
import socket

import numpy as np
import pytest
from conftest import bad
from database import database

from gatedcir.commands import index, search
from gatedcir.errors import UserError
from gatedcir.search import server
from gatedcir.search.index import Form
from gatedcir.search.server import KEY, Server, ServerIndex

__all__ = ["database"]
pytestmark = pytest.mark.filterwarnings("ignore:Local mode")
FORM = Form(2, 4, "fp16")


def test_the_folder_says_where_the_index_is_and_holds_no_key(tmp_path, database, monkeypatch):
    monkeypatch.setenv(KEY, "secret")
    Server.new("http://here", shards=3, replicas=2).write(tmp_path)
    ServerIndex.open(tmp_path, FORM, writable=True).close()
    [file] = tmp_path.iterdir()
    found = json.loads(file.read_text())
    assert (found["url"], found["shards"], found["replicas"]) == ("http://here", 3, 2)
    assert "secret" not in file.read_text()
    assert database.collection_exists(found["collection"])
    size = database.get_collection(found["collection"]).config.params.vectors
    assert (size.size, size.distance, size.multivector_config.comparator) == (4, "Dot", "max_sim")


def test_a_collection_of_a_start_that_was_killed_is_taken_again(tmp_path):
    for url, same in (("http://here", True), ("http://there", False)):
        Server.new("http://here").write(tmp_path)
        before = Server.read(tmp_path)
        Server.new(url).write(tmp_path)
        found = Server.read(tmp_path)
        assert found.url == url and (found.collection == before.collection) == same


def test_a_collection_that_is_gone_is_said(tmp_path, database):
    Server.new("http://here").write(tmp_path)
    with pytest.raises(UserError, match="http://here has no collection gatedcir-"):
        ServerIndex.open(tmp_path, FORM)
    (tmp_path / "server.json").write_text("{}")
    with pytest.raises(UserError, match=r"server\.json does not say where"):
        ServerIndex.open(tmp_path, FORM)


def test_a_server_that_is_not_there_gets_one_sentence(tmp_path):
    pytest.importorskip("qdrant_client")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    Server.new(url).write(tmp_path)
    with pytest.raises(UserError, match=f"the server {url} does not answer") as caught:
        ServerIndex.open(tmp_path, FORM, writable=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("url", ["localhost:abc", "ftp://x", "http://127.0.0.1:1"])
def test_a_wrong_address_gets_one_sentence(url, tmp_path):
    pytest.importorskip("qdrant_client")
    with pytest.raises(UserError, match="does not answer as expected"):
        Server.new(url).reach()
    Server.new(url).write(tmp_path)
    with pytest.raises(UserError, match="does not answer as expected"):
        ServerIndex.open(tmp_path, FORM)


def test_nothing_is_written_if_the_server_is_not_there(photos, tmp_path):
    pytest.importorskip("qdrant_client")
    folder = tmp_path / "index"
    made = ["--model-path", "tiny", "--images", photos, "--output", folder, "--kind", "server"]
    bad(index, [*made, "--index-url", "http://127.0.0.1:1"], "does not answer")
    assert not folder.exists()


def test_a_server_that_wants_a_key_says_so(tmp_path, database, monkeypatch):
    class WantsKeyError(Exception):
        status_code = 401

    def refuse(*_, **__):
        raise WantsKeyError

    monkeypatch.setattr(database, "collection_exists", refuse)
    with pytest.raises(UserError, match=f"wants a key; set {KEY}"):
        ServerIndex.open(tmp_path, FORM)


def test_a_missing_client_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "qdrant_client", None)
    with pytest.raises(UserError, match=r"gatedcir\[qdrant-server\]"):
        server._models()


def test_photos_are_indexed_and_found_on_it(photos, tmp_path, database, capsys):
    made = ["--model-path", "tiny", "--images", str(photos), "--output", str(tmp_path / "photos")]
    bad(index, [*made, "--kind", "server"], "needs the address of its server")
    wrong = [*made, "--index-url", "http://here"]
    bad(index, [*wrong, "--kind", "exact"], "--kind exact has no --index-url")
    bad(index, [*made, "--index-shards", "2"], "--index-url")
    index.main(wrong)
    asked = ["--text", "a red circle", "-k", "3", "--json"]
    capsys.readouterr()
    search.main(["--index", str(tmp_path / "photos"), *asked])
    found = json.loads(capsys.readouterr().out)
    index.main([*made[:-1], str(tmp_path / "exact")])
    capsys.readouterr()
    search.main(["--index", str(tmp_path / "exact"), *asked])
    expected = json.loads(capsys.readouterr().out)
    assert [hit["path"] for hit in found] == [hit["path"] for hit in expected]
    scores = [[hit["score"] for hit in hits] for hits in (found, expected)]
    np.testing.assert_allclose(*scores, atol=2e-3)  # the exact one keeps half precision
    index.main(["--index", str(tmp_path / "photos"), "--info"])
    assert "http://here" in capsys.readouterr().out
