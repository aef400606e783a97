"""Files and images that stopped, slowed or filled the job when it parsed them itself."""

from __future__ import annotations

import functools
import io
import random
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from tests.data.corpora import make_posts, write_posts


@functools.cache
def slow_jpeg(side: int = 4000, scans: int = 2000) -> bytes:
    """A progressive JPEG whose last scan comes again and again: seconds for each megabyte."""
    buffer = io.BytesIO()
    Image.new("L", (side, side), 90).save(buffer, "JPEG", progressive=True, quality=30)
    plain = buffer.getvalue()
    last = plain.rindex(b"\xff\xda")
    # With the tables that it needs, which come before it.
    tables = plain.rindex(b"\xff\xc4", 0, last)
    return plain[:-2] + plain[tables:-2] * scans + plain[-2:]


def large_webp(side: int = 16383) -> bytes:
    """46 bytes of lossless WebP that unpack to a gigabyte."""
    payload = b"\x2f" + struct.pack("<I", (side - 1) | (side - 1) << 14) + bytes(20)
    body = b"WEBPVP8L" + struct.pack("<I", len(payload)) + payload
    return b"RIFF" + struct.pack("<I", len(body)) + body


def repeated_value(path: Path, column: str, size: int, rows: int = 256) -> Path:
    """A file of a few kilobytes: one value of `size` bytes in a dictionary, on all rows."""
    posts = {"post_id": [f"r{n}" for n in range(rows)], "text": ["a fine day"] * rows}
    posts["image"] = [None] * rows  # type: ignore[list-item]
    value = b"x" * size if column == "image" else "x" * size
    posts[column] = [value] * rows  # type: ignore[list-item]
    types = {"post_id": pa.string(), "text": pa.string(), "image": pa.binary()}
    arrays = []
    for name, values in posts.items():
        if name == column:
            indices = pa.array(np.zeros(rows, np.int32))
            arrays.append(pa.DictionaryArray.from_arrays(indices, pa.array([value], types[name])))
        else:
            arrays.append(pa.array(values, types[name]))
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(arrays, names=list(posts)), path, compression="zstd")
    return path


def mutated_parquet(seed: int, rows: int = 12) -> Iterator[bytes]:
    """Small files of posts, each with a few bytes changed: in the footer, or anywhere."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        path = write_posts(Path(folder) / "posts.parquet", make_posts(rows), row_group_rows=5)
        plain = path.read_bytes()
    footer = len(plain) - 8 - int.from_bytes(plain[-8:-4], "little")
    while True:
        broken = bytearray(plain)
        first = footer if chance.random() < 0.7 else 4
        for _ in range(chance.choice([1, 1, 2, 4])):
            broken[chance.randrange(first, len(broken) - 4)] = chance.randrange(256)
        yield bytes(broken)
