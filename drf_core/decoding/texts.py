"""Whether a text says anything."""

from __future__ import annotations

import unicodedata

from schemas.reasons import ModalityReason


def text_reason(text: str | None) -> ModalityReason | None:
    """Why a text cannot be used: missing, blank, or None for a usable one.

    Blank: no character that is not white space, control or format (zero-width) character.
    """
    if text is None:
        return ModalityReason.MISSING
    usable = any(
        not character.isspace() and unicodedata.category(character) not in ("Cc", "Cf")
        for character in text
    )
    return None if usable else ModalityReason.BLANK
