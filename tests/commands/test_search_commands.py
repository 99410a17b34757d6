"""`gatedcir index` and `gatedcir search`: what they print, and what they refuse."""

import json
import sys
import webbrowser
from pathlib import Path

import pytest
from conftest import bad
from PIL import Image

from gatedcir.commands import index, search
from gatedcir.commands.search import conditions_of
from gatedcir.errors import UserError
from gatedcir.gallery.gallery import Hit
from gatedcir.gallery.page import page_of
from gatedcir.outputs import is_own


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder `photos` with four images, a table, and the index `i` of both."""
    place = tmp_path_factory.mktemp("place")
    (place / "photos").mkdir()
    for number, colour in enumerate(("red", "green", "blue", "white")):
        Image.new("RGB", (40, 30), colour).save(place / "photos" / f"{colour} {number},x.png")
    rows = [{"path": f"{c} {n},x.png", "price": n} for n, c in enumerate(("red", "green"))]
    (place / "table.jsonl").write_text("\n".join(map(json.dumps, rows)))
    given = ["--images", place / "photos", "--output", place / "i", "--metadata"]
    index.main([str(w) for w in ("--model-path", "tiny", *given, place / "table.jsonl")])
    return place


def run(command, capsys, *words):
    capsys.readouterr()
    command.main([str(word) for word in words])
    return capsys.readouterr().out


def test_the_second_run_says_that_nothing_was_encoded(place, capsys):
    said = run(index, capsys, "--images", place / "photos", "--output", place / "i")
    assert said == f"{place / 'i'}: 4 unchanged; 0 images encoded\n"


def test_json_is_a_list_and_pages_follow(place, capsys):
    words = ["--index", place / "i", "--image", place / "photos" / "red 0,x.png"]
    found = json.loads(run(search, capsys, *words, "-k", "2", "--json"))
    assert found[0]["path"] == str(place / "photos" / "red 0,x.png")
    assert [one["rank"] for one in found] == [1, 2]
    assert found[0]["metadata"] == {"price": 0}
    more = json.loads(run(search, capsys, *words, "-k", "2", "--start", "2", "--json"))
    assert [one["rank"] for one in more] == [3, 4]
    assert len({one["path"] for one in found + more}) == 4


def test_conditions(place, capsys):
    words = ["--index", place / "i", "--text", "a, b", "--json"]
    assert len(json.loads(run(search, capsys, *words))) == 4
    [one] = json.loads(run(search, capsys, *words, "--where", "price=1..5"))
    assert one["metadata"] == {"price": 1}
    assert len(json.loads(run(search, capsys, *words, "--where", "price=0,1"))) == 2
    assert conditions_of(["a=x..", "b=true"]) == {"a": ("x", None), "b": ["true", True]}


def test_a_page_is_written_and_shown(place, capsys, monkeypatch, tmp_path):
    shown = []
    monkeypatch.setattr(webbrowser, "open", shown.append)
    page = tmp_path / "new" / "a.html"
    words = ["--index", place / "i", "--text", "red"]
    assert run(search, capsys, *words, "--html", page) == f"{page}\n"
    assert "red 0,x.png" in page.read_text() and not shown and is_own(page, "page")
    said = run(search, capsys, *words, "--open")
    assert shown == [f"file://{said.strip()}"]


def test_names_in_a_page_are_shown_as_text():
    nasty = "'\"><img src=x onerror=alert(1)>\n..\\<script>"
    page = page_of(Path(nasty), nasty, [Hit(0.5, Path(nasty), 1, {nasty: nasty})])
    assert "<img" not in page and "<script" not in page and "'\"" not in page
    assert page.count("&lt;img src=x onerror=alert(1)&gt;") == 5


def test_plain_lines_have_rank_score_and_path(place, capsys):
    said = run(search, capsys, "--index", place / "i", "--text", "red", "-k", "1").split(None, 2)
    assert said[0] == "1" and -1 <= float(said[1]) <= 1 and said[2].endswith("x.png\n")


def test_add_list_and_remove(place, capsys, tmp_path):
    one, two = tmp_path / "a, b.png", tmp_path / "c d.png"
    Image.new("RGB", (9, 9), "pink").save(one)
    two.write_bytes(one.read_bytes())
    said = run(index, capsys, "--index", place / "i", "--add", one, two)
    assert "1 duplicates, 1 new; 1 images encoded" in said
    assert f"stored once: {one}, {two}" in said
    found = json.loads(run(index, capsys, "--index", place / "i", "--info", "--json"))
    assert (found["files"], found["images"], found["fields"]) == (6, 5, ["price"])
    assert found["duplicates"] == [[str(one), str(two)]]
    said = run(index, capsys, "--index", place / "i", "--remove", tmp_path, "--compact")
    assert "2 deleted" in said and "the features of 1 images were deleted" in said
    assert "images: 4\n" in run(index, capsys, "--index", place / "i", "--info")


def test_files_that_are_gone_stay_until_a_flag_takes_them_out(place, capsys, tmp_path):
    for name in "ab":
        Image.new("RGB", (9, 9), "pink").save(tmp_path / f"{name}.png")
    words = ["--model-path", "tiny", "--images", tmp_path, "--output", tmp_path / "i"]
    run(index, capsys, *words)
    (tmp_path / "b.png").unlink()
    said = run(index, capsys, *words)
    assert "1 missing, 1 unchanged" in said
    assert f"still in the index: {tmp_path / 'b.png'}; --watch-deleted takes them out" in said
    assert "1 deleted, 1 unchanged" in run(index, capsys, *words, "--watch-deleted")


def test_broken_files_need_a_flag(place, capsys, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"bad")
    words = ["--index", place / "i", "--add", tmp_path]
    bad(index, words, "1 file cannot be read", "bad.jpg", "no other is there", "--skip-broken")
    said = run(index, capsys, *words, "--skip-broken")
    assert "1 broken" in said and "bad.jpg" in said


def test_ctrl_c_says_what_is_kept(place, monkeypatch):
    def stop(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("gatedcir.gallery.indexing.Indexing.sync", stop)
    with pytest.raises(KeyboardInterrupt, match=r"what was encoded is kept in .*the same command"):
        index.main(["--images", str(place / "photos"), "--output", str(place / "i")])


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        (index, "--output i", "give --images FOLDER, or one of --fetch, --add"),
        (index, "--output new --images photos", "new is a new index; give --model-path MODEL."),
        (index, "--output new --images nowhere --model-path tiny", "there is no folder"),
        (index, "--output new --images photos --model-path nowhere", "no weights 'nowhere'"),
        (index, "--output i --compact --watch-deleted", "looks at a folder; give --images too"),
        (index, "--output i --compact --metadata table.jsonl", "give --images or --add too"),
        (index, "--output i --images photos --metadata no.csv", "no.csv cannot be read"),
        (index, "--output photos --images photos --model-path tiny", "holds other files and no in"),
        (index, "--output i --images photos --kind embedded", "has the kind exact, not embedded"),
        (index, "--output i --images photos --nprobe 2", "are for a new index of the kind large"),
        (search, "--index i", "give --image FILE, --text TEXT, or both."),
        (search, "--index i --text red -k 0", "-k is 0 and --start 0; give 1 or more"),
        (search, "--index photos --text red", "there is no index in photos; make one with"),
        (search, "--index i --text red --where price", "--where price is no condition"),
        (search, "--index i --text red --where colour=red", "there are price."),
        (search, "--index i --image no.png", "no.png cannot be read: it does not exist"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(place, monkeypatch, command, words, message):
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    bad(command, words.split(), message)
    assert sorted(place.rglob("*")) == before


def test_no_index_is_begun_without_what_it_needs(place, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # not installed
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    words = ["--images", place / "photos", "--model-path", "tiny", "--output", tmp_path / "new"]
    bad(index, [*words, "--engine", "ray"], "Ray is needed and not installed")
    bad(index, [*words, "--metadata", tmp_path / "t.csv"], "names no images; give it a column")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "path,a\nx.png,1\ny.png\n,2\n", "2 wrong lines: line 3 has 1 values for 2 colu"),
        ("t.csv", "a,b\n1,2\n", "names no images; give it a column called path, image"),
        ("t.csv", "path,a\nother.png,1\n", "name no image of .* the first is 'other.png'"),
        ("t.jsonl", '{"path": "a"}\n[1]\nx\n', "2 wrong lines: line 2 is no JSON object, line 3"),
    ],
)
def test_wrong_tables_name_their_lines(place, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    words = ["--images", place / "photos", "--output", place / "i", "--metadata", tmp_path / name]
    with pytest.raises(UserError, match=message.replace("the first", r"\(the first")):
        index.main([str(word) for word in words])
