"""The command pretrain.report, and its page as readers see it: in Chromium, on a desktop, on a phone, in the dark."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pretrain.report import main
from tests.support.browser import REMEDY, Browser, Screen, Tab, find_chromium, running_browser
from tests.support.tiny_run import TinyData
from tests.support.written_runs import write_run

DESKTOP, PHONE = Screen(1200, 900), Screen(390, 844, is_phone=True)
DARK = Screen(1200, 900, is_dark=True)
TOO_WIDE = """[...document.querySelectorAll("body *")].filter(element => !element.closest(".scroll")
    && !element.closest("svg") && element.getBoundingClientRect().right > innerWidth + 0.5).map(e => e.outerHTML)"""
CONTRAST = """(() => {
    const rgb = text => text.match(/[\\d.]+/g).slice(0, 3).map(Number);
    const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
    const light = color => rgb(color).map(v => linear(v / 255))
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const paper = light(getComputedStyle(document.body).backgroundColor);
    return [...document.querySelectorAll("p, dt, dd, a, td, figcaption, .area > span, b, .legend li, .cells span")]
        .map(e => light(getComputedStyle(e).color))
        .map(ink => (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05));
})()"""
"""Contrast of texts with the page, as WCAG 2.2 defines it."""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no/such/run"], "error: no/such/run does not exist; give the folder of a run"),
        ([], "RUN is missing; give one run folder or several"),
        (["run", "--num-images", "-1"], "num-images"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pretrain.report", *arguments])
    with pytest.raises(SystemExit, match="2"):
        main()
    printed = capsys.readouterr().err
    assert said in printed and len(printed.splitlines()) == 1


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if find_chromium() is None:
        pytest.skip(REMEDY)
    with running_browser(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture(scope="module")
def page(two_ranks: Path, tiny_data: TinyData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a page with everything: two runs, one with pictures, one with held-out figures."""
    folder = tmp_path_factory.mktemp("report")
    other = write_run(folder / "a_run_with_quite_a_long_name_that_has_to_be_cut_on_a_phone", 40, {7: {"skipped": True}})
    with pytest.MonkeyPatch.context() as patch:
        arguments = [str(two_ranks), str(other), "--out", str(folder / "page.html"), "--num-images", "2"]
        patch.setattr(sys, "argv", ["report", *arguments, "--held-out", str(tiny_data.folder / "pairs")])
        main()
    return folder / "page.html"


def ready(browser: Browser, page: Path, screen: Screen) -> Tab:
    """Open the page with all details unfolded."""
    tab = browser.open(page, screen)
    tab.evaluate('document.querySelectorAll("details").forEach(details => details.open = true)')
    return tab


@pytest.mark.parametrize("screen", [DESKTOP, PHONE, DARK], ids=["desktop", "phone", "dark"])
def test_the_page_fits_the_screen_and_can_be_read(browser: Browser, page: Path, screen: Screen) -> None:
    tab = ready(browser, page, screen)
    assert tab.evaluate("[innerWidth, document.documentElement.scrollWidth]") == [screen.width, screen.width]
    assert tab.evaluate(TOO_WIDE) == []
    text = tab.evaluate("document.body.innerText")
    for heading in ("Time line", "Losses", "Held-out evaluation", "What the network sees", "Data seen", "Facts"):
        assert heading in text
    contrasts = tab.evaluate(CONTRAST)
    assert len(contrasts) > 100 and min(contrasts) >= 4.5
    sizes = tab.evaluate(
        '[...document.querySelectorAll(".area > span")].map(e => parseFloat(getComputedStyle(e).fontSize))'
    )
    assert min(sizes) >= 12
    paper = tab.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(paper) < 60) == screen.is_dark
    assert tab.evaluate("[...document.images].filter(image => !image.complete || !image.naturalWidth).length") == 0
    assert tab.evaluate("document.images.length") == 2 * 2 + 2 * 4
    assert tab.complaints == []


def test_charts_are_drawn_in_their_frame(browser: Browser, page: Path) -> None:
    tab = ready(browser, page, PHONE)
    frames = tab.evaluate(
        """[...document.querySelectorAll(".chart:not(.strip) svg[role=img]")].map(svg => {
            const frame = svg.getBoundingClientRect();
            const boxes = [...svg.querySelectorAll("g path")].map(path => path.getBoundingClientRect());
            return [frame.width, frame.height, boxes.length,
                boxes.every(box => box.left > frame.left - 8 && box.right < frame.right + 8
                    && box.top > frame.top - 8 && box.bottom < frame.bottom + 8)];
        })"""
    )
    assert len(frames) > 10
    assert all(width > 250 and height > 150 and curves and fits for width, height, curves, fits in frames)


def test_the_pointer_shows_values(browser: Browser, page: Path) -> None:
    tab = ready(browser, page, DESKTOP)
    x, y = tab.evaluate(
        """(() => {
            const svg = document.querySelector("#losses .chart svg");
            svg.scrollIntoView({behavior: "instant", block: "center"});
            const frame = svg.getBoundingClientRect();
            return [frame.left + frame.width / 2, frame.top + frame.height / 2];
        })()"""
    )
    tab.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    lines = tab.evaluate('document.querySelector("#losses output").innerText').splitlines()
    assert lines[0] == "step 20" and len(lines) == 3
    name, value = lines[2].rsplit("  ", 1)
    assert name.startswith("a_run_with") and 8 < float(value) < 16
    assert tab.complaints == []
