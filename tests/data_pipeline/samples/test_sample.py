"""Names in messages, reasons of bad samples, and texts that are refused."""

import pytest

from data_pipeline.samples.sample import MAX_PRINTED, BadSampleError, check_text, is_blank, is_utf8, printable


def test_a_name_is_escaped_and_cut_in_the_middle() -> None:
    assert printable("a\x1b[2Jb\udce9") == "a\\x1b[2Jb\\xe9"
    long = printable("a" * MAX_PRINTED + "z")
    assert long.startswith("aaa") and long.endswith("aaz") and "..." in long and len(long) == MAX_PRINTED + 3


def test_a_reason_is_the_message_without_its_details() -> None:
    error = BadSampleError("text holds a NUL (at character 3)")
    assert (error.reason, error.details) == ("text holds a NUL", " (at character 3)")


@pytest.mark.parametrize("text", ["", " \n", "\u200b\u2028\ufeff", "a\0"])
def test_a_text_without_a_visible_character_or_with_a_nul_is_refused(text: str) -> None:
    assert is_blank(text) == ("a" not in text)
    with pytest.raises(BadSampleError):
        check_text(text)


def test_bytes_that_are_not_utf_8_show_in_a_name() -> None:
    assert is_utf8("caf\xe9") and not is_utf8("caf\udce9")
