"""The page is whole in one file, and writes what it is given as text."""

import re
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure
from PIL import Image

from gatedcir.report.blocks import (
    Card,
    Cards,
    Chart,
    Charts,
    Section,
    Table,
    Text,
    Tile,
    exact,
    page_of,
    picture,
)
from gatedcir.visualize.curves import curve_chart

BAD = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, text):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def page():
    image = Image.new("RGB", (300, 200), "red")
    tile = Tile(picture(image, side=64), BAD, BAD, "right")
    figure = Figure()
    figure.subplots().set_title(BAD)
    blocks = [
        Text(BAD),
        Text(BAD, "heading"),
        Text(BAD, "code"),
        Table([BAD], [[BAD]], BAD),
        Charts([Chart.of(figure, BAD)]),
        Cards([Card(BAD, BAD, [[tile, Tile("", BAD, BAD)]])]),
    ]
    return page_of(BAD, [Section(BAD, blocks)], intro=BAD)


def test_everything_is_written_as_text(page):
    found = Page(page)
    tags = [tag for tag, _ in found.found]
    assert "script" not in tags and tags.count("img") == 2
    assert not any(name.startswith("on") for _, each in found.found for name in each)
    assert found.text.count(BAD) == 15
    assert [each["alt"] for tag, each in found.found if tag == "img"] == [BAD, BAD]


def test_the_page_needs_nothing_else(page):
    for _, attributes in Page(page).found:
        assert attributes.get("src", "data:image/").startswith("data:image/")
        assert attributes.get("href", "#").startswith("#")
        assert "loading" not in attributes  # what a browser puts off is missing on paper
    assert "default-src 'none'" in page and "http:" not in page and "https:" not in page
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in Page(
        page
    ).found


def test_pictures_are_small_and_maps_keep_every_pixel():
    noise = Image.effect_noise((640, 480), 80)
    assert len(picture(noise, side=144)) < 20_000
    assert exact(noise) != exact(noise.rotate(180)) and exact(noise).startswith("data:image/png")


def test_a_run_keeps_its_colour_in_every_chart():
    runs = ["a", "b", "$c$"]
    one = curve_chart("loss", {"b": {0: 1.0, 1: 0.5}}, runs=runs, along="epoch")
    both = curve_chart("loss", {"a": {0: 2.0}, "b": {0: 1.0}}, runs=runs, along="epoch")
    [line] = one.axes[0].lines
    assert line.get_color() == both.axes[0].lines[1].get_color()
    assert line.get_data()[1].tolist() == [1.0, 0.5]
    assert [text.get_text() for text in both.axes[0].get_legend().get_texts()] == ["a", "b"]


def light(colour):
    """The relative luminance of WCAG of #rgb or #rrggbb."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * one for one in colour[1:])
    parts = [int(digits[n : n + 2], 16) / 255 for n in (0, 2, 4)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_letters_stand_out_and_wide_tables_can_be_scrolled_by_keys():
    text = page_of("t", [Section("s", [Table(["a"], [["b"]])])])
    for names in re.findall(r":root \{(.*?)\}", text, re.DOTALL):  # light, dark, print
        of = dict(re.findall(r"--(\w+): (#\w+)", names))
        for ink in ("ink", "soft", "right", "near", "reference"):
            for paper in ("page", "card"):
                low, high = sorted((light(of[ink]), light(of[paper])))
                assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, paper)
    assert [one["tabindex"] for _, one in Page(text).found if one.get("class") == "wide"] == ["0"]
