"""The layout of a plan."""

from pretrain.planning.sections import WIDTH, fact, paragraph, section


def test_a_section_has_an_underlined_heading_and_a_fact_its_origin() -> None:
    assert section("Storage", [fact("a checkpoint", "26.0 MB", "counted")]).splitlines() == [
        "Storage",
        "-------",
        "a checkpoint" + " " * 31 + "26.0 MB  counted",
    ]


def test_a_paragraph_breaks_between_words_only() -> None:
    option = "--gradient-accumulation-steps " * 20
    lines = paragraph(option).splitlines()
    assert len(lines) > 4 and all(len(line) <= WIDTH and line.startswith("--grad") for line in lines)
