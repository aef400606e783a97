"""How a post is written for an encoder that knows tweets."""

from __future__ import annotations

import html
import re
import unicodedata

# What is drawn as a picture in a text: emoji, dingbats, and letters that stand for flags.
_PICTURE = re.compile(
    "[\u203c\u2049\u2139\u2194-\u21aa\u231a-\u23ff\u25aa-\u25fe\u2600-\u27bf\u2934-\u2935\u2b05-\u2b55"
    "\u3030\u303d\u3297\u3299\U0001f000-\U0001faff]"
)
# Variation selectors, joiners, skin tones, tags and keycaps: how a sign is drawn, not which.
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u20e3"
    "\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001f3fb-\U0001f3ff\U000e0000-\U000e0fff]"
)
_ADDRESS = re.compile(r"(?:https?://|www\.|pic\.twitter\.com/)\S+", re.IGNORECASE)
_MENTION = re.compile(r"(?<![\w@.])@\w{1,30}")
# Letters alone: 10000 is no long 1000.
_ELONGATED = re.compile(r"([^\W\d_])\1{3,}")
_REPEATED_PICTURE = re.compile(r"(" + _PICTURE.pattern + r")(?:\s*\1){2,}")
# Words of Unicode's names that say how a picture is drawn.
_OF_DRAWING = frozenset(
    ["black", "white", "heavy", "sign", "symbol", "regional", "indicator", "letter"]
)
_SPACES = re.compile(r"\s+")


def plain_tweet(text: str) -> str:
    """A post as an encoder for tweets reads it (our own reading; addresses and names as TweetEval).

    Addresses become "http", mentions "@user", entities the character they stand for; emoji become
    their Unicode name ("loudly crying face"), of a row of the same at most two; letters repeated
    more than three times three; what is invisible goes, and white space becomes one space.
    """
    # First, since an entity may stand for an emoji.
    if "&" in text:
        text = html.unescape(text)
    if not text.isascii():
        text = _INVISIBLE.sub("", text)
        text = _REPEATED_PICTURE.sub(r"\1\1", text)
        text = _PICTURE.sub(_spell, text)
    text = _ADDRESS.sub("http", text)
    text = _MENTION.sub("@user", text)
    text = _ELONGATED.sub(r"\1\1\1", text)
    return _SPACES.sub(" ", text).strip()


def _spell(match: re.Match[str]) -> str:
    words = unicodedata.name(match[0], "").lower().split()
    return f" {' '.join(word for word in words if word not in _OF_DRAWING)} "
