"""The page on the configuration of `drf train` says what the settings say."""

from __future__ import annotations

from tests.support.config_page import PAGE, config_page


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == config_page(), (
        "run python -m tests.support.config_page"
    )
