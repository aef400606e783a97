"""Which posts share a text or an image with other posts, for a score without them."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy.fft import dctn

from drf_core.decoding.images import decode_image
from schemas.posts import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS

# Shorter texts ("good morning", or nothing but a link) are alike by accident.
_FEWEST_WORDS = 4
# Of the 128 bits of a look. On real tweets, copies that were scaled, compressed or had their
# brightness changed differed by at most 10, different images by at least 25.
_MOST_DIFFERENT_BITS = 14
# Grey levels; flatter images look all alike.
_LEAST_CONTRAST = 5.0

_ADDRESSED = re.compile(r"https?\S+|www\.\S+|(?<!\w)@\w+|^\s*rt\b")
# A character of a script without spaces counts as a word.
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")


@dataclass(frozen=True)
class Fingerprint:
    """What a post is recognised by; None where it has no text, image or enough of them.

    text, image: hashes of the normalised text and of the image's bytes. look (128,) bool:
    perceptual hash of the image.
    """

    text: bytes | None
    image: bytes | None
    look: np.ndarray | None


def fingerprint(text: str | None, image: bytes | None) -> Fingerprint:
    """What a post is recognised by; image: the encoded file."""
    words = normalised(text or "")
    return Fingerprint(
        _hash(" ".join(words).encode()) if len(words) >= _FEWEST_WORDS else None,
        _hash(image) if image else None,
        look(image),
    )


def normalised(text: str) -> list[str]:
    """The words of a text without case, punctuation, links, mentions and a leading RT."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return _WORD.findall(_ADDRESSED.sub(" ", plain))


def look(image: bytes | None) -> np.ndarray | None:
    """Perceptual hash of an encoded image, (128,) bool.

    Half of it compares neighbours in a 9 x 8 thumbnail (dHash), half the lowest frequencies
    with their median (pHash). None for an image that does not decode or is all but flat.
    """
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


def _hash(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=16).digest()
