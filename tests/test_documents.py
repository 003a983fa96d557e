"""Links, paths and names in the documentation exist."""

import re
from pathlib import Path

import pytest

from pretrain.recipes import CONTRAST_RECIPES, FINETUNE_RECIPES, RECIPES, VISUAL_TOKENIZER_RECIPES
from tests.support.documents import DOCUMENTS, inline_code, names_of, without_blocks
from tests.support.launch import ROOT

FOLDERS = ("data_pipeline", "docs", "ds_configs", "model", "pretrain", "slurm", "tests", ".ci")
PATH = re.compile(rf"(?:{'|'.join(map(re.escape, FOLDERS))})(?:/[\w.*-]*)+")
DOTTED = re.compile(r"[a-z_]+(?:\.\w+)+")
MAX_LINES_OF_README = 150


def links(path: Path) -> list[str]:
    """Return the targets of links and pictures."""
    return re.findall(r"\]\(([^)\s]+)\)", without_blocks(path.read_text()))


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub makes of headings."""
    headings = re.findall(r"^#+ (.+)$", without_blocks(path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=names_of(DOCUMENTS))
def test_every_relative_link_leads_to_a_file_and_a_heading(path: Path) -> None:
    for link in links(path):
        if re.match(r"https?://", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists() and target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("path", DOCUMENTS, ids=names_of(DOCUMENTS))
def test_every_path_of_the_project_that_is_named_exists(path: Path) -> None:
    for code in inline_code(path.read_text()):
        for named in PATH.findall(code):
            assert any(ROOT.glob(named.rstrip("/."))), named


def is_a_name_in_the_code(dotted: str) -> bool:
    """Return whether package.module.name is defined in the source of that module or package."""
    *parents, name = dotted.split(".")
    path = ROOT.joinpath(*parents)
    sources = [source for source in (path.with_suffix(".py"), path / "__init__.py") if source.is_file()]
    is_module = (path / f"{name}.py").is_file() or (path / name).is_dir()
    return is_module or any(re.search(rf"\b{name}\b", source.read_text()) for source in sources)


def is_a_setting(dotted: str) -> bool:
    """Return whether the recipes have a field of that name."""
    recipes = (
        RECIPES["demo"],
        CONTRAST_RECIPES["contrast_demo"],
        FINETUNE_RECIPES["easy_vqa"],
        VISUAL_TOKENIZER_RECIPES["demo"],
    )
    for config in (recipe() for recipe in recipes):
        value: object = config
        for name in dotted.split("."):
            value = getattr(value, name, None) if hasattr(value, name) else ...
        if value is not ...:
            return True
    return False


@pytest.mark.parametrize("path", DOCUMENTS, ids=names_of(DOCUMENTS))
def test_every_dotted_name_is_in_the_code_or_a_setting(path: Path) -> None:
    prefixes = {"model", "pretrain", "data_pipeline", "tests", "data", "objective", "optimizer", "codebook"}
    files = ("json", "jsonl", "py", "md", "sbatch", "sh", "spm", "pt", "safetensors", "pth", "npy", "txt")
    for code in inline_code(path.read_text()):
        for dotted in DOTTED.findall(re.sub(r"--\S*|\S*[/:]\S*", "", code)):
            parts = dotted.split(".")
            if parts[0] in prefixes and parts[-1] not in files:
                assert is_a_name_in_the_code(dotted) or is_a_setting(dotted), dotted


def test_a_wrong_name_would_be_found() -> None:
    assert is_a_setting("objective.whole_image_share") and not is_a_setting("objective.whole_image_shares")
    assert is_a_name_in_the_code("model.load_pretrained") and not is_a_name_in_the_code("model.load_pretrainedd")
    assert anchors(ROOT / "README.md") >= {"pretraining-on-your-own-data", "how-it-works"}


def test_the_readme_stays_short_and_the_index_lists_every_page() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= MAX_LINES_OF_README
    listed = links(ROOT / "docs" / "README.md")
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"} <= set(listed)


def test_contributing_has_a_question_for_every_folder() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    rows = re.findall(r"^\| `([\w/]+)/` \|", text, re.MULTILINE)
    packages = {
        path.parent for name in ("model", "data_pipeline", "pretrain") for path in ROOT.glob(f"{name}/*/__init__.py")
    }
    assert len(packages) > 15 and set(names_of(sorted(packages))) <= set(rows)
    assert all((ROOT / name).is_dir() for name in rows)


def test_every_page_begins_with_its_purpose_for_the_reader() -> None:
    for path in sorted((ROOT / "docs").glob("*.md")):
        if path.name != "README.md":
            title, blank, opening = path.read_text().splitlines()[:3]
            assert (title[:2], blank) == ("# ", "") and opening.startswith("After reading this page you "), path
