"""What holds for every input of a kind, on inputs that hypothesis makes up, always the same."""

import json
from contextlib import suppress
from urllib.parse import parse_qsl

import pytest
import torch

pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatedcir.benchmarks.cirr import CIRR, parse_cirr
from gatedcir.errors import UserError, plain
from gatedcir.files import parse_json
from gatedcir.options.config import Config
from gatedcir.options.parsing import parse
from gatedcir.page.asked import Asked, from_link
from gatedcir.search.exact import first_of_equals

SETTINGS = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)


@SETTINGS
@given(st.text())
def test_a_plain_text_is_one_printable_line(text):
    assert plain(text).isprintable() and plain(plain(text)) == plain(text)


@SETTINGS
@given(st.binary() | st.text() | VALUES.map(json.dumps))
def test_json_is_read_or_refused_with_one_kind_of_error(content):
    with suppress(ValueError):
        parse_json(content)


@SETTINGS
@given(value=VALUES, key=st.sampled_from(["pairid", "reference", "target_hard", "caption"]))
def test_an_entry_of_any_type_is_read_or_refused(tmp_path, value, key):
    group = {"id": 0, "members": ["a", "b", "c"]}
    entry = {"pairid": 0, "reference": "a", "target_hard": "b", "caption": "x", "img_set": group}
    for name, content in (
        ("captions/cap.rc2.val.json", [entry | {key: value}]),
        ("image_splits/split.rc2.val.json", {n: f"./dev/{n}.png" for n in "abc"}),
    ):
        file = tmp_path / "cirr" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    with suppress(UserError):
        assert parse_cirr(tmp_path, "val").triplets
    with suppress(UserError):
        CIRR.read_answers({"version": "rc2", "metric": "recall", "0": value}, [])


@SETTINGS
@given(st.lists(st.tuples(st.sampled_from(["text", "k", "alpha", "where", "ref"]), st.text())))
def test_a_link_of_any_words_is_read_or_refused(pairs):
    with suppress(UserError):
        asked = from_link(pairs)
        assert from_link(parse_qsl(asked.link())) == asked


@SETTINGS
@given(
    texts=st.lists(st.tuples(st.text(min_size=1), st.sampled_from([0.5, -2.0])), max_size=3),
    alpha=st.sampled_from([0.0, 0.25, 3.0]),
    k=st.integers(1, 240),
)
def test_a_query_is_its_link(texts, alpha, k):
    asked = Asked(texts=tuple(texts), alpha=alpha, k=k)
    assert from_link(parse_qsl(asked.link())) == asked


@SETTINGS
@given(st.data())
def test_equal_scores_are_ranked_by_number(data):
    row = st.lists(st.integers(-2, 2), min_size=6, max_size=6)
    rows = data.draw(st.lists(row, min_size=1, max_size=3))
    kept = data.draw(st.integers(1, 6))
    scores, found = first_of_equals(torch.tensor(rows, dtype=torch.float32), kept)
    for row, values, numbers in zip(rows, scores.tolist(), found.tolist(), strict=True):
        expected = sorted(range(6), key=lambda number: (-row[number], number))[:kept]
        assert numbers == expected and values == [row[number] for number in expected]


@settings(SETTINGS, max_examples=10)
@given(st.lists(st.sampled_from(["--seed", "--save-best", "1e9", "-1", "", "nan", "--x=", "a"])))
def test_flags_of_any_order_are_read_or_refused(words):
    with suppress(UserError):
        parse(Config, ["--dataset", "CIRR", *words], description="")
