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
from collections.abc import Sequence

SPLITS = ("train", "dev", "test")

_SHARES = (0.8, 0.9)


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
