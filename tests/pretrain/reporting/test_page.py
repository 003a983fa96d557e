"""The page as text: it is whole, needs nothing else, and nothing in the data becomes code."""

import base64
import hashlib
import re
from html.parser import HTMLParser
from pathlib import Path

import torch

from pretrain.reporting.caption_gallery import CaptionWithImage, ShownCaption, Word
from pretrain.reporting.page import render
from pretrain.reporting.pictures import Pictures
from pretrain.reporting.retrieval_gallery import Item, Query, RetrievalGallery
from pretrain.reporting.run_files import read_runs
from tests.support.written_runs import write_run

HOSTILE = "</style></title><script>alert(1)</script><img src=x onerror=alert(2)>\"'"
IMAGE = "data:image/png;base64,AAAA"


class Tags(HTMLParser):
    """All tags of a page with their attributes, and the content of its scripts."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] == "script" and not self.scripts:
            self.scripts.append(data)


def hostile_page(folder: Path) -> str:
    """Return the page of a run whose every text is hostile."""
    changed = {3: {"passes": {HOSTILE: {HOSTILE: 1.0}}, HOSTILE: {HOSTILE: 2.0}, "losses": {HOSTILE: 1.0}}}
    runs = read_runs([write_run(folder / "run", 40, changed, config={HOSTILE: HOSTILE, "data": {"pairs": [HOSTILE]}})])
    (folder / "run" / "environment.json").write_text(
        '{"starts": [{"time": 1, "first_step": 0, "versions": {"torch": "<b>"}, "ranks": [{"host": "<b>"}]}]}'
    )
    words = [Word(HOSTILE), Word(HOSTILE, HOSTILE, False), Word(HOSTILE, HOSTILE, True)]
    caption = ShownCaption(HOSTILE, CaptionWithImage(IMAGE, words), CaptionWithImage(IMAGE, words))
    query = Query(Item(HOSTILE), [Item(HOSTILE), Item(HOSTILE)], [True, False], 1, 2)
    retrieval = RetrievalGallery([query], [query])
    return render(read_runs([runs[0].folder]), [Pictures(HOSTILE, 40, None, [caption], [HOSTILE], retrieval)])


def test_texts_from_the_data_are_texts(tmp_path: Path) -> None:
    page = hostile_page(tmp_path)
    found = Tags(page)
    names = [name for name, _ in found.tags]
    assert names.count("script") == 1 and "alert" not in found.scripts[0]
    assert {attributes["src"] for name, attributes in found.tags if name == "img"} == {IMAGE}
    assert not any(name.startswith("on") for _, attributes in found.tags for name in attributes)
    assert (
        "&lt;script&gt;alert(1)" in page
        and "<script>alert" not in page
        and "<b>" not in page.split("</style>")[1][:500]
    )


def test_the_page_allows_no_script_but_its_own_and_no_network(tmp_path: Path) -> None:
    page = render(read_runs([write_run(tmp_path / "run")]), [])
    found = Tags(page)
    (policy,) = [values["content"] or "" for name, values in found.tags if values.get("http-equiv")]
    digest = base64.b64encode(hashlib.sha256(found.scripts[0].encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; img-src data:") and f"script-src 'sha256-{digest}'" in policy
    links = [value or "" for _, values in found.tags for name, value in values.items() if name in ("src", "href")]
    ids = {values["id"] for _, values in found.tags if "id" in values}
    assert links and all(link[1:] in ids for link in links)
    assert not re.search(r"url\((?!data:)|@import", page)


def test_a_page_of_a_run_without_a_step_is_a_page(tmp_path: Path) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    page = render(read_runs([tmp_path / "run"]), [])
    assert "No step logged yet" in page and "config.json is missing" in page


def test_several_runs_have_a_legend_and_their_differences(tmp_path: Path) -> None:
    folders = [write_run(tmp_path / name, config={"seed": seed}) for seed, name in enumerate(("first", "second"))]
    page = render(read_runs(folders), [])
    assert 'aria-label="Colors of the runs"' in page
    assert re.search(r"<td>seed</td><td>0</td><td>1</td>", page)


def test_right_answers_are_framed_and_images_shown(tmp_path: Path) -> None:
    image = Item(image=torch.full((3, 4, 4), 7, dtype=torch.uint8))
    query = Query(Item("a red circle"), [image, image, image], [False, True, False], 2, 1234)
    pictures = Pictures("run", 40, retrieval=RetrievalGallery([query], [query]))
    page = render(read_runs([write_run(tmp_path / "run", 40)]), [pictures])
    section = page[page.index('<section id="pictures">') :]
    section = section[: section.index("</section>")]
    assert section.count('<li class="right">') == 2 and section.count("<li>") == 4
    assert section.count(f'src="{image.uri}"') == 6 and section.count("a red circle") == 2
    assert "first right answer: 2" in section and "1,234 candidates" in section
