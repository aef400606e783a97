"""Images as exports carry them in columns: base64, data: URIs, addresses, paths, lists of those.

One value says by itself which it is: `data:…` holds the image, `…://…` or a path that begins
with `/` says where it lies; all else is a path below the folder that the job was given for
them. Where it was given none, what ends like an image file's name stays an address, which the
fetcher refuses, and the rest is the image's bytes, in base64 or as other exports write them.
"""

from __future__ import annotations

import base64
import re
import urllib.parse
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

# What pandas, databases and JSON write for nothing, where it became text.
_NO_VALUES = ("nan", "none", "null", "<na>")
# How base64 of JPEG, PNG, GIF and WebP begins, and a data: URI; no image does.
_TEXT_HEADS = (b"/9j/", b"iVBO", b"R0lG", b"UklG", b"data", b"DATA")
_FILE_NAME = re.compile(r"\.(jpe?g|png|webp|gif|bmp|tiff?|heic|avif)$", re.IGNORECASE)


def nth_of_lists(column: pa.Array, place: int) -> pa.Array:
    """The value at a place (from 0) of each list, null where there is none.

    Any other column is its own first value.
    """
    if not is_list(column.type):
        return column if place == 0 else pa.nulls(len(column), column.type)
    if pa.types.is_fixed_size_list(column.type):
        column = column.cast(pa.list_(column.type.value_type))
    starts = pc.cast(column.offsets.slice(0, len(column)), pa.int64())
    wanted = pc.if_else(
        pc.greater(pc.list_value_length(column), place), pc.add(starts, place), None
    )
    return column.values.take(wanted)


def is_list(found: pa.DataType) -> bool:
    """Whether a column holds lists: one post, several media."""
    return (
        pa.types.is_list(found)
        or pa.types.is_large_list(found)
        or pa.types.is_fixed_size_list(found)
    )


def decode_bytes(column: pa.Array) -> pa.Array:
    """Images of a column of them (large_binary), where some are the bytes of a text that holds one.

    Python's base64.b64encode returns bytes, and they stay bytes in a table.
    """
    heads = pc.binary_slice(column, 0, 4)
    is_text = pc.is_in(heads, pa.array(_TEXT_HEADS, heads.type))
    if not pc.any(is_text).as_py():
        return column
    return pa.array([value and decoded(value) for value in column.to_pylist()], column.type)


def decoded(value: bytes) -> bytes | None:
    """An image's bytes, where they may be those of a text that holds it."""
    if value[:4] not in _TEXT_HEADS:
        return value
    return decode_text(value.decode("utf-8", "replace"), "")[0]


def decode_texts(column: pa.Array, folder: str) -> tuple[pa.Array, pa.Array]:
    """Images (large_binary) and addresses (large_string) that texts stand for, else null.

    column: texts. folder: URL or absolute path that relative paths begin at, "" for none.
    """
    images: list[bytes | None] = []
    uris: list[str | None] = []
    for value in column.to_pylist():
        image, uri = decode_text(value, folder)
        images.append(image)
        uris.append(uri)
    return pa.array(images, pa.large_binary()), pa.array(uris, pa.large_string())


def resolve_uris(column: pa.Array, folder: str) -> tuple[pa.Array | None, pa.Array]:
    """Images and addresses of a column of addresses, most of which are what they are already.

    column: large_string. Returns None in place of images where no address holds one. An address is
    without the white space around it, and null where nothing is left, or what stands for nothing.
    """
    column = pc.utf8_trim_whitespace(column)
    none = pc.is_in(pc.utf8_lower(column), pa.array(["", *_NO_VALUES], column.type))
    column = pc.if_else(none, None, column)
    inline = pc.any(pc.starts_with(column, "data:", ignore_case=True)).as_py()
    if not inline and not folder:
        return None, column
    values: Sequence[str | None] = column.to_pylist()
    pairs = [
        # Without a folder a relative address stays one, for the fetcher to refuse.
        decode_text(v, folder) if v and (folder or holds_image(v)) else (None, v)
        for v in values
    ]
    images = pa.array([image for image, _ in pairs], pa.large_binary())
    return images, pa.array([uri for _, uri in pairs], pa.large_string())


def decode_text(value: str | None, folder: str = "") -> tuple[bytes | None, str | None]:
    """The image, or its address, that a text stands for. folder: see `decode_texts`."""
    value = value.strip() if value else None
    if not value or value.lower() in _NO_VALUES:
        return None, None
    if holds_image(value):
        head, _, body = value.partition(",")
        if not head.replace(" ", "").lower().endswith(";base64"):
            return urllib.parse.unquote_to_bytes(body) or None, None
        return _from_text(urllib.parse.unquote(body)) or None, None
    if "://" in value:
        return None, value
    if folder and not value.startswith("/"):
        # As Windows writes it, or with "./" before it, which is refused like "..".
        parts = [part for part in value.replace("\\", "/").split("/") if part != "."]
        return None, "/".join([folder.rstrip("/"), *parts])
    if folder:
        return None, value
    if _FILE_NAME.search(value):
        return None, value
    # `/9j/…` is no path: JPEG begins so in base64.
    return _from_text(value), None


def holds_image(address: str) -> bool:
    """Whether an address is an image by itself."""
    return address[:5].lower() == "data:"


def _from_text(text: str) -> bytes:
    """Bytes that became text: in base64, also that of URLs, hexadecimal, or as Python shows them.

    What is cut short is read as far as it goes.
    """
    try:
        if text[:2] in (r"\x", "0x"):
            return bytes.fromhex(text[2 : len(text) // 2 * 2])
        if text[:2] in ("b'", 'b"'):
            text = text[2:-1]
            if "\\" in text:
                return text.encode("latin-1").decode("unicode_escape").encode("latin-1")
        plain = "".join(text.split()).replace("-", "+").replace("_", "/").rstrip("=")
        plain = plain[: len(plain) - (len(plain) % 4 == 1)]
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except ValueError:
        # Not null: an image was there, and cannot be decoded.
        return text.encode()
