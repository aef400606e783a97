"""Bytes of unknown encoding as text."""

from __future__ import annotations


def decode_text(raw: bytes) -> tuple[str, str]:
    """Return a text file's text and the encoding it was read with; no byte string fails.

    UTF-8 where it is valid. MVSA's texts that are not were saved on a Chinese Windows: their
    apostrophes, ellipses and Cyrillic letters are GBK (GB 18030 contains it), and Windows-1252
    would turn each into two wrong characters. UTF-8 or GB 18030 with damaged places is taken
    where more characters fit than do not; a single accented letter or a typographic quote
    among ASCII does not fit, and is Windows-1252, or Latin-1 where that has no such byte.
    """
    try:
        return raw.decode("utf-8-sig"), "utf-8"
    except UnicodeDecodeError:
        pass
    for encoding in ("utf-8", "gb18030"):
        text = raw.decode(encoding, "replace")
        foreign = [character for character in text if character > "\x7f"]
        fitting = sum(_fits(character, encoding) for character in foreign)
        if 2 * fitting > len(foreign):
            return text, encoding
    try:
        return raw.decode("cp1252"), "cp1252"
    except UnicodeDecodeError:
        return raw.decode("latin-1"), "latin-1"


def _fits(character: str, encoding: str) -> bool:
    # A GBK pair whose second byte is ASCII is more likely two characters: 0x92 0x74 is the
    # end of "don't" in Windows-1252.
    return character != "\ufffd" and character.encode(encoding)[1] > 0x7F
