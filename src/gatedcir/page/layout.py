"""The page: where its parts stand, and what each of them asks the site."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from gatedcir.errors import UserError
from gatedcir.page import parts
from gatedcir.page.asked import MOST_ALPHA, MOST_BYTES, MOST_LETTERS, Asked, Visit, from_link
from gatedcir.page.site import Site

_EXAMPLES, _CHOICES = 6, 30  # pictures to begin with; values of a field in a list
_FIELDS = 8  # fields that get a filter
_MORE_TEXTS = 2
_HERE = Path(__file__).parent
CSS = (_HERE / "page.css").read_text(encoding="utf-8")
_JS = (_HERE / "page.js").read_text(encoding="utf-8").replace("MOST_BYTES", str(MOST_BYTES))
_OWN: dict[str, Any] = {"padding": False, "apply_default_css": False, "js_on_load": _JS}
_ADDRESS = """() => {
  const link = document.querySelector("[data-link]");
  if (link) history.replaceState(null, "", link.getAttribute("href"));
}"""


class Filters(NamedTuple):
    """The fields that have a list of values, and those that have a range."""

    lists: dict[str, list[Any]]
    ranges: list[str]


def filters_of(fields: dict[str, list[Any]]) -> Filters:
    """A list for a field of few values, and a range for one of many numbers.

    >>> filters_of({"colour": ["red", "blue"], "price": list(range(99)), "note": [*map(str, range(99))]})
    Filters(lists={'colour': ['red', 'blue']}, ranges=['price'])
    """
    some = dict(list(fields.items())[:_FIELDS])
    lists = {field: values for field, values in some.items() if len(values) <= _CHOICES}
    ranges = [
        field
        for field, values in some.items()
        if field not in lists and all(isinstance(value, int | float) for value in values)
    ]
    return Filters(lists, ranges)


def conditions_from(filters: Filters, given: list[Any]) -> dict[str, Any] | None:
    """What the filters' inputs say: a list for each field of values, two ends for each range."""
    where: dict[str, Any] = {}
    for field, chosen in zip(filters.lists, given, strict=False):
        if chosen:
            where[field] = chosen
    ends = given[len(filters.lists) :]
    for place, field in enumerate(filters.ranges):
        low, high = ends[2 * place : 2 * place + 2]
        if low is not None or high is not None:
            where[field] = {"from": low, "to": high}
    return where or None


def inputs_of(asked: Asked, filters: Filters) -> list[Any]:
    """The other way: the values of all inputs that show a query."""
    texts = [*asked.texts, *[("", 1.0)] * (1 + _MORE_TEXTS)]
    words = [value for text in texts[1 : 1 + _MORE_TEXTS] for value in text]
    where = asked.where or {}
    lists = [where.get(field) or [] for field in filters.lists]
    ends = [where.get(field, {}).get(end) for field in filters.ranges for end in ("from", "to")]
    return [texts[0][0], asked.k, asked.alpha, texts[0][1], *words, *lists, *ends]


def asked_from(before: Asked, filters: Filters, given: list[Any]) -> Asked:
    """A query with what the inputs say. Reference and marks stay."""
    text, k, alpha, weight, *rest = given
    count = 2 * _MORE_TEXTS
    pairs = [(text, weight), *zip(rest[:count:2], rest[1:count:2], strict=True)]
    return replace(
        before,
        texts=tuple((words, float(w or 0)) for words, w in pairs if words and words.strip()),
        k=int(k),
        alpha=float(alpha),
        where=conditions_from(filters, rest[count:]),
    )


def act(visit: Visit, what: str, which: str) -> Visit:
    """A visit after a click. An unknown one changes nothing."""
    if what == "page":
        return visit.shows_more()
    if what == "back":
        return visit.goes_back(int(which) if which.isdecimal() else -1)
    if what == "clear":
        return visit.asks(replace(visit.now, reference=None))
    if what == "reference":
        return visit.asks(replace(visit.now, reference=which))
    if what == "next":
        return visit.goes_on(which)
    if what in ("more", "less"):
        return visit.marks(which, like=what == "more")
    return visit


def make_page(site: Site) -> gr.Blocks:
    """The page of a site."""
    filters = filters_of(site.engines[0].fields())
    with gr.Blocks(title="gatedcir", analytics_enabled=False, fill_width=True) as page:
        visit = gr.State(Visit())
        names = " and ".join(site.names)
        gr.HTML(f'<h1 class="gc-title">Search {len(site)} images with {names}</h1>', **_OWN)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                shown = gr.HTML(
                    parts.reference(None, ""), **_OWN
                )
                gr.HTML('<p id="gc-said" role="status"></p>', **_OWN)
                begin = gr.HTML(
                    parts.examples(site.examples(_EXAMPLES)), **_OWN
                )
                text = gr.Textbox(
                    label="How to change it", lines=1, max_lines=3, max_length=MOST_LETTERS,
                    placeholder="make it red", submit_btn=False, elem_id="gc-text",
                )
                search = gr.Button("Search", variant="primary", elem_id="gc-search")
                alpha = gr.Slider(
                    0, MOST_ALPHA, 1, step=0.05, interactive=site.has_fusion,
                    label="alpha, times the learned one",
                    info="0: the text does not touch the image" if site.has_fusion
                    else "this model has no fusion, so alpha has no effect",
                )
                k = gr.Slider(4, 60, Asked.k, step=4, label="results on a page (k)")
                with gr.Accordion("Several texts", open=False):
                    weight = gr.Number(1, label="weight of the text above", step=0.1)
                    words: list[Any] = []
                    for number in range(2, 2 + _MORE_TEXTS):
                        words.append(gr.Textbox(label=f"text {number}", lines=1, max_lines=2, max_length=MOST_LETTERS))
                        words.append(gr.Number(1, label=f"weight of text {number}", step=0.1))
                chosen: list[Any] = []
                if filters.lists or filters.ranges:
                    with gr.Accordion("Filters", open=True):
                        for field, values in filters.lists.items():
                            chosen.append(gr.Dropdown(values, value=[], multiselect=True, label=field))
                        for field in filters.ranges:
                            with gr.Row():
                                chosen += [gr.Number(None, label=f"{field} {end}") for end in ("from", "to")]
            with gr.Column(scale=3, min_width=320):
                rounds = gr.HTML("", **_OWN)
                found = gr.HTML(parts.welcome(), elem_id="gc-found", **_OWN)
                with gr.Accordion("What the text does to the reference", open=True, visible=False) as box:
                    maps = gr.HTML("", **_OWN)
        inputs = [text, k, alpha, weight, *words, *chosen]
        answers = [visit, rounds, found, box, maps]

        def answer(visit: Visit) -> list[Any]:
            """All parts that show a visit's results."""
            try:
                results = parts.results(visit, site.find(visit.now, shown=visit.shown))
                look = parts.looks(site.look(visit.now)) if visit.now.reference else ""
            except UserError as error:
                results, look = parts.problem(str(error)), ""
            return [visit, parts.trail(visit), results, gr.Accordion(visible=bool(look)), look]

        def with_inputs(visit: Visit) -> list[Any]:
            """The same, and the reference and the inputs."""
            picture = visit.now.reference
            name = site.name_of(picture) if picture else ""
            return [*answer(visit), parts.reference(picture, name), *inputs_of(visit.now, filters)]

        def searched(visit: Visit, *given: Any) -> list[Any]:
            try:
                return answer(visit.asks(asked_from(visit.now, filters, list(given))))
            except UserError as error:
                return [visit, parts.trail(visit), parts.problem(str(error)), gr.Accordion(visible=False), ""]

        def clicked(visit: Visit, event: gr.EventData, *given: Any) -> list[Any]:
            what, which = str(event._data.get("act")), str(event._data.get("id"))
            try:
                asked = asked_from(visit.now, filters, list(given))
                after = act(replace(visit, now=asked), what, which)
            except UserError as error:
                return [visit, parts.trail(visit), parts.problem(str(error)), gr.Accordion(visible=False), "",
                        *[gr.skip()] * (1 + len(inputs))]
            if what in ("reference", "clear") and not after.now.texts:
                if what == "clear" and after.now.is_empty:
                    after = replace(after, shown=after.now.k)
            return with_inputs(after)

        def opened(request: gr.Request) -> list[Any]:
            pairs = list(request.query_params.multi_items())
            try:
                asked = from_link(pairs)
            except UserError as error:
                return [*answer_problem(str(error)), gr.skip(), *[gr.skip()] * len(inputs)]
            if asked.is_empty:
                return [gr.skip()] * (len(answers) + 1 + len(inputs))
            return with_inputs(Visit(asked, shown=asked.k))

        def answer_problem(message: str) -> list[Any]:
            return [Visit(), "", parts.problem(message), gr.Accordion(visible=False), ""]

        private = {"api_visibility": "private", "show_progress": "hidden"}
        address = {"fn": None, "js": _ADDRESS, "api_visibility": "private"}
        for asks in (text.submit, search.click, alpha.release, *[one.change for one in chosen]):
            asks(searched, [visit, *inputs], answers, **private).then(**address)
        for one in (shown, begin, rounds, found):
            one.act(clicked, [visit, *inputs], [*answers, shown, *inputs], **private).then(**address)
        page.load(opened, None, [*answers, shown, *inputs], **private)
        _interface(site)
    return page


def _interface(site: Site) -> None:
    """The same functions for programs."""
    import base64
    import binascii

    def search(link: str, image: str = "") -> dict:
        """Search. `link` is the part of a link behind its question mark, such as text=a+red+dress.
        `image` is a reference picture, the bytes of its file in base64."""
        from urllib.parse import parse_qsl

        try:
            asked = from_link(parse_qsl(link.removeprefix("?"), max_num_fields=100))
            if image:
                content = base64.b64decode(image, validate=True)
                asked = replace(asked, reference=site.upload(content))
            return site.values(asked)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from None
        except (binascii.Error, ValueError):
            raise gr.Error("the image is no base64; encode its bytes.", print_exception=False) from None

    gr.api(search, api_name="search", queue=False)
