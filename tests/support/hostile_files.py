"""Files and images that stopped, slowed or filled the job when it parsed them itself."""

from __future__ import annotations

import base64
import functools
import io
import random
import struct
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pqe
from PIL import Image

from tests.data.corpora import bomb_png, image_bytes, make_posts, write_posts


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


def tags_on_one_slice(segments: int = 40, size: int = 60_000) -> bytes:
    """A JPEG whose EXIF tags all point at one slice: gigabytes, for who makes a copy for each."""
    entries = b"".join(struct.pack("<HHII", 0x9000 + n, 7, 40_000, 12_100) for n in range(1000))
    exif = (b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 1000) + entries).ljust(size, b"x")
    plain = image_bytes(1)
    return plain[:2] + (b"\xff\xe1" + struct.pack(">H", size + 2) + exif) * segments + plain[2:]


def small_tiles(side: int = 1500) -> bytes:
    """A TIFF of tiles of one pixel, each with its own place and length: half a minute of Pillow."""
    count = side * side
    tags = [(256, side), (257, side), (258, 8), (259, 1), (262, 1), (277, 1), (322, 1), (323, 1)]
    first = 8 + 2 + 12 * (len(tags) + 2) + 4
    entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags]
    entries += [struct.pack("<HHII", 324 + n, 4, count, first + 4 * count * n) for n in (0, 1)]
    head = b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)
    return head + np.full(count, first, "<u4").tobytes() + np.ones(count, "<u4").tobytes()


def png_in_icon(side: int = 13_300) -> bytes:
    """An ICO that says it has 16 pixels a side, and holds a PNG of 177 million."""
    png = bomb_png(side)
    return struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(png), 22) + png


def png_in_icns(side: int = 13_300) -> bytes:
    """The same as Apple's icon."""
    png = bomb_png(side)
    inner = b"ic07" + struct.pack(">I", len(png) + 8) + png
    return b"icns" + struct.pack(">I", len(inner) + 8) + inner


def gif_of_comments() -> bytes:
    """A GIF before whose picture come four megabytes of comments, which some join one by one."""
    plain = image_bytes(2, mode="P", format="GIF")
    start = 13 + (3 << (plain[10] & 7) + 1)
    return plain[:start] + (b"\x21\xfe" + (b"\xff" + b"c" * 255) * 40 + b"\0") * 400 + plain[start:]


def fits() -> bytes:
    """Two blocks of FITS, of which a reader makes a picture for seconds."""
    cards = [
        "SIMPLE  = T",
        "BITPIX  = 8",
        "NAXIS   = 2",
        "NAXIS1  = 60000",
        "NAXIS2  = 60000",
        "END",
    ]
    return "".join(card.ljust(80) for card in cards).encode().ljust(5760, b" ")


def hostile_images() -> dict[str, tuple[bytes, str | None]]:
    """Images that did harm, and the reason that is right, None where there is a picture."""
    png = image_bytes(3, format="PNG")
    profile = b"iCCPx\0\0" + zlib.compress(bytes(64 << 20))
    chunk = struct.pack(">I", len(profile) - 4) + profile + struct.pack(">I", zlib.crc32(profile))
    return {
        "progressive": (slow_jpeg(), "timed_out"),
        "lossless": (large_webp(), "too_large"),
        "tags": (tags_on_one_slice(), None),
        "one-tag-slice": (tags_on_one_slice(segments=1, size=65_000), None),
        "tiles": (small_tiles(), "timed_out"),
        "ico": (png_in_icon(), "undecodable"),
        "icns": (png_in_icns(), "undecodable"),
        "bomb": (bomb_png(), "too_large"),
        "comments": (gif_of_comments(), None),
        "fits": (fits(), "undecodable"),
        "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "undecodable"),
        "html": (b"<html>gone</html>", "undecodable"),
        "profile": (png[:33] + chunk + png[33:], None),
        "no-end-mark": (image_bytes(4)[:-2], None),
    }


def hostile_footers(folder: Path) -> list[str]:
    """Files whose footers ended the whole run; returns their names."""
    posts = [{**post, "lang": "en"} for post in make_posts(12)]
    types = {"post_id": pa.string(), "text": pa.string(), "image": pa.binary(), "lang": pa.string()}
    plain = write_posts(folder / "plain.parquet", posts, types=types).read_bytes()
    (folder / "plain.parquet").unlink()
    length = int.from_bytes(plain[-8:-4], "little")
    footer, pages = plain[-8 - length : -8], plain[: -8 - length]
    name = footer.index(b"text")
    # Thrift: field 3 of an element of the schema, then its name, field 4.
    assert footer[name - 4 : name] == b"\x25\x02\x18\x04"
    # Of each column the schema has its name first, then its chunk.
    text = footer.index(b"text", name + 4)
    lang = footer.index(b"lang", footer.index(b"lang") + 4)
    swapped = bytearray(footer)
    swapped[text : text + 4], swapped[lang : lang + 4] = b"lang", b"text"
    many = b"\x16" + _varint(2 * 10**12)
    footers = {
        "repeated": footer[: name - 3] + b"\x04" + footer[name - 2 :],
        "swapped": bytes(swapped),
        "many-rows": footer.replace(b"\x16\x18", many),
    }
    for kind, changed in footers.items():
        end = struct.pack("<I", len(changed)) + b"PAR1"
        (folder / f"{kind}.parquet").write_bytes(pages + changed + end)
    _encrypted(folder / "encrypted.parquet", pa.Table.from_pylist(posts))
    return sorted(f"{kind}.parquet" for kind in (*footers, "encrypted"))


def _varint(value: int) -> bytes:
    groups = [value >> shift & 0x7F for shift in range(0, value.bit_length(), 7)]
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])


def _encrypted(path: Path, posts: pa.Table) -> None:
    """Columns that only who has a key can read, behind a footer that all can."""

    class NoKeys(pqe.KmsClient):
        def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> str:
            return base64.b64encode(key_bytes).decode()

        def unwrap_key(self, wrapped_key: str, master_key_identifier: str) -> bytes:
            raise KeyError

    asked = pqe.EncryptionConfiguration(
        "footer", column_keys={"k": ["text"]}, plaintext_footer=True
    )
    factory = pqe.CryptoFactory(lambda _: NoKeys())
    how = factory.file_encryption_properties(pqe.KmsConnectionConfig(), asked)
    with pq.ParquetWriter(path, posts.schema, encryption_properties=how) as writer:
        writer.write_table(posts)


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
