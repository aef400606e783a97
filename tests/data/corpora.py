"""Small posts for tests, made on the spot: every accepted type, every fault, hive nights.

The same arguments give the same bytes.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

Post = dict[str, Any]

IMAGE_STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

_TEXTS = (
    "What a lovely morning at the lake",
    "The train is late again, I hate this line",
    "Minutes of the meeting are online",
    "Best concert of my life! 🎉🎉",
    "شكرا جزيلا لكم",
)


def image_bytes(
    number: int = 0,
    *,
    size: tuple[int, int] = (48, 32),
    mode: str = "RGB",
    format: str = "JPEG",
    **save_options: Any,
) -> bytes:
    """A small drawn image; each number gives another one."""
    picture = Image.new("RGB", size, (37 * number % 256, 91 * number % 256, 180))
    draw = ImageDraw.Draw(picture)
    width, height = size
    if min(size) > 10:
        draw.ellipse((number % 7, 2, width * 2 // 3, height - 2), fill=(240, 53 * number % 256, 60))
    written = io.BytesIO()
    picture.convert(mode).save(written, format=format, **save_options)
    return written.getvalue()


def rotated_jpeg(number: int = 0) -> bytes:
    """A JPEG stored on its side (48 x 32), with the EXIF note to turn it upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return image_bytes(number, exif=exif)


def bomb_png(side: int = 20_000) -> bytes:
    """A black PNG of side x side pixels in some tens of kilobytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    compress = zlib.compressobj(9)
    line = bytes(1 + (side + 7) // 8)
    pixels = b"".join(compress.compress(line) for _ in range(side)) + compress.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


def make_posts(count: int, first: int = 0) -> list[Post]:
    """Posts with nothing wrong: post_id "p0", "p1", … from `first` on, text and a JPEG."""
    return [
        {
            "post_id": f"p{number}",
            "text": f"{_TEXTS[number % len(_TEXTS)]} {number}",
            "image": image_bytes(number),
        }
        for number in range(first, first + count)
    ]


@dataclass(frozen=True)
class FaultyPost:
    """A post with one fault, and what must become of it.

    text_reason, image_reason: as in the annotation, or None where the modality is usable.
    dead_letter: the reason where the post cannot be annotated at all.
    """

    name: str
    post: Post
    text_reason: str | None = None
    image_reason: str | None = None
    dead_letter: str | None = None


def faulty_posts() -> list[FaultyPost]:
    """One post for each fault that a platform's export has."""
    text, image = "a fine day", image_bytes(5)
    jpeg = image_bytes(6, size=(320, 240), quality=95)

    def fault(name: str, text: str | None, image: bytes | None, **expected: Any) -> FaultyPost:
        return FaultyPost(name, {"post_id": name, "text": text, "image": image}, **expected)

    return [
        fault("no-text", None, image, text_reason="missing"),
        fault("blank-text", " \n\u200b\t", image, text_reason="blank"),
        fault("no-image", text, None, image_reason="missing"),
        fault("html", text, b"<!DOCTYPE html><p>404</p>", image_reason="undecodable"),
        fault("truncated", text, jpeg[: len(jpeg) // 2], image_reason="truncated"),
        fault("bomb", text, bomb_png(), image_reason="too_large"),
        fault("nothing", None, None, dead_letter="no_usable_modality"),
        fault("blank-and-html", " ", b"<html>", dead_letter="no_usable_modality"),
        FaultyPost(
            "no-id", {"post_id": None, "text": text, "image": image}, dead_letter="no_post_id"
        ),
    ]


def odd_posts() -> list[Post]:
    """Posts that are unusual, but have nothing wrong: both modalities must be used."""
    images = {
        "one-pixel": image_bytes(1, size=(1, 1)),
        "png-rgba": image_bytes(2, mode="RGBA", format="PNG"),
        "png-palette": image_bytes(2, mode="P", format="PNG"),
        "gif": image_bytes(3, mode="P", format="GIF"),
        "webp": image_bytes(4, format="WEBP"),
        "cmyk": image_bytes(5, mode="CMYK"),
        "grey": image_bytes(6, mode="L"),
        "rotated": rotated_jpeg(7),
    }
    texts = {
        "emoji": "😡😡😡",
        "right-to-left": "يوم جميل جدا",
        "very-long": "word " * 5_000,
        "one-character": "k",
    }
    return [
        *({"post_id": name, "text": "hello", "image": image} for name, image in images.items()),
        *({"post_id": name, "text": text, "image": image_bytes()} for name, text in texts.items()),
    ]


def write_posts(
    path: str | Path,
    posts: Sequence[Post],
    *,
    types: Mapping[str, pa.DataType] | None = None,
    row_group_rows: int | None = None,
    **write_options: Any,
) -> Path:
    """Write posts as one Parquet file, making its folders.

    types: columns and their types; by default post_id and text as string, image as binary.
    IMAGE_STRUCT takes images that are bytes, or dicts of bytes and path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    types = types or {"post_id": pa.string(), "text": pa.string(), "image": pa.binary()}
    columns = {
        name: pa.array([_as_type(post.get(name), type_) for post in posts], type_)
        for name, type_ in types.items()
    }
    options: dict[str, Any] = {"compression": "zstd", **write_options}
    pq.write_table(pa.table(columns), path, row_group_size=row_group_rows, **options)
    return path


def write_nights(
    root: str | Path,
    nights: Sequence[str] = ("2026-11-17", "2026-11-18"),
    *,
    files_per_night: int = 2,
    posts_per_file: int = 10,
    **write_options: Any,
) -> list[Path]:
    """Write root/dt=NIGHT/part-0000N.parquet; ids run on from file to file."""
    paths: list[Path] = []
    for night in nights:
        for part in range(files_per_night):
            posts = make_posts(posts_per_file, first=len(paths) * posts_per_file)
            path = Path(root) / f"dt={night}" / f"part-{part:05d}.parquet"
            paths.append(write_posts(path, posts, **write_options))
    return paths


def damage_footer(path: Path) -> None:
    """Overwrite the footer: the file still ends in Parquet's mark, but says nothing."""
    content = path.read_bytes()
    path.write_bytes(content[:-64] + b"\xff" * 56 + content[-8:])


def damage_page(path: Path, column: str = "image", row_group: int = 0) -> None:
    """Overwrite a column's pages in one row group; the footer stays good."""
    group = pq.ParquetFile(path).metadata.row_group(row_group)
    chunk = next(
        group.column(index)
        for index in range(group.num_columns)
        if group.column(index).path_in_schema.split(".")[0] == column
    )
    offset = chunk.dictionary_page_offset or chunk.data_page_offset
    with path.open("r+b") as file:
        file.seek(offset + chunk.total_compressed_size // 4)
        file.write(b"\xff" * (chunk.total_compressed_size // 2))


def _as_type(value: Any, type_: pa.DataType) -> Any:
    if pa.types.is_struct(type_) and isinstance(value, bytes):
        return {"bytes": value, "path": None}
    return value
