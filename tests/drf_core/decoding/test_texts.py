"""A text is usable when there is something to read in it."""

from __future__ import annotations

import pytest

from drf_core.decoding.texts import text_reason


@pytest.mark.parametrize("text", ["a", " ok ", "😀", "مرحبا", "?", "0"])
def test_anything_readable_is_usable(text: str) -> None:
    assert text_reason(text) is None


@pytest.mark.parametrize("text", ["", "   \n\t ", "\u00a0\u2003", "\u200b\u200f", "\x00\x07"])
def test_white_space_and_control_characters_are_blank(text: str) -> None:
    assert text_reason(text) == "blank"


def test_no_text_is_missing() -> None:
    assert text_reason(None) == "missing"


@pytest.mark.parametrize(
    "text",
    [
        "\u2800\u2800",
        "\ufffd\ufffd",
        "\u3164",
        "\ufe0f",
        "\u034f\u115f",
        "\U000e0041",
        "\u00ad \ufffd",
    ],
)
def test_what_no_font_shows_is_blank(text: str) -> None:
    assert text_reason(text) == "blank"
    assert text_reason(f"{text}a") is None
