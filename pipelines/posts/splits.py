"""Which post goes to which split, when nobody published one.

Posts that share a text or an image form a group, and a group stays on one side. The side is a
hash of the seed and the group's smallest post id (numbers by their value), so it depends on
nothing else in the corpus: adding posts moves no other post, and shares are 8:1:1 only up to
the chance of that hash (a tenth of 4,500 posts comes out as 450 +- 20).

Both promises cannot always be kept at once: a new post that shares a text with one group and
an image with another joins the two, and the group with the larger smallest id moves to the side
of the other. A new post with a smaller id than its group's moves that group, too. Here, sides
free of leaks win over stability. Whoever needs a split frozen gives it as files.
"""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Sequence

SPLITS = ("train", "dev", "test")

_SHARES = (0.8, 0.9)

# Shorter texts ("happy birthday" is at the border) are often the same by chance, and would
# glue strangers together.
_LEAST_CHARACTERS = 12

# Twitter cuts off a retweet's end, and the cut often goes through a URL: "http", "http:/…", "h…".
_URL = re.compile(r"\bhttps?\b\S*|\bwww\.\S+")
_CUT_URL = re.compile(r"\bh(?:tt?)?(?:…|\.{3})\s*$")
_RETWEET = re.compile(r"\brt\s+@\w+\s*:?")
_MENTION = re.compile(r"@\w+")
_NO_WORD = re.compile(r"[\W_]+")


def comparable_text(text: str) -> str:
    """What two texts must have in common to be the same text: their letters and digits.

    Case, white space, punctuation, emoji, HTML escapes, URLs, mentions and the prefix of a
    retweet do not count. "" for a text that has too few characters left to tell posts apart.
    Edits, and retweets that were cut off in the middle of the text, are not found.
    """
    plain = html.unescape(text).casefold()
    for pattern in (_CUT_URL, _URL, _RETWEET, _MENTION):
        plain = pattern.sub(" ", plain)
    kept = _NO_WORD.sub("", plain)
    return kept if len(kept) >= _LEAST_CHARACTERS else ""


def fingerprints(text: str | None, image: bytes | None) -> tuple[bytes, ...]:
    """What a post may share with others: hashes of its text and of its image's bytes."""
    found = []
    if text and (plain := comparable_text(text)):
        found.append(b"t" + hashlib.blake2b(plain.encode(), digest_size=16).digest())
    if image:
        found.append(b"i" + hashlib.blake2b(image, digest_size=16).digest())
    return tuple(found)


def group_posts(shared: Sequence[Sequence[bytes]]) -> list[int]:
    """Return the group of each post; posts with a fingerprint in common are in one.

    shared: per post, its fingerprints. A group's number is that of its first post.
    """
    parent = list(range(len(shared)))

    def find(post: int) -> int:
        while parent[post] != post:
            parent[post] = parent[parent[post]]
            post = parent[post]
        return post

    first: dict[bytes, int] = {}
    for post, found in enumerate(shared):
        for fingerprint in found:
            one, other = sorted((find(first.setdefault(fingerprint, post)), find(post)))
            parent[other] = one
    return [find(post) for post in range(len(shared))]


def assign_splits(post_ids: Sequence[str], groups: Sequence[int], seed: int) -> list[str]:
    """Return the split of each post, the same for all posts of a group."""
    smallest: dict[int, str] = {}
    for post_id, group in zip(post_ids, groups, strict=True):
        known = smallest.setdefault(group, post_id)
        if _order(post_id) < _order(known):
            smallest[group] = post_id
    sides = {group: _side(post_id, seed) for group, post_id in smallest.items()}
    return [sides[group] for group in groups]


def _order(post_id: str) -> tuple[bool, int, str]:
    number = post_id.isascii() and post_id.isdigit()
    return (not number, int(post_id) if number else 0, post_id)


def _side(post_id: str, seed: int) -> str:
    digest = hashlib.blake2b(f"{seed}:{post_id}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / 2**64
    return SPLITS[sum(place >= share for share in _SHARES)]
