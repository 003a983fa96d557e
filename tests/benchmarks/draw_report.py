"""python -m tests.benchmarks.draw_report RUN [--held-out FOLDER]: the pictures of a report in docs/images.

Writes the report of a run and takes a picture of it on a desktop, on a phone (three places of the page side by side)
and in dark mode. It needs Chromium; on Debian or Ubuntu: apt-get install chromium.
"""

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from PIL import Image

from pretrain.reporting.options import ReportOptions
from pretrain.reporting.report import write_report
from tests.support.browser import REMEDY, Browser, Screen, find_chromium, running_browser

ROOT = Path(__file__).parents[2]
DESKTOP, PHONE, DARK = Screen(1180, 1500), Screen(390, 844, is_phone=True), Screen(1180, 1500, is_dark=True)
PLACES = ("header", "#losses", "#pictures h3")
"""Elements at the top of the phone's screen."""
GAP = 24
"""Pixels between screens of the phone."""


@dataclass(frozen=True)
class DrawOptions:
    """A report as pictures: report_desktop.png, report_phone.png and report_dark.png."""

    run: Annotated[Path, tyro.conf.Positional]
    """The run's folder."""
    held_out: Path | None = None
    """As --held-out of pretrain.report."""
    folder: Path = ROOT / "docs" / "images"
    """Folder to write the pictures to."""


def main() -> None:
    options = tyro.cli(DrawOptions)
    if find_chromium() is None:
        sys.exit(f"error: {REMEDY}")
    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch) / "report.html"
        try:
            print(write_report(ReportOptions((options.run,), out=page, held_out=options.held_out)))
        except (ValueError, OSError) as error:
            sys.exit(f"error: {error}")
        with running_browser(Path(scratch) / "profile") as browser:
            draw(browser, page, options.folder)


def draw(browser: Browser, page: Path, folder: Path) -> None:
    """Write the three pictures."""
    scratch = page.parent
    take(browser, page, DESKTOP, "header", folder / "report_desktop.png")
    take(browser, page, DARK, "#pictures", folder / "report_dark.png")
    screens = []
    for number, place in enumerate(PLACES):
        take(browser, page, PHONE, place, scratch / f"{number}.png")
        screens.append(Image.open(scratch / f"{number}.png").convert("RGB"))
    width = sum(screen.width for screen in screens) + GAP * (len(screens) - 1)
    together = Image.new("RGB", (width, screens[0].height), "#8d949e")
    for number, screen in enumerate(screens):
        together.paste(screen, (number * (screen.width + GAP), 0))
    together.save(folder / "report_phone.png", optimize=True)


def take(browser: Browser, page: Path, screen: Screen, place: str, path: Path) -> None:
    """Write what a screen shows once the element is scrolled to its top."""
    tab = browser.open(page, screen)
    tab.evaluate(f'document.querySelector("{place}").scrollIntoView({{behavior: "instant"}})')
    tab.screenshot(path)
    print(path)


if __name__ == "__main__":
    main()
