"""Files of rows: their values, their line numbers, and one error for all wrong lines."""

import json

import pytest

from gatedcir.data.rows import read_rows, text_of, texts_of
from gatedcir.errors import UserError

KEYS = ("name", "color", "tags")


def read(file):
    return read_rows(file, KEYS, lambda row, line: (line, row), lists=("tags",))


def refused(file, *words):
    with pytest.raises(UserError) as caught:
        read_rows(file, KEYS, lambda row, _: text_of(row, "name"), lists=("tags",))
    message = str(caught.value)
    assert all(word in message for word in (str(file), *words)) and "\n" not in message, message
    return message


def test_lines_and_tables_give_the_same(tmp_path):
    rows = [{"name": "a|b", "tags": ["x", "y"]}, {"name": "c, d", "color": "red"}]
    lines = "\n".join(map(json.dumps, rows))
    (tmp_path / "rows.jsonl").write_text(f"\ufeff{lines}\r\n\n", encoding="utf-8")
    (tmp_path / "rows.csv").write_text('name,color,tags\na|b,,x | y|\n"c, d",red,\n')
    (tmp_path / "half.csv").write_text("name;color;tags\na|b;;x|y\nc, d;red;\n")
    (tmp_path / "rows.tsv").write_text("name\tcolor\ttags\na|b\t\tx|y\nc, d\tred\t\n", "utf-16")
    assert read(tmp_path / "rows.jsonl") == [*enumerate(rows, start=1)]
    for name in ("rows.csv", "half.csv", "rows.tsv"):
        assert read(tmp_path / name) == [*enumerate(rows, start=2)]


def test_one_error_names_the_first_ten_wrong_lines(tmp_path):
    file = tmp_path / "rows.jsonl"
    lines = [
        *("{", "[]", '{"name": ""}', '{"name": ["a"]}', '{"nam": "a"}', '{"name": "right"}'),
        *["{}"] * 7,
    ]
    file.write_text("\n".join(lines))
    message = refused(
        file,
        "12 wrong lines: line 1 is no JSON",
        "line 2 is no JSON object",
        "line 3 has an empty name",
        "line 4 has ['a'] as name, which must be a text",
        "line 5 has the unknown key nam (name is the nearest)",
        "line 11 has no name, ...",
        "docs/data.md",
    )
    assert "line 6 " not in message and "line 12" not in message
    file.write_text("{}")
    refused(file, "1 wrong line: line 1 has no name; correct")


def test_a_table_with_more_cells_than_columns_is_told(tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text("name,color\na,b,c\n")
    refused(file, "line 2 has more cells than the header")


def test_other_files_get_one_sentence(tmp_path):
    refused(tmp_path / "none.jsonl", "there is no file")
    file = tmp_path / "rows.jsonl"
    file.write_bytes(b'{"name": "a"}\n{"name": "\xe9"}\n')
    refused(file, "no text in UTF-8 (line 2)")


def test_one_or_several_texts():
    assert texts_of({"a": "x"}, "a") == ("x",)
    assert texts_of({"a": ["x", 3]}, "a") == ("x", "3")
    assert texts_of({}, "a") == ()
    with pytest.raises(ValueError, match="True as a, which must be a text"):
        texts_of({"a": [True]}, "a")
