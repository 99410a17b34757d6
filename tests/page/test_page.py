"""The page without a browser: queries and links, results, pictures, markup, limits."""

import io
import json
import shutil
from contextlib import ExitStack
from dataclasses import replace
from types import SimpleNamespace
from urllib.parse import parse_qsl

import numpy as np
import pytest
from conftest import bad
from PIL import Image

from gatedcir.commands import serve
from gatedcir.errors import UserError
from gatedcir.gallery.retriever import Retriever
from gatedcir.page import parts
from gatedcir.page.asked import Asked, Visit, from_link
from gatedcir.page.drawing import heat
from gatedcir.page.engine import Engine
from gatedcir.page.inputs import Filters, act, asked_from, inputs_of
from gatedcir.page.shelf import Kept, keep
from gatedcir.page.site import Site
from gatedcir.search.catalogue import Catalogue
from gatedcir.visualize.panels import Bars

ID, OTHER = "0123456789abcdef", "f" * 16
FILTERS = Filters({"colour": ["red", "blue"]}, ["price"])


@pytest.mark.parametrize(
    "asked",
    [
        Asked(),
        Asked(ID, (("make it red & blue", 1.0), ("x*y", -0.5)), alpha=0, k=24, start=48),
        Asked(
            more=(ID,), less=(OTHER,), where={"size": [36, "L"], "price": {"from": 1, "to": None}}
        ),
    ],
)
def test_a_link_gives_the_same_query_again(asked):
    assert from_link(parse_qsl(asked.link())) == asked
    assert json.loads(json.dumps(asked.values()))["k"] == asked.k


@pytest.mark.parametrize(
    ("link", "message"),
    [
        ("ref=../../etc/passwd", "is no id of a picture"),
        ("ref=/etc/passwd", "is no id of a picture"),
        ("more=1&text=a", "is no id of a picture"),
        ("text=" + "a" * 1001, "has 1001 letters in 1 parts; shorten it"),
        ("&".join(["text=a"] * 6), "in 6 parts"),
        ("text=99*a", "a weight of a text is no number from -10 to 10"),
        ("alpha=nan", "alpha is 'nan', which is no number"),
        ("alpha=-1", "give a number from 0 to 3"),
        ("k=1e9", "ask for 1 to 240 images"),
        ("k=x", "k is 'x'"),
        ("start=-1", "start is -1; give 0, or the number of images before"),
        ("where=[]", "the conditions are not readable"),
        ("where=" + "[" * 2000, "the conditions are not readable"),
        ('where={"a":[{}]}', "the conditions are not readable"),
        ('where={"a":{"from":"x"}}', "the conditions are not readable"),
        ("&".join(f"more={n:016x}" for n in range(30)), "take back some above 20"),
    ],
)
def test_a_wrong_link_is_one_sentence(link, message):
    with pytest.raises(UserError, match=message):
        from_link(parse_qsl(link))


def test_rounds_go_on_and_back():
    first = Visit(Asked(texts=(("red", 1.0),), more=(OTHER,), where={"a": [1]}))
    second = act(first, "next", ID)
    assert second.now == Asked(reference=ID, where={"a": [1]})
    third = act(second, "next", OTHER)
    assert [asked.reference for asked in third.before] == [None, ID]
    assert act(third, "back", "0") == Visit(first.now)
    assert act(third, "back", "7") == act(third, "back", "x") == act(third, "?", "") == third
    many = first
    for _ in range(50):
        many = act(many, "next", ID)
    assert len(many.before) == 20


def test_marks_are_set_moved_and_taken_back():
    liked = act(Visit(), "more", ID)
    assert (liked.now.more, liked.now.less) == ((ID,), ())
    disliked = act(liked, "less", ID)
    assert (disliked.now.more, disliked.now.less) == ((), (ID,))
    assert act(disliked, "less", ID).now == Asked()
    assert act(Visit(Asked(k=8), shown=24), "less", ID).shown == 24
    assert act(Visit(Asked(k=8), shown=24), "clear", "").shown == 8


def test_inputs_show_a_query_and_give_it_back():
    where = {"colour": ["red"], "price": {"from": 1.0, "to": None}}
    asked = Asked(ID, (("red", 2.0), ("big", -1.0)), 0.5, 24, (OTHER,), where=where)
    given = inputs_of(asked, FILTERS)
    assert given == ["red", 24, 0.5, 2.0, "big", -1.0, "", 1.0, ["red"], "1.."]
    assert asked_from(asked, FILTERS, given) == asked
    assert asked_from(Asked(), FILTERS, inputs_of(Asked(), FILTERS)) == Asked()
    with pytest.raises(UserError, match=r"price is 'cheap'; write a range such as 10\.\.50"):
        asked_from(asked, FILTERS, [*given[:-1], "cheap"])


def by_name(site, name):
    return next(picture for picture, one in site.examples(12) if one == name)


def test_results_are_those_of_the_gallery(site, photos):
    engine = site.engines[0]
    asked = Asked(by_name(site, "p1.png"), (("make it red", 1.0),), k=5)
    hits = engine.gallery.search(photos / "p1.png", "make it red", k=5)
    found = engine.find(asked)
    assert [one.name for one in found] == [hit.path.name for hit in hits]
    assert [one.score for one in found] == pytest.approx([hit.score for hit in hits], abs=1e-5)
    assert [one.token for one in found] == [hit.explain().token for hit in hits]
    every = engine.find(asked, shown=12)
    pages = [engine.find(replace(asked, start=start)) for start in (0, 5, 10, 15, 10**18)]
    assert [one for page in pages for one in page] == every and len(every) == 12
    assert [len(page) for page in pages] == [5, 5, 2, 0, 0]
    even = engine.find(replace(asked, k=12, where={"parity": ["even"], "price": {"from": 3}}))
    assert {one.name for one in even} == {f"p{n}.png" for n in (2, 4, 6, 8, 10)}
    with pytest.raises(UserError, match="give a picture, a text, or both"):
        engine.find(Asked())
    with pytest.raises(UserError, match="not here any more; drop it on the page again"):
        engine.find(Asked(reference=ID))


def test_marks_move_results(site):
    engine = site.engines[0]
    text = Asked(texts=(("a red square", 1.0),), k=12)
    plain = {one.picture: one for one in engine.find(text)}
    last = max(plain.values(), key=lambda one: one.rank)
    liked = {one.picture: one for one in engine.find(replace(text, more=(last.picture,)))}
    assert liked[last.picture].score > plain[last.picture].score
    first = min(plain.values(), key=lambda one: one.rank)
    disliked = {one.picture: one for one in engine.find(replace(text, less=(first.picture,)))}
    assert disliked[first.picture].score < plain[first.picture].score
    assert engine.find(Asked(more=(first.picture,), k=1))[0].picture == first.picture
    with pytest.raises(UserError, match="take its mark back"):
        engine.find(replace(text, more=(ID,)))


def test_alpha_scales_the_change_and_zero_closes_it(site, photos, cirr_run):
    engine = site.engines[0]
    asked = Asked(by_name(site, "p1.png"), (("make it red", 1.0),))
    look, half = engine.look(asked), engine.look(replace(asked, alpha=0.5))
    np.testing.assert_allclose(half.change, look.change / 2)
    assert np.array_equal(half.gate, look.gate) and look.alpha is not None
    closed = Retriever.from_pretrained(cirr_run)
    closed.model.use_gated_fusion = False
    wanted = closed.encode_query(photos / "p1.png", "make it red")
    query = engine._query(replace(asked, alpha=0.0))
    np.testing.assert_allclose(engine.retriever.encode_queries([query])[0, 0], wanted, atol=1e-5)
    assert engine.look(Asked(texts=asked.texts)) is None
    assert engine.look(Asked(reference=asked.reference)).gate is None


def test_two_models_answer_the_same_query(site, photos, tmp_path):
    other = Retriever.from_pretrained("tiny")
    other.index(photos, to=tmp_path / "i").close()
    uploads = site._uploads
    both = Site([site.engines[0], Engine(tmp_path / "i", other, uploads=uploads)], uploads)
    asked = Asked(by_name(site, "p1.png"), (("make it red", 1.0),), k=3)
    (_, first), (name, second) = both.find(asked)
    assert name == "tiny" and first == site.engines[0].find(asked) and len(second) == 3
    page = parts.results(Visit(asked, shown=3), both.find(asked))
    assert 'data-sides="2"' in page and "<h2>tiny</h2>" in page
    assert Image.open(io.BytesIO(both.sheet(asked))).size[1] > 600
    both.engines[1].close()


def test_uploads_are_bounded_and_checked(site):
    content = io.BytesIO()
    Image.new("RGB", (30, 20), "red").save(content, "PNG")
    picture = site.upload(content.getvalue())
    assert site.find(Asked(reference=picture, k=1))[0][1]
    assert Image.open(io.BytesIO(site.thumbnail(picture))).size == (30, 20)
    bomb = io.BytesIO()
    Image.new("1", (9000, 9000)).save(bomb, "PNG")
    for wrong, message in (
        (b"no picture", "no picture that can be read"),
        (b"", "no picture that can be read"),
        (content.getvalue()[:60], "no picture that can be read"),
        (bytes(30_000_000), r"has 30\.0 MB; give a picture of at most 10 MB"),
        (bomb.getvalue(), "9000 x 9000 pixels; make it smaller than 40 million"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            site.upload(wrong)
        assert "0x" not in str(caught.value)
    few = Kept(2 * len(content.getvalue()), len)
    for colour in ("red", "blue", "green"):
        one = io.BytesIO()
        Image.new("RGB", (30, 20), colour).save(one, "PNG")
        last = keep(few, one.getvalue())
    assert few.get(picture) is None and few.get(last) is not None


def test_only_pictures_as_they_were_indexed_are_shown(site, photos, tmp_path):
    copies = tmp_path / "photos"
    shutil.copytree(photos, copies)
    site.engines[0].retriever.index(copies, to=tmp_path / "i").close()
    engine = Engine(tmp_path / "i", site.engines[0].retriever, uploads=Kept(99, len))
    [first, second, *_] = engine.shelf.some(12)
    assert engine.shelf.thumbnail(first)
    names = [engine.shelf.name_of(picture) for picture in (first, second)]
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8), "blue").save(secret)
    for name in names:
        (copies / name).unlink()
    (copies / names[1]).symlink_to(secret)
    for picture in (second, "../secret.png", str(secret), ID):
        with pytest.raises(UserError):
            engine.shelf.thumbnail(picture)
    engine.close()


def test_names_and_texts_are_shown_as_text(site):
    asked = Asked(texts=(("<script>alert(1)</script>", 1.0),), k=12)
    shown = parts.results(Visit(asked), site.find(asked)) + parts.trail(Visit(asked, (asked,)))
    shown += parts.examples(site.examples(12)) + parts.problem("<script>")
    assert "<b>${1" not in shown and "<script" not in shown and "&lt;b&gt;" in shown
    assert shown.count("<img") == shown.count("alt=")


def test_the_name_of_a_model_is_shown_as_text():
    nasty = "<img src=x onerror=alert(1)>"
    engine = SimpleNamespace(retriever=SimpleNamespace(name=f"/models/{nasty}"), rerank=0)
    names = Site([engine, engine], Kept(1, len)).names
    shown = parts.title(f"Search 3 images with {names[0]}", [nasty])
    shown += parts.results(Visit(Asked()), [(name, []) for name in names])
    assert "<img" not in shown and shown.count("&lt;img src=x") >= 4


def test_maps_are_drawn_cell_by_cell(site):
    picture = heat([[0.0, 0.5], [1.0, 2.0]], top=1, colours="gray")
    assert [picture.getpixel(at)[0] for at in ((0, 0), (0, 1), (1, 1))] == [0, 255, 255]
    asked = Asked(by_name(site, "p1.png"), (("make it red", 1.0),))
    shown = parts.looks(site.look(asked))
    assert "<b>Gate</b>" in shown and "|alpha · gate · delta|" in shown and "over 0.5" in shown
    look = site.look(asked)[0][1]
    worded = replace(look, words=[("red", look.gate), ("<i>", look.gate / 2)])
    shown = parts.looks([("m", worded)])
    assert shown.count("data-word=") == shown.count("data-map=") == 2 and "<i>" not in shown
    strong = replace(look, change=np.full((2, 2), 0.9, np.float32))
    both = parts.looks([("m", look), ("n", strong)])  # the same colour means the same change
    assert both.count("Colours: 0 to 0.9.</figcaption>") == 2
    weights = {"0.5×": [0.25, 0.5], "1.0×": [0.75, 0.5]}
    barred = replace(look, bars=[Bars("scale weights", ["layer -1", "layer -4"], weights)])
    shown = parts.looks([("m", barred)])
    order = [shown.index(f">{label}<") for label in ("layer -1 0.5×", "layer -1 1.0×")]
    assert order[0] < order[1] < shown.index(">layer -4 0.5×<")
    nothing = replace(look, gate=None, change=None)
    assert "has no gate and no weights to show" in parts.looks([("m", nothing)])


def test_values_of_a_field_come_by_frequency(site):
    assert site.engines[0].fields()["parity"] == ["even", "odd"]
    assert isinstance(site.engines[0]._folder.catalogue, Catalogue)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "give --model-path RUN, which shows its validation images, or --index INDEX"),
        ("--model-path tiny --port 7999", "tiny was validated on no dataset; give --images FOLDER"),
        ("--images photos", "--images needs a model"),
        ("--index a --index b --index c", "the page shows 2 models at most"),
        ("--index a --index b --model-path tiny", "there are 1 models and 2 indexes"),
        ("--index a --share-off --host 0.0.0.0", "--share-off answers this machine alone"),
        ("--index a --port 0", "--port 0 is no port"),
        ("--index a --host 203.0.113.9", "cannot be listened at"),
        ("--index nowhere --port 7999", "there is no index in nowhere"),
        ("--images nowhere --model-path tiny --port 7999", "there is no folder"),
    ],
)
def test_the_command_refuses_in_one_sentence(words, message):
    pytest.importorskip("gradio")
    bad(serve, words.split(), message)


def test_images_that_cannot_be_read_are_said(photos, tmp_path, capsys):
    pytest.importorskip("gradio")
    (tmp_path / "a.png").write_text("no image")
    asked = ["--model-path", "tiny", "--port", "7999", "--images", tmp_path]
    bad(serve, asked, "1 file cannot be read: ", "a.png", "name a folder of images")
    shutil.copy(photos / "p1.png", tmp_path)
    with ExitStack() as stack:
        site = serve.open_site(serve.Options(model_path=("tiny",), images=tmp_path), stack)
        assert len(site) == 1
    assert "1 file cannot be read: " in capsys.readouterr().err


def test_a_run_alone_shows_the_images_that_it_was_validated_on(home, cirr_run, monkeypatch):
    monkeypatch.setattr("gatedcir.gallery.opening.load", _gone)  # the run is read once
    with ExitStack() as stack:
        site = serve.open_site(serve.Options(model_path=(str(cirr_run),)), stack)
        names = {name for _, name in site.examples(1000)}
        found = site.find(Asked(texts=(("a star", 1.0),), k=3))
        assert len(found[0][1]) == 3
    assert names == {path.name for path in (home / "cirr_dataset" / "dev").rglob("*.png")}
    monkeypatch.setattr("gatedcir.assemble.data.load_splits", _gone)
    pytest.importorskip("gradio")
    message = "was validated on cannot be read (there is no folder cirr); give --images FOLDER"
    bad(serve, ["--model-path", cirr_run, "--port", "7999"], message)


def _gone(*_, **__):
    raise UserError("there is no folder cirr; pass --data-path.")


def test_without_gradio_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setattr(serve, "find_spec", lambda name: None)
    bad(serve, ["--index", "i"], "the page needs Gradio", "pip install 'gatedcir[page]'")
