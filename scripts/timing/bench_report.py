"""Time how long a browser takes to open a report, or any HTML file."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shutil import which

from gatedcir.errors import UserError
from gatedcir.options.parsing import parse

_REPEATS = 5
_LOADED = "performance.getEntriesByType('navigation')[0].loadEventEnd"


@dataclass(frozen=True)
class Options:
    """What to open."""

    report: Path
    """The file."""


def main(argv: Sequence[str] | None = None) -> None:
    """Print MB and milliseconds."""
    options = parse(Options, argv, description=__doc__)
    if not options.report.is_file():
        raise UserError(f"there is no file {options.report}; make it with gatedcir report.")
    program = which("chromium") or which("chromium-headless-shell")
    if program is None:
        raise UserError("there is no Chromium here; install Debian's chromium.")
    from playwright.sync_api import sync_playwright

    times = []
    with sync_playwright() as playwright:
        flags = ["--no-sandbox", "--disable-gpu"]
        browser = playwright.chromium.launch(executable_path=program, args=flags)
        for _ in range(_REPEATS):
            page = browser.new_page()
            page.goto(options.report.absolute().as_uri())
            times.append(page.evaluate(_LOADED))
            pictures = page.evaluate("document.images.length")
            page.close()
        browser.close()
    print(
        f"{options.report.stat().st_size / 1e6:.1f} MB, {pictures} pictures, opened in "
        f"{statistics.median(times):.0f} ms (median of {_REPEATS}, longest "
        f"{max(times):.0f} ms)"
    )


if __name__ == "__main__":
    from gatedcir.errors import run_command

    run_command(main)
