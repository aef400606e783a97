"""Whether a text says anything."""

from __future__ import annotations

import functools
import re
import unicodedata

from schemas.reasons import ModalityReason

# Unicode's Default_Ignorable_Code_Point (DerivedCoreProperties.txt, Unicode 16), as ranges: what
# is drawn as nothing where a font does not know better; and U+2800, an empty braille cell.
_IGNORABLE = re.compile(
    "[\u00ad\u034f\u061c\u115f-\u1160\u17b4-\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e"
    "\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
# Stands for bytes that were no text; alone it says nothing.
_REPLACEMENT = "\ufffd"


def text_reason(text: str | None) -> ModalityReason | None:
    """Why a text cannot be used: missing, blank, or None for a usable one.

    Blank: no character that any font shows; white space, control and format characters,
    those that Unicode says to ignore, U+2800, and U+FFFD alone.
    """
    if text is None:
        return ModalityReason.MISSING
    return None if any(map(_visible, text)) else ModalityReason.BLANK


@functools.lru_cache(maxsize=4096)
def _visible(character: str) -> bool:
    return not (
        character.isspace()
        or character == _REPLACEMENT
        or unicodedata.category(character) in ("Cc", "Cf")
        or _IGNORABLE.match(character)
    )
