"""Which posts are the same, by text or image: groups for splits, and scores without copies.

A text is the same by what `comparable_text` leaves of it; an image by its bytes, for scores by
its look as well (scaled and compressed copies).
"""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from drf_core.corpus.images import StoredImage, image_bytes, image_digest
from drf_core.decoding.images import decode_image
from schemas.posts import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS

# Shorter texts ("happy birthday" is at the border) are often the same by chance, and would
# glue strangers together.
_LEAST_CHARACTERS = 12

# Twitter cuts off a retweet's end, and the cut often goes through a URL: "http", "http:/…", "h…".
_URL = re.compile(r"\bhttps?\b\S*|\bwww\.\S+")
_CUT_URL = re.compile(r"\bh(?:tt?)?(?:…|\.{3})\s*$")
_RETWEET = re.compile(r"\brt\s+@\w+\s*:?")
_MENTION = re.compile(r"@\w+")
_NO_WORD = re.compile(r"[\W_]+")

# Of the 128 bits of a look. On real tweets, copies that were scaled, compressed or had their
# brightness changed differed by at most 10, different images by at least 25.
_MOST_DIFFERENT_BITS = 14
# Grey levels; flatter images look all alike.
_LEAST_CONTRAST = 5.0


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


def fingerprints(text: str | None, image: bytes | StoredImage | None) -> tuple[bytes, ...]:
    """What a post may share with others: hashes of its text and of its image's bytes."""
    return tuple(one for one in (_text_hash(text), _image_hash(image)) if one)


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


@dataclass(frozen=True)
class Fingerprint:
    """What a post is recognised by; None where it has no text, image or enough of them.

    text, image: hashes of what is comparable of the text, and of the image's bytes.
    look (128,) bool: perceptual hash of the image.
    """

    text: bytes | None
    image: bytes | None
    look: np.ndarray | None


def fingerprint(text: str | None, image: bytes | StoredImage | None) -> Fingerprint:
    """What a post is recognised by; image: the encoded file."""
    return Fingerprint(_text_hash(text), _image_hash(image), look(image_bytes(image)))


def look(image: bytes | None) -> np.ndarray | None:
    """Perceptual hash of an encoded image, (128,) bool.

    Half of it compares neighbours in a 9 x 8 thumbnail (dHash), half the lowest frequencies
    with their median (pHash). None for an image that does not decode or is all but flat.
    """
    from scipy.fft import dctn

    picture, _ = decode_image(
        image, max_pixels=MAX_IMAGE_PIXELS, max_bytes=MAX_IMAGE_BYTES, target=64
    )
    if picture is None:
        return None
    grey = picture.convert("L")
    large = _thumbnail(grey, 32, 32)
    if large.std() < _LEAST_CONTRAST:
        return None
    small = _thumbnail(grey, 9, 8)
    low = dctn(large, norm="ortho")[:8, :8].ravel()
    return np.concatenate([(small[:, 1:] > small[:, :-1]).ravel(), low > np.median(low[1:])])


def near_duplicates(
    posts: Sequence[Fingerprint], others: Sequence[Fingerprint]
) -> tuple[np.ndarray, np.ndarray]:
    """Which posts share their text, and which their image, with any of the others; (n,) bool."""
    texts = {other.text for other in others} - {None}
    images = {other.image for other in others} - {None}
    same_text = np.array([post.text in texts for post in posts], dtype=bool)
    same_image = np.array([post.image in images for post in posts], dtype=bool)
    return same_text, same_image | _alike(posts, others)


def _alike(posts: Sequence[Fingerprint], others: Sequence[Fingerprint]) -> np.ndarray:
    found = np.zeros(len(posts), dtype=bool)
    rows = [row for row, post in enumerate(posts) if post.look is not None]
    theirs = [other.look for other in others if other.look is not None]
    if not rows or not theirs:
        return found
    # As signs, two looks' product is 128 less twice the bits in which they differ.
    known = _signs(theirs)
    least = known.shape[1] - 2 * _MOST_DIFFERENT_BITS
    for start in range(0, len(rows), 256):
        block = rows[start : start + 256]
        looks = _signs([look for row in block if (look := posts[row].look) is not None])
        found[block] = (looks @ known.T >= least).any(1)
    return found


def _signs(looks: Sequence[np.ndarray]) -> np.ndarray:
    return np.stack(looks).astype(np.float32) * 2 - 1


def _thumbnail(grey: Image.Image, width: int, height: int) -> np.ndarray:
    return np.asarray(grey.resize((width, height), Image.Resampling.LANCZOS), dtype=float)


def _text_hash(text: str | None) -> bytes | None:
    plain = comparable_text(text) if text else ""
    return hashlib.blake2b(plain.encode(), digest_size=16).digest() if plain else None


def _image_hash(image: bytes | StoredImage | None) -> bytes | None:
    return image_digest(image) if image else None
