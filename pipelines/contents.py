"""What a post consists of, as a key: posts with equal keys are annotated alike."""

from __future__ import annotations

import random
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


def contents_of(posts: pa.RecordBatch) -> list[Content]:
    """Return the content of each row of a coerced batch (schemas.posts.coerce_posts)."""
    texts, images, uris = (posts.column(name) for name in ("text", "image", "image_uri"))
    return [
        Content(_hash(text), _hash(image), uri)
        for text, image, uri in zip(texts, images, uris.to_pylist(), strict=True)
    ]


def _hash(value: pa.Scalar) -> bytes | None:
    # Hashed where Arrow holds it, without a copy.
    return xxh3_128_digest(value.as_buffer(), _SEED) if value.is_valid else None
