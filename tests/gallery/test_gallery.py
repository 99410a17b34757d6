"""Searching with a model: every form of image and text, against features made by hand."""

import json
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

import gatedcir
from gatedcir.assemble.evaluator import open_checkpoint
from gatedcir.errors import UserError
from gatedcir.gallery import retriever as retrievers
from gatedcir.gallery.gallery import Gallery, as_values
from gatedcir.gallery.page import page_of
from gatedcir.gallery.retriever import Retriever
from gatedcir.pretrained import TrainedRetriever


@pytest.fixture(scope="module")
def retriever():
    return gatedcir.Retriever.from_pretrained("tiny")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten pictures, two of them equal, and a table about most of them."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(9):
        pixels = rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((60, 40)).save(folder / f"p{number}.png")
    (folder / "same.png").write_bytes((folder / "p3.png").read_bytes())
    rows = [f"p{n}.png,{'even' if n % 2 == 0 else 'odd'},{n * 1.5}" for n in range(9)]
    (folder / "table.csv").write_text("\n".join(["path,parity,price", *rows]))
    return folder


@pytest.fixture(scope="module")
def gallery(retriever, folder, tmp_path_factory):
    to = tmp_path_factory.mktemp("i") / "index"
    return retriever.index(folder, to=to, metadata=folder / "table.csv")


def by_hand(retriever, folder, query):
    """Names by the best product of a query [E] with the features of every picture."""
    paths = sorted(folder.glob("p*.png"))
    scores = (retriever.encode_image(paths) @ query).max(1)
    return [paths[i].name for i in np.argsort(-scores)], np.sort(scores)[::-1]


def names(hits):
    return [hit.path.name for hit in hits]


@pytest.mark.parametrize(("image", "text"), [("p1.png", "make it red"), (None, "a dog")])
def test_a_search_ranks_by_the_models_own_similarity(retriever, gallery, folder, image, text):
    image = image and folder / image
    model, tokenizer, _ = open_checkpoint("tiny")
    tokens = tokenizer([text])
    with torch.no_grad(), retriever.runs_on.autocast():
        if image is None:
            [query] = model.encode_text(tokens, prompted=False)  # tiny has none that were learned
        else:
            pixels = retriever.transform(retriever.transform.open(image))[None]
            [query] = model.encode_query(pixels, tokens)[0]
    np.testing.assert_allclose(retriever.encode_query(image, text), query.float(), atol=1e-5)
    expected, scores = by_hand(retriever, folder, query.float().numpy())
    hits = gallery.search(image, text, k=4)
    assert names(hits) == expected[:4]
    np.testing.assert_allclose([hit.score for hit in hits], scores[:4], atol=2e-3)
    assert [hit.rank for hit in hits] == [1, 2, 3, 4]


def test_an_image_alone_finds_itself_with_score_one(gallery, folder):
    for number in (0, 5, 8):
        hit, other = gallery.search(folder / f"p{number}.png", k=2)
        assert hit.path.name == f"p{number}.png"
        assert hit.score == pytest.approx(1, abs=2e-3) and other.score < hit.score


def test_shapes_and_norms(retriever, folder):
    one, two = folder / "p0.png", folder / "p1.png"
    tokens, width, _ = retriever.form()
    assert retriever.encode_image(one).shape == (tokens, width)
    assert retriever.encode_image([one, two]).shape == (2, tokens, width)
    assert retriever.encode_query(one, "red").shape == (width,)
    assert retriever.encode_query(one, ["red", "blue"]).shape == (2, width)
    assert retriever.encode_query([one, two], "red").shape == (2, width)
    assert retriever.encode_query(None, ["red"]).shape == (1, width)
    found = retriever.encode_query([one] * 40, ["red"] * 40)  # more than one batch
    assert found.shape == (40, width) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


def test_every_form_of_an_image_is_the_same_image(retriever, folder):
    path = folder / "p2.png"
    picture = Image.open(path)
    array = np.asarray(picture.convert("RGB"))
    forms = [path, str(path), path.read_bytes(), picture, array, array / 255, torch.tensor(array)]
    each = [retriever.encode_image(form) for form in forms]
    assert all(np.array_equal(one, each[0]) for one in each)
    batch = np.stack([array, array])
    np.testing.assert_allclose(retriever.encode_image(batch)[1], each[0], atol=1e-5)


def test_a_picture_is_turned_as_its_exif_says_in_every_form(retriever, folder, tmp_path):
    picture = Image.open(folder / "p2.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways = tmp_path / "a.png"
    picture.transpose(Image.Transpose.ROTATE_90).save(sideways, exif=exif)
    upright = retriever.encode_image(picture)
    for form in (sideways, sideways.read_bytes(), Image.open(sideways)):
        assert np.array_equal(retriever.encode_image(form), upright)


def test_weighted_texts_are_added_and_scaled(retriever, folder):
    image = folder / "p0.png"
    red, striped = retriever.encode_query(image, ["red", "with stripes"])
    expected = normalize(torch.tensor(2 * red - 0.5 * striped), dim=0)
    found = retriever.encode_query(image, [("red", 2.0), ("with stripes", -0.5)])
    np.testing.assert_allclose(found, expected, atol=1e-5)
    both = retriever.encode_query(image, [[("red", 2.0), ("with stripes", -0.5)], "red"])
    np.testing.assert_allclose(both, np.stack([expected, red]), atol=1e-5)


def test_several_queries_give_a_list_for_each(gallery, folder):
    images = [folder / "p0.png", folder / "p1.png"]
    texts = ["make it red", "make it blue"]
    found = gallery.search(images, texts, k=3)
    for image, text, hits in zip(images, texts, found, strict=True):
        alone = gallery.search(image, text, k=3)
        assert names(hits) == names(alone)
        assert [hit.score for hit in hits] == pytest.approx([h.score for h in alone], abs=1e-5)
    assert [names(hits)[0] for hits in gallery.search(images, k=1)] == ["p0.png", "p1.png"]
    assert gallery.search([]) == []
    assert len(gallery.search(images[:1], "red")) == 1


def test_pages_go_on_where_the_one_before_ended(gallery):
    whole = gallery.search(text="red", k=9)
    pages = [gallery.search(text="red", k=4, start=start) for start in (0, 4, 8, 12)]
    assert [hit for page in pages for hit in page] == whole
    assert [len(page) for page in pages] == [4, 4, 1, 0]
    assert pages[1][0].rank == 5
    assert gallery.search(text="red", k=100) == whole


def test_conditions_and_metadata(gallery):
    whole = gallery.search(text="red", k=9)
    even = gallery.search(text="red", k=9, where={"parity": "even", "price": (3, 9)})
    kept = {"p2.png", "p4.png", "p6.png"}
    assert names(even) == [name for name in names(whole) if name in kept]
    assert {hit.metadata["price"] for hit in even} == {3, 6, 9}
    with pytest.raises(UserError, match=r"the field 'colour'; there are parity, price\."):
        gallery.search(text="red", where={"colour": "red"})


def test_equal_files_are_one_result_that_lists_them(gallery, folder):
    assert len(gallery) == 9
    [hit] = gallery.search(folder / "p3.png", k=1)
    assert (hit.path.name, names_of(hit.duplicates)) == ("p3.png", ["same.png"])
    assert [names_of(paths) for paths in gallery.duplicates()] == [["p3.png", "same.png"]]


def names_of(paths):
    return [path.name for path in paths]


def test_threads_get_the_same_answers(gallery, folder):
    def ask(number):
        hits = gallery.search(folder / f"p{number % 9}.png", f"a text of number {number}", k=3)
        return [(hit.path, round(hit.score, 4)) for hit in hits]

    expected = [ask(number) for number in range(24)]
    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(ask, range(24))) == expected


def test_the_index_opens_its_own_model(gallery):
    again = Gallery.open(gallery.info()["index"])
    assert again.retriever.name == "tiny"
    assert names(again.search(text="red")) == names(gallery.search(text="red"))


def test_a_gallery_changes_and_notices_changes(retriever, folder, tmp_path):
    gallery = retriever.index(folder, to=tmp_path / "i")
    other = retriever.open(tmp_path / "i")
    extra = tmp_path / "extra.png"
    Image.new("RGB", (30, 30), "red").save(extra)
    assert gallery.add(extra).encoded == 1
    assert len(gallery) == len(other) == 10
    assert names(other.search(extra, k=1)) == ["extra.png"]
    gallery.remove(extra)
    assert len(other) == 9 and "extra.png" not in names(other.search(extra, k=20))
    assert gallery.compact() == 1
    assert len(other.search(extra, k=20)) == 9
    with pytest.raises(UserError, match="has no file"):
        gallery.remove(extra)
    assert len(gallery.search(text="red", k=20)) == 9  # still open


def test_a_broken_file_is_an_error_after_the_rest_is_indexed(retriever, folder, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("p0.png", "p1.png"):
        (photos / name).write_bytes((folder / name).read_bytes())
    (photos / "bad.png").write_bytes(b"bad")
    with pytest.raises(UserError, match=r"1 file cannot be read: .*pass skip_broken=True\."):
        retriever.index(photos, to=tmp_path / "i")
    assert len(retriever.open(tmp_path / "i")) == 2
    assert len(retriever.index(photos, to=tmp_path / "i", skip_broken=True)) == 2


def test_a_hit_is_explained(cirr_run, folder, tmp_path):
    retriever = Retriever.from_pretrained(cirr_run)
    gallery = retriever.index(folder, to=tmp_path / "i", num_workers=1)
    image, text = folder / "p1.png", "make it a red square"
    hit = gallery.search(image, text, k=3)[2]
    found = hit.explain()
    side = math.isqrt(retriever.model.backbone.token_count() - 1)
    assert found.maps.gate.shape == (side, side)
    assert found.maps.gate.min() >= 0 and found.maps.gate.max() <= 1
    expected = retriever.encode_image(hit.path) @ retriever.encode_query(image, text)
    np.testing.assert_allclose(found.similarities, expected, atol=2e-3)
    assert found.token == expected.argmax()
    assert found.similarities.max() == pytest.approx(hit.score, abs=1e-4)
    again = retriever.explain(image, text, hit.path)
    assert np.array_equal(again.maps.gate, found.maps.gate) and again.token == found.token
    assert retriever.explain(image, text).token is None
    weighted = gallery.search(image, [("red", 0.1), (text, 2.0)], k=1)[0].explain()
    assert np.array_equal(weighted.maps.gate, found.maps.gate)  # of the greatest weight
    assert gallery.search(image, k=1)[0].explain().maps.gate is None


def test_a_text_alone_has_prompts_if_they_were_learned(cirr_run):
    trained, plain = Retriever.from_pretrained(cirr_run), Retriever.from_pretrained("tiny")
    assert (trained.has_prompts, plain.has_prompts) == (True, False)
    for retriever in (trained, plain):
        before = retriever.encode_query(None, "a dog")
        with torch.no_grad():
            retriever.model.prompt_tokens.neg_()  # the next norm takes a sum's change away
        after = retriever.encode_query(None, "a dog")
        with torch.no_grad():
            retriever.model.prompt_tokens.neg_()
        assert np.allclose(before, after) == (retriever is plain)


def test_a_run_and_its_export_are_the_same_model(cirr_run, folder, tmp_path):
    run = Retriever.from_pretrained(cirr_run)
    TrainedRetriever.from_pretrained(cirr_run).save_pretrained(tmp_path / "exported")
    exported = Retriever.from_pretrained(tmp_path / "exported")
    assert exported.identity == run.identity
    assert exported.identity != Retriever.from_pretrained("tiny").identity
    assert len(run.index(folder, to=tmp_path / "i")) == len(exported.open(tmp_path / "i"))
    with pytest.raises(UserError, match="with other weights"):
        Retriever.from_pretrained("tiny").open(tmp_path / "i")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({}, "needs an image, a text, or both"),
        ({"text": "red", "k": 0}, "k is 0 and start 0; give a k of 1 or more"),
        ({"text": "red", "start": -1}, "start -1"),
        ({"text": "word " * 500}, r"has 500 words; shorten it to 100"),
        ({"text": "red " + "a" * 1001}, r"has a word of 1001 letters; write words of 1000 letters"),
        ({"text": [("red", 0.0)]}, "all weights of the text are 0"),
        ({"text": [("red", float("nan"))]}, "is no text; give a str, or a list of pairs"),
        ({"text": [3]}, "3 is no text"),
        ({"text": [("red", 1.0, 2)]}, "is no text"),
        ({"text": ["a", "b"], "image": [np.zeros((9, 9, 3), np.uint8)] * 3}, "3 images and 2 t"),
        ({"image": "nowhere.png"}, r"nowhere\.png cannot be read: it does not exist"),
        ({"image": b"bytes"}, r"given as bytes cannot be read \(cannot identify"),
        ({"image": np.full((9, 9), 300)}, r"given as ndarray cannot be read \(int64 of shape"),
        ({"image": np.zeros((0, 4, 3), np.uint8)}, "given as ndarray cannot be read"),
        ({"image": 7}, "given as int cannot be read"),
        ({"text": 7}, "7 is no text"),
    ],
)
def test_bad_queries_are_one_sentence(gallery, query, message):
    with pytest.raises(UserError, match=message):
        gallery.search(**query)


def test_json_and_page(gallery, folder, tmp_path):
    hits = gallery.search(folder / "p3.png", "a <b>", k=3)
    values = json.loads(json.dumps(as_values(hits)))
    assert [value["rank"] for value in values] == [1, 2, 3]
    assert values[0].keys() == {"path", "score", "rank", "metadata", "duplicates"}
    page = page_of(folder / "p3.png", "a <b>", hits)
    assert page.count("data:image/jpeg;base64,") == 4
    assert "a &lt;b&gt;" in page and "a <b>" not in page
    assert str(hits[0].path) in page and "parity: " in page
    lost = tmp_path / "lost.png"
    assert "the file is gone" in page_of(lost, None, [])
    assert "nothing was found" in page_of(None, "x", [])


def test_a_cpu_reads_no_files_while_it_encodes(retriever, folder, monkeypatch):
    monkeypatch.setattr(retrievers, "ahead", lambda items: pytest.fail("it read ahead"))
    assert retriever.runs_on.device.type == "cpu"
    [(paths, features, broken)] = retriever.encode_files([folder / "p1.png"], num_workers=1)
    assert (paths, broken) == ([folder / "p1.png"], {})
    np.testing.assert_array_equal(features, retriever.encode_image([folder / "p1.png"]))
