"""The page: where its parts stand, and what each of them asks the site."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from gatedcir.errors import UserError
from gatedcir.page import parts
from gatedcir.page.asked import (
    MOST_ALPHA,
    MOST_BYTES,
    MOST_LETTERS,
    MOST_RESULTS,
    Asked,
    Visit,
    from_link,
)
from gatedcir.page.inputs import MORE_TEXTS, Filters, act, asked_from, filters_of, inputs_of
from gatedcir.page.site import Site

_EXAMPLES = 6  # pictures to begin with
_HERE = Path(__file__).parent
CSS = (_HERE / "page.css").read_text(encoding="utf-8")
_JS = (_HERE / "page.js").read_text(encoding="utf-8").replace("MOST_BYTES", str(MOST_BYTES))
_OWN: dict[str, Any] = {"padding": False, "apply_default_css": False, "js_on_load": _JS}
_BOX = "What the text does to the reference"
_ADDRESS = """() => {
  const link = document.querySelector("[data-link]");
  if (link) history.replaceState(null, "", link.getAttribute("href"));
}"""


class Answers:
    """What the page's parts show after an event: lists of values, one for each part."""

    def __init__(self, site: Site, filters: Filters, count: int) -> None:
        self.site, self.filters = site, filters
        self._same = [gr.skip()] * (1 + count)  # the reference and the inputs, as they are

    def answer(self, visit: Visit) -> list[Any]:
        """Visit, rounds, box, maps and results."""
        both = visit.now.reference and visit.now.texts
        look = parts.looks(self.site.look(visit.now)) if both else ""
        results = parts.results(visit, self.site.find(visit.now, shown=visit.shown))
        return [visit, parts.trail(visit), gr.Accordion(visible=bool(look)), look, results]

    def refused(self, visit: Visit, error: UserError) -> list[Any]:
        """The same, with one sentence in place of results."""
        sentence = parts.problem(str(error))
        return [visit, parts.trail(visit), gr.Accordion(visible=False), "", sentence]

    def with_inputs(self, visit: Visit) -> list[Any]:
        """The same, the reference, and the inputs."""
        picture = visit.now.reference
        shows = parts.reference(picture, self.site.name_of(picture) if picture else "")
        try:
            found = self.answer(visit)
        except UserError as error:
            found = self.refused(visit, error)
        return [*found, shows, *inputs_of(visit.now, self.filters)]

    def searched(self, visit: Visit, *given: Any) -> list[Any]:
        """After Enter, or a change of an input: visit, rounds, box, maps and results."""
        try:
            return self.answer(visit.asks(asked_from(visit.now, self.filters, list(given))))
        except UserError as error:
            return self.refused(visit, error)

    def clicked(self, visit: Visit, event: gr.EventData, *given: Any) -> list[Any]:
        """After a click on an own part: everything."""
        what, which = str(event._data.get("act")), str(event._data.get("id"))
        try:
            asked = asked_from(visit.now, self.filters, list(given))
            seen = replace(visit, now=asked, shown=_shown(asked, event._data.get("shown")))
            return self.with_inputs(act(seen, what, which))
        except UserError as error:
            return [*self.refused(visit, error), *self._same]

    def opened(self, request: gr.Request) -> list[Any]:
        """When the page opens, maybe by a link: everything."""
        try:
            asked = from_link(list(request.query_params.multi_items()))
        except UserError as error:
            return [*self.refused(Visit(), error), *self._same]
        if asked.is_empty:
            return [*[gr.skip()] * 5, *self._same]
        return self.with_inputs(Visit(replace(asked, start=0), shown=asked.k))


def _shown(asked: Asked, cards: Any) -> int:
    """How many results are shown again, where a visitor has seen so many cards."""
    return max(asked.k, min(MOST_RESULTS, cards if isinstance(cards, int) else 0))


def make_page(site: Site) -> gr.Blocks:
    """The page of a site."""
    filters = filters_of(site.engines[0].fields())
    with gr.Blocks(title="gatedcir", analytics_enabled=False, fill_width=True) as page:
        visit = gr.State(Visit())
        names = " and ".join(site.names)
        gr.HTML(parts.title(f"Search {len(site)} images with {names}", site.judges), **_OWN)
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                shown = gr.HTML(parts.reference(None, ""), **_OWN)
                begin = gr.HTML(parts.examples(site.examples(_EXAMPLES)), **_OWN)
                text = _text_box("How to change it", placeholder="make it red", elem_id="gc-text")
                search = gr.Button("Search", variant="primary", elem_id="gc-search")
                alpha, k = _sliders(site)
                more, chosen = _more_texts(), _filters(filters)
            with gr.Column(scale=3, min_width=320):
                rounds = gr.HTML("", **_OWN)
                with gr.Accordion(_BOX, open=True, visible=False) as box:
                    maps = gr.HTML("", **_OWN)
                found = gr.HTML(parts.welcome(), elem_id="gc-found", **_OWN)
        inputs = [text, k, alpha, *more, *chosen]
        answers = [visit, rounds, box, maps, found]
        everything = [*answers, shown, *inputs]

        does = Answers(site, filters, len(inputs))
        private = {"api_visibility": "private", "show_progress": "hidden"}
        address = {"fn": None, "js": _ADDRESS, "api_visibility": "private"}
        for asks in (text.submit, search.click, alpha.release, *map(_asks, chosen)):
            asks(does.searched, [visit, *inputs], answers, **private).then(**address)
        for one in (shown, begin, rounds, found):
            one.act(does.clicked, [visit, *inputs], everything, **private).then(**address)
        page.load(does.opened, None, everything, **private)
        _interface(site)
    return page


def _text_box(label: str, **more: Any) -> gr.Textbox:
    return gr.Textbox(label=label, lines=1, max_lines=3, max_length=MOST_LETTERS, **more)


def _sliders(site: Site) -> tuple[gr.Slider, gr.Slider]:
    """Alpha and k."""
    info = "0: the text does not touch the image"
    if not site.has_fusion:
        info = "this model has no fusion, so alpha has no effect"
    label = "alpha, times the learned one"
    active = site.has_fusion
    alpha = gr.Slider(0, MOST_ALPHA, 1, step=0.05, label=label, info=info, interactive=active)
    return alpha, gr.Slider(4, 60, Asked.k, step=4, label="results on a page (k)")


def _more_texts() -> list[Any]:
    """The weight of the first text, and more texts with theirs."""
    with gr.Accordion("Several texts", open=False):
        found: list[Any] = [gr.Number(1, label="weight of the text above", step=0.1)]
        for number in range(2, 2 + MORE_TEXTS):
            found.append(_text_box(f"text {number}"))
            found.append(gr.Number(1, label=f"weight of text {number}", step=0.1))
    return found


def _asks(filter: Any) -> Any:
    """The event after which a filter is searched with: a range is first typed to its end."""
    return filter.submit if isinstance(filter, gr.Textbox) else filter.input


def _filters(filters: Filters) -> list[Any]:
    """A list or a range for each field of the metadata."""
    if not filters.lists and not filters.ranges:
        return []
    with gr.Accordion("Filters", open=True):
        lists = [
            gr.Dropdown(values, value=[], multiselect=True, label=field)
            for field, values in filters.lists.items()
        ]
        ranges = [gr.Textbox(label=field, placeholder="10..50") for field in filters.ranges]
    return [*lists, *ranges]


def _interface(site: Site) -> None:
    """The same functions for programs."""
    import base64
    import binascii

    def search(link: str, image: str = "") -> dict:
        """Search.

        `link` is the part of a link behind its question mark, such as text=a+red+dress. `image` is
        a reference picture, the bytes of its file in base64.
        """
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
            raise gr.Error(
                "the image is no base64; encode its bytes.", print_exception=False
            ) from None

    gr.api(search, api_name="search", queue=False)
