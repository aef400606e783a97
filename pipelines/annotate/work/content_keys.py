"""What a post consists of, as a key: posts with equal keys are annotated alike."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import NamedTuple

import pyarrow as pa
from xxhash import xxh3_128_digest


class Content(NamedTuple):
    """Hashes of a post's text and image, None where it has none, and where the image lies."""

    text: bytes | None
    image: bytes | None
    image_uri: str | None


# Nobody outside this process can make two contents that it takes for one.
_SEED = random.SystemRandom().getrandbits(64)


def contents_of(
    texts: Sequence[str | None],
    images: Sequence[memoryview | None],
    image_uris: Sequence[str | None],
) -> list[Content]:
    """Return the content of each post, from its columns."""
    return [
        Content(
            None if text is None else xxh3_128_digest(text.encode(), _SEED),
            None if image is None else xxh3_128_digest(image, _SEED),
            uri,
        )
        for text, image, uri in zip(texts, images, image_uris, strict=True)
    ]


def views(column: pa.LargeBinaryArray) -> list[memoryview | None]:
    """Return each value where Arrow holds it, not a copy; None for null."""
    if column.null_count == len(column):
        return [None] * len(column)
    _, offsets, data = column.buffers()
    whole = memoryview(data or b"")
    ends = memoryview(offsets).cast("b").cast("q")[column.offset : column.offset + len(column) + 1]
    valid = column.is_valid().to_pylist() if column.null_count else [True] * len(column)
    places = itertools.pairwise(ends.tolist())
    return [
        whole[first:end] if ok else None for (first, end), ok in zip(places, valid, strict=True)
    ]
