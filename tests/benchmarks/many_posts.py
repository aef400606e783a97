"""Any number of posts, made from a few real ones so that no two have the same content.

Nothing is encoded anew: a copy costs as much to read, decode and tokenise as its original, but
neither its bytes nor its pixels nor its words are those of another copy, so that no cache and no
detection of duplicates can answer for it:

- JPEG: a comment segment with the copy's number, and small steps added to entries of its first
  quantisation table, which move all of its pixels a little.
- Other images, and what only pretends to be one: the number appended, which decoders ignore.
- Texts: one word replaced by another one of the corpus.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sample.command import make_sample
from schemas.posts import PostColumns, check_posts_schema, coerce_posts

NIGHTS = Path(__file__).resolve().parents[3] / "shared" / "corpora" / "nightly"
ROWS_PER_FILE, ROWS_PER_GROUP = 2_500, 250

_SCHEMA = pa.schema([("post_id", pa.string()), ("text", pa.string()), ("image", pa.binary())])
# Entries of the quantisation table in the file's order: low frequencies, which no scale of
# decoding drops, but not the mean.
_ENTRIES = range(1, 11)
_START_OF_SCAN, _TABLES, _COMMENT = 0xDA, 0xDB, 0xFE


class Originals:
    """Real posts, or those of the sample corpus where there are none.

    name: of the folder or file they come from, for the page: images of the sample are smaller.
    """

    def __init__(self, source: str | None, scratch: Path) -> None:
        folder = Path(source) if source else NIGHTS
        if not source and not folder.is_dir():
            folder = scratch / "sample"
            make_sample(folder)
        self.name = folder.name
        self.posts = read_posts(folder)
        self.words = sorted({word for post in self.posts for word in (post["text"] or "").split()})

    def copy(self, number: int) -> dict[str, Any]:
        """The number-th post: a copy of one of the originals, changed a little."""
        turn, place = divmod(number, len(self.posts))
        original = self.posts[place]
        post_id = original["post_id"] and f"{original['post_id']}-{turn}"
        return {
            "post_id": post_id,
            "text": original["text"] and self._changed_text(original["text"], number),
            "image": original["image"] and changed_image(original["image"], number),
        }

    def write(self, folder: Path, count: int, rows_per_file: int = ROWS_PER_FILE) -> Path:
        """Write `count` posts as files of a folder, which is returned."""
        folder.mkdir(parents=True)
        for first in range(0, count, rows_per_file):
            numbers = range(first, min(first + rows_per_file, count))
            write_posts(folder / f"part-{first:07d}.parquet", map(self.copy, numbers))
        return folder

    def _changed_text(self, text: str, number: int) -> str:
        words = text.split(" ")
        if not text.strip():
            return text
        # A prime step, so that the copies of a post draw different words.
        words[number % len(words)] = self.words[number * 7919 % len(self.words)]
        return " ".join(words)


def read_posts(source: Path) -> list[dict[str, Any]]:
    """post_id, text and image of every post of a file or folder, whatever its types."""
    posts: list[dict[str, Any]] = []
    for path in [source] if source.is_file() else sorted(source.rglob("*.parquet")):
        file = pq.ParquetFile(path)
        layout = check_posts_schema(file.schema_arrow, PostColumns(), (), str(path))
        for batch in file.iter_batches():
            posts += coerce_posts(batch, layout).select(_SCHEMA.names).to_pylist()
    return posts


def write_posts(path: Path, posts: Iterator[dict[str, Any]]) -> Path:
    """Write posts as one file."""
    with pq.ParquetWriter(path, _SCHEMA, use_dictionary=False) as writer:
        waiting: list[dict[str, Any]] = []
        for post in posts:
            waiting.append(post)
            if len(waiting) == ROWS_PER_GROUP:
                writer.write_table(pa.Table.from_pylist(waiting, _SCHEMA))
                waiting.clear()
        if waiting:
            writer.write_table(pa.Table.from_pylist(waiting, _SCHEMA))
    return path


def changed_image(data: bytes, number: int) -> bytes:
    """The same image, hardly different to the eye, with other bytes and, in a JPEG, pixels."""
    mark = struct.pack(">Q", number)
    if data[:2] != b"\xff\xd8":
        return data + mark
    image = bytearray(data)
    table = _quantisation_table(data)
    if table is not None:
        for bit, entry in enumerate(_ENTRIES):
            step = number >> bit & 1
            image[table + entry] = min(255, image[table + entry] + step)
    comment = struct.pack(">BBH", 0xFF, _COMMENT, 2 + len(mark)) + mark
    return bytes(image[:2]) + comment + bytes(image[2:])


def _quantisation_table(data: bytes) -> int | None:
    """Where the first table of one byte per entry begins."""
    place = 2
    while place + 4 <= len(data) and data[place] == 0xFF:
        marker, length = data[place + 1], struct.unpack_from(">H", data, place + 2)[0]
        if marker == _START_OF_SCAN:
            return None
        if marker == _TABLES:
            one_byte = data[place + 4] >> 4 == 0
            return place + 5 if one_byte and place + 69 <= len(data) else None
        place += 2 + length
    return None
