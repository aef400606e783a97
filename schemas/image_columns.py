"""Images as exports carry them in columns: base64, data: URIs, addresses, paths, lists of those.

One value says by itself which it is: `data:…` holds the image, `…://…` or a path that begins
with `/` says where it lies; all else is a path below the folder that the job was given for
them. Where it was given none, what ends like an image file's name stays an address, which the
fetcher refuses, and the rest is base64.
"""

from __future__ import annotations

import base64
import binascii
import re
import urllib.parse
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

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


def decode_texts(column: pa.Array, folder: str) -> tuple[pa.Array, pa.Array]:
    """Images (large_binary) and addresses (large_string) that texts stand for, else null.

    column: texts. folder: URL or absolute path that relative paths begin at, "" for none.
    """
    images: list[bytes | None] = []
    uris: list[str | None] = []
    for value in column.to_pylist():
        image, uri = _decode(value, folder)
        images.append(image)
        uris.append(uri)
    return pa.array(images, pa.large_binary()), pa.array(uris, pa.large_string())


def resolve_uris(column: pa.Array, folder: str) -> tuple[pa.Array | None, pa.Array]:
    """Images and addresses of a column of addresses, most of which are what they are already.

    Returns None in place of images where no address holds one.
    """
    inline = pc.any(pc.match_substring_regex(column, "^data:")).as_py()
    if not inline and not folder:
        return None, column
    values: Sequence[str | None] = column.to_pylist()
    pairs = [
        # Without a folder a relative address stays one, for the fetcher to refuse.
        _decode(v, folder) if v and (folder or v.startswith("data:")) else (None, v)
        for v in values
    ]
    images = pa.array([image for image, _ in pairs], pa.large_binary())
    return images, pa.array([uri for _, uri in pairs], pa.large_string())


def _decode(value: str | None, folder: str) -> tuple[bytes | None, str | None]:
    value = value.strip() if value else None
    if not value:
        return None, None
    if value.startswith("data:"):
        head, _, body = value.partition(",")
        if not head.endswith(";base64"):
            return urllib.parse.unquote_to_bytes(body) or value.encode(), None
        return _from_base64(urllib.parse.unquote(body)), None
    if "://" in value:
        return None, value
    if folder:
        return None, value if value.startswith("/") else f"{folder.rstrip('/')}/{value}"
    if _FILE_NAME.search(value):
        return None, value
    # `/9j/…` is no path: JPEG begins so in base64.
    return _from_base64(value), None


def _from_base64(text: str) -> bytes:
    compact = "".join(text.split())
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError):
        # Not null: an image was there, and cannot be decoded.
        return compact.encode()
