"""The report on a data set: text, JSON, HTML."""

from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from gatedcir.doctor.findings import KINDS, Findings
from gatedcir.errors import plain
from gatedcir.outputs import PAGE_SIGN

SHOWN = 10  # findings of each kind in the text
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem }
summary { font-weight: 600; margin-top: 1rem } table { border-collapse: collapse; width: 100% }
td { border-bottom: 1px solid #ddd; padding: .2rem .6rem .2rem 0; overflow-wrap: anywhere }
"""


@dataclass(frozen=True)
class Report:
    """What was read, and what was found."""

    dataset: str
    folder: Path
    parts: dict[str, int]
    """Queries of each part."""
    absent: list[str]
    """Splits that are not there."""
    images: int | None
    """Images that were read. None if they were not asked for."""
    findings: Findings

    @property
    def summary(self) -> str:
        """What was read, in one line."""
        parts = ", ".join(f"{name} ({queries} queries)" for name, queries in self.parts.items())
        images = "images not read" if self.images is None else f"{self.images} images"
        absent = f"; not there: {', '.join(self.absent)}" if self.absent else ""
        return f"{parts or 'no part could be read'}, {images}{absent}"


def as_text(report: Report) -> str:
    """The report for a terminal, with the first findings of each kind."""
    lines = [f"{report.dataset} in {report.folder}: {report.summary}"]
    for kind, found in report.findings.by_kind().items():
        about = KINDS[kind]
        lines += [
            "",
            f"{len(found)} {about.title}",
            f"  training: {about.training}",
            f"  to change that: {about.way_out}",
            *(f"  - {plain(each.place)}: {plain(each.detail)}" for each in found[:SHOWN]),
        ]
        if len(found) > SHOWN:
            lines.append(f"  - and {len(found) - SHOWN} more, which --output FILE.json lists")
    lines += ["", f"{len(report.findings)} findings" if report.findings else "nothing is wrong"]
    return "\n".join(lines)


def as_json(report: Report) -> dict[str, Any]:
    """The whole report."""
    return {
        "dataset": report.dataset,
        "folder": str(report.folder),
        "queries": report.parts,
        "absent": report.absent,
        "images": report.images,
        "kinds": {
            kind: {"count": len(found), **KINDS[kind]._asdict()}
            for kind, found in report.findings.by_kind().items()
        },
        "findings": [vars(each) for each in report.findings],
    }


def as_html(report: Report) -> str:
    """The whole report as one page. Everything from the data set is shown as text."""
    title = escape(f"{report.dataset} in {report.folder}")
    sections = []
    for kind, found in report.findings.by_kind().items():
        about = KINDS[kind]
        rows = "\n".join(
            f"<tr><td>{_escaped(each.place)}</td><td>{_escaped(each.detail)}</td></tr>"
            for each in found
        )
        sections.append(
            f"<details open><summary>{len(found)} {escape(about.title)}</summary>"
            f"<p>Training: {escape(about.training)}.<br>"
            f"To change that: {escape(about.way_out)}.</p>"
            f"<table>\n{rows}\n</table></details>"
        )
    return "\n".join(
        (
            '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">',
            PAGE_SIGN,
            f"<title>{title}</title>\n<style>{_STYLE}</style>",
            f"<h1>{title}</h1>\n<p>{escape(report.summary)}</p>",
            *(sections or ["<p>nothing is wrong</p>"]),
            "</html>\n",
        )
    )


def _escaped(text: str) -> str:
    return escape(plain(text))


FORMS: dict[str, Callable[[Report], Any]] = {".json": as_json, ".html": as_html, ".txt": as_text}
"""The ending of a file -> its content."""
