"""The page's own parts as HTML: pure functions from values to markup. Every name is escaped.

A button says by `data-act` what it does and by `data-id` to which picture; page.js passes both on.
"""

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from typing import Any

from gatedcir.page.asked import Asked, Visit
from gatedcir.page.drawing import as_address, heat
from gatedcir.page.engine import Found, Look
from gatedcir.visualize.cells import numbers
from gatedcir.visualize.maps import rounded_up
from gatedcir.visualize.panels import Bars

_SHOWN_FIELDS = 3


def title(words: str, remarks: Sequence[str]) -> str:
    """The heading, and remarks below it."""
    below = "".join(f'<p class="gc-hint">{escape(one)}</p>' for one in remarks)
    return f'<h1 class="gc-title">{escape(words)}</h1>{below}'


def reference(picture: str | None, name: str) -> str:
    """The place for the reference: it takes a dropped, pasted or chosen file."""
    shown = '<span class="gc-hint">Drop a picture here, paste one, or click to choose</span>'
    remove = ""
    if picture is not None:
        shown = _image(picture, f"the reference, {name}")
        remove = '<button class="gc-small" data-act="clear">Remove the picture</button>'
    return (
        f'<label class="gc-drop">{shown}<input type="file" accept="image/*" '
        f'aria-label="Choose a reference picture"></label>{remove}'
    )


def examples(pictures: Sequence[tuple[str, str]]) -> str:
    """Pictures of the index to begin with, each an id and a name."""
    buttons = "".join(
        f'<button data-act="reference" data-id="{picture}" title="{escape(name)}">'
        f"{_image(picture, f'take {name} as the reference', 96)}</button>"
        for picture, name in pictures
    )
    said = '<p id="gc-said" role="status"></p>'
    title = '<p class="gc-label">or one of the gallery</p>'
    return f'{said}{title}<div class="gc-examples">{buttons}</div>'


def trail(visit: Visit) -> str:
    """The rounds before, each a button that goes back to it."""
    if not visit.before:
        return ""
    steps = [
        f'<li><button data-act="back" data-id="{place}" '
        f'aria-label="Back to round {place + 1}: {escape(_words(asked))}">'
        f"{_step(asked, place)}</button></li>"
        for place, asked in enumerate(visit.before)
    ]
    now = f'<li aria-current="step"><span>{_step(visit.now, len(visit.before))}</span></li>'
    return f'<nav aria-label="Rounds"><ol class="gc-trail">{"".join(steps)}{now}</ol></nav>'


def _step(asked: Asked, place: int) -> str:
    shown = _image(asked.reference, "", 96) if asked.reference else ""
    return f"{shown}<span>{place + 1}. {escape(_words(asked))}</span>"


def _words(asked: Asked) -> str:
    text = " + ".join(text for text, _ in asked.texts)
    return (text if len(text) <= 40 else f"{text[:39]}…") or (
        "this picture" * bool(asked.reference)
    )


def results(visit: Visit, found: Sequence[tuple[str, Sequence[Found]]]) -> str:
    """The links of a query, and a grid of pictures for each model."""
    link = escape(visit.now.link())
    head = (
        f'<p class="gc-links"><a data-link href="?{link}">Link to this query</a>'
        f'<a href="query.json?{link}" download="query.json">JSON</a>'
        f'<a href="sheet.png?{link}" download="sheet.png">Picture sheet</a></p>'
    )
    many = len(found) > 1
    grids = "".join(_grid(name, those, visit.now, titled=many) for name, those in found)
    more = _more(visit.now, visit.shown, found)
    return f'{head}<div class="gc-sides" data-sides="{len(found)}">{grids}</div>{more}'


def next_page(asked: Asked, found: Sequence[tuple[str, Sequence[Found]]]) -> dict[str, Any]:
    """The cards of another page, for each model, and what stands below them."""
    grids = ["".join(_card(one, asked) for one in those) for _, those in found]
    return {"grids": grids, "more": _more(asked, asked.k, found)}


def _more(asked: Asked, shown: int, found: Sequence[tuple[str, Sequence[Found]]]) -> str:
    """A button that asks for the page after the `shown` results, if there may be one."""
    if any(len(those) >= shown for _, those in found):
        link = replace(asked, start=asked.start + shown).link()
        return f'<button class="gc-more" data-next="{escape(link)}">More results</button>'
    is_nothing = asked.start == 0 and not any(those for _, those in found)
    return "" if is_nothing else '<p class="gc-hint">These are all results.</p>'


def _grid(name: str, found: Sequence[Found], asked: Asked, *, titled: bool) -> str:
    title = f"<h2>{escape(name)}</h2>" if titled else ""
    cards = "".join(_card(one, asked) for one in found)
    empty = "" if found else "<p>Nothing was found. Take a filter away.</p>"
    return (
        f'<section aria-label="Results of {escape(name)}">{title}{empty}'
        f'<ol class="gc-grid">{cards}</ol></section>'
    )


def _card(one: Found, asked: Asked) -> str:
    name = escape(one.name)
    fields = list(one.metadata.items())[:_SHOWN_FIELDS]
    known = "".join(f"{escape(f'{field}: {value}'[:60])}<br>" for field, value in fields)
    is_reference = one.picture == asked.reference
    note = '<span class="gc-note">the reference</span><br>' if is_reference else ""
    marks = "".join(
        f'<button class="gc-mark" data-act="{act}" data-id="{one.picture}" '
        f'aria-pressed="{str(one.picture in marked).lower()}" '
        f'aria-label="{words} like {name}" title="{words} like this">{sign}</button>'
        for act, words, sign, marked in (
            ("more", "more", "+", asked.more),
            ("less", "less", "−", asked.less),
        )
    )
    return (
        f'<li class="gc-card"><button class="gc-open" data-act="next" data-id="{one.picture}" '
        f'aria-label="Result {one.rank}, {name}: go on from it" title="Go on from this picture">'
        f"{_image(one.picture, one.name)}</button>"
        f'<div class="gc-under"><span><b>{one.rank}</b> {one.score:.4f}</span>'
        f"<span>{marks}</span></div>"
        f'<p class="gc-about"><span class="gc-name">{name}</span>{note}{known}'
        f'<span title="which of the image\'s features matched">feature {one.token + 1} of '
        f"{one.tokens}</span></p></li>"
    )


def looks(those: Sequence[tuple[str, Look | None]]) -> str:
    """What the text does to the reference, in each model. All of them share the colours' ends."""
    many = len(those) > 1
    seen = [(name if many else "", look) for name, look in those if look is not None]
    changes = [look.change for _, look in seen if look.change is not None]
    words = [cells for _, look in seen for _, cells in look.words]
    ends = [rounded_up(max((float(m.max()) for m in maps), default=0)) for maps in (changes, words)]
    each = "".join(_look(name, look, *ends) for name, look in seen)
    return f'<div class="gc-sides" data-sides="{len(seen)}">{each}</div>'


def _look(name: str, look: Look, change_top: float, words_top: float) -> str:
    seen = as_address(look.picture)
    panels = []
    if look.gate is not None:
        below = f"{numbers(look.gate, share=True)}. Colours: 0 to 1."
        panels.append(_panel("Gate", "mean over the channels", seen, _cells(look.gate, 1), below))
    if look.change is not None:
        below = f"{numbers(look.change, '.2g')}. Colours: 0 to {change_top:g}."
        cells = as_address(heat(look.change, top=change_top, colours="magma"))
        panels.append(_panel("Change", "|alpha · gate · delta|", seen, cells, below))
    if look.words:
        panels.append(_words_panel(look, seen, words_top))
    alpha = "" if look.alpha is None else f"<p>learned alpha: {look.alpha:.3f}</p>"
    bars = f"<div>{''.join(map(_bars, look.bars))}</div>" if look.bars else ""
    if not panels and not bars:
        panels = ['<p class="gc-hint">This model has no gate and no weights to show.</p>']
    title = f"<h2>{escape(name)}</h2>" if name else ""
    both = f'<div class="gc-panels">{"".join(panels)}{bars}</div>'
    return f'<section class="gc-look">{title}{both}{alpha}</section>'


def _cells(values: object, top: float) -> str:
    return as_address(heat(values, top=top, colours="viridis"))  # type: ignore[arg-type]


def _panel(title: str, unit: str, seen: str, cells: str, below: str) -> str:
    below = below.replace("\n", ", ")
    return (
        f'<figure class="gc-map"><div class="gc-over"><img src="{seen}" alt="the reference">'
        f'<img class="gc-cells" src="{cells}" alt="{title}, cell by cell: {escape(below)}"></div>'
        f"<figcaption><b>{title}</b> {escape(unit)}<br>{escape(below)}</figcaption></figure>"
    )


def _words_panel(look: Look, seen: str, top: float) -> str:
    """A map for each word. The chosen word's map is shown."""
    buttons, maps = [], []
    for place, (word, cells) in enumerate(look.words):
        chosen = str(place == 0).lower()
        buttons.append(
            f'<button class="gc-word" data-word="{place}" aria-pressed="{chosen}">{escape(word)} '
            f"<small>{cells.mean():.0%}</small></button>"
        )
        maps.append(
            f'<img class="gc-cells" data-map="{place}" {"" if place == 0 else "hidden"} '
            f'src="{as_address(heat(cells, top=top, colours="viridis"))}" '
            f'alt="where the word {escape(word)} is looked up">'
        )
    return (
        f'<figure class="gc-map"><div class="gc-over"><img src="{seen}" alt="the reference">'
        f"{''.join(maps)}</div><figcaption><b>Words</b> share of each cell's attention<br>"
        f'Colours: 0 to {top:g}.<div class="gc-words">{"".join(buttons)}</div></figcaption>'
        "</figure>"
    )


def _bars(bars: Bars) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(f"{label} {series}" if len(bars.series) > 1 else label)}</th>'
        f'<td><meter min="0" max="1" value="{values[place]:.4f}"></meter> '
        f"{values[place]:.2f}</td></tr>"
        for place, label in enumerate(bars.labels)
        for series, values in bars.series.items()
    )
    return f'<table class="gc-bars"><caption>{escape(bars.title)}</caption>{rows}</table>'


def _image(picture: str, alt: str, side: int | None = None) -> str:
    size = f"?side={side}" if side else ""
    return f'<img src="picture/{picture}{size}" alt="{escape(alt)}" loading="lazy">'


def welcome() -> str:
    """What stands in place of the results before the first search."""
    return (
        '<p class="gc-hint">Choose a picture, type how it should change, and press Enter. '
        "A click on a result goes on from it.</p>"
    )


def problem(message: str) -> str:
    """One sentence of what is wrong."""
    return f'<p class="gc-problem" role="alert">{escape(message[:1].upper() + message[1:])}</p>'
