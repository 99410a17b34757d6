"""JSON files of annotations, as people have them."""

import json

import pytest

from gatedcir.data.annotations import field, read_json
from gatedcir.errors import UserError


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist; the expected layout is HERE"),
        (b"[1,", "cannot be read as JSON"),
        (b"\xff\xfe[", "cannot be read as JSON"),
        (b"{}", "must hold a list"),
    ],
)
def test_read_json_names_the_file(tmp_path, content, message):
    path = tmp_path / "cap.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=message) as raised:
        read_json(path, list, layout="HERE")
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("entry", "message"),
    [({}, "lacks"), ("text", "must be an object"), ({"k": None}, "must hold a str")],
)
def test_field_names_key_and_place(entry, message):
    with pytest.raises(UserError, match=r"'k'.*entry 3|entry 3.*'k'") as raised:
        field(entry, "k", str, where="entry 3")
    assert message in str(raised.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-be"])
def test_every_encoding_of_json_is_read(tmp_path, encoding):
    path = tmp_path / "cap.json"
    path.write_bytes(json.dumps(["ä dress"], ensure_ascii=False).encode(encoding))
    assert read_json(path, list, layout="HERE") == ["ä dress"]


def test_an_own_file_is_to_be_corrected(tmp_path):
    path = tmp_path / "cap.json"
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match="correct the file, or download it again"):
        read_json(path, list, layout="HERE")
