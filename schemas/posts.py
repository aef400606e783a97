"""Posts: the columns a job reads, the types it accepts, and the one form it works on."""

from __future__ import annotations

import dataclasses
import difflib
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from schemas.annotations import check_kept_names
from schemas.errors import SchemaError, UsageError
from schemas.image_columns import decode_bytes, decode_texts, is_list, nth_of_lists, resolve_uris

# Of a longer text the beginning is read, far more than any encoder sees; a longer id is none.
MAX_TEXT_CHARACTERS = 65_536
MAX_ID_CHARACTERS = 1_024

# Of a post's pictures, where all of them count; no network lets one have more.
MAX_MEDIA = 20

# An image above either is too large, unless a job says otherwise.
MAX_IMAGE_PIXELS = 50_000_000
MAX_IMAGE_BYTES = 20_000_000

# As Parquet writes one, with or without saying so.
_UUID_BYTES = 16

ROLES = ("post_id", "text", "image", "image_uri")

_TEXT_TYPES = "string, large_string, string_view or a dictionary of those"
_EXPECTED = {
    "post_id": f"{_TEXT_TYPES}, whole numbers, a UUID or UTF-8 bytes",
    "text": f"{_TEXT_TYPES}, or UTF-8 bytes",
    "image": "binary, struct<bytes: binary, path: string>, string (base64, data: URI, path), "
    "or a list of those",
    "image_uri": f"{_TEXT_TYPES}, or UTF-8 bytes",
}
# The column that says of a row what was broken about it, so that it has no values.
BROKEN = "(broken)"
_COERCED = pa.schema(
    [
        pa.field("post_id", pa.string()),
        pa.field("text", pa.large_string()),
        pa.field("image", pa.large_binary()),
        pa.field("image_uri", pa.large_string()),
        pa.field(BROKEN, pa.string()),
    ]
)
_MEDIUM = [_COERCED.field("image"), _COERCED.field("image_uri")]


@dataclass(frozen=True)
class PostColumns:
    """Which column of the input plays which role; None where the corpus has none.

    image: the image's bytes, or struct<bytes, path>, or text (see `schemas.image_columns`).
    image_uri: where its bytes can be fetched, used where image is null. Of a list, the first, or
    with all_media the first MAX_MEDIA.
    image_folder: URL or absolute path that relative paths of images begin at, "" for none.
    """

    post_id: str = "post_id"
    text: str | None = "text"
    image: str | None = "image"
    image_uri: str | None = "image_uri"
    image_folder: str = ""
    all_media: bool = False


@dataclass(frozen=True)
class PostsLayout:
    """What to read from one file.

    read: its columns to read. columns: the roles, None where the file has no such column.
    keep: the fields that travel through untouched.
    """

    read: tuple[str, ...]
    columns: PostColumns
    keep: tuple[pa.Field, ...] = ()


def parse_columns(items: Sequence[str], image_folder: str | None = None) -> PostColumns:
    """Return the columns that `--column ROLE=NAME` options ask for.

    items: "image=PICTURE" takes the role from that column, "image=" says there is none.
    image_folder: as `--image-folder` gives it; a local one is made absolute.
    Raises UsageError on another form, an unknown role, a role or column named twice, a
    post_id mapped to none, or both text and image with no image_uri in their place.
    """
    named: dict[str, str | None] = {}
    for item in items:
        role, equals, name = item.partition("=")
        if not equals:
            raise UsageError(f"--column {item}: write ROLE=NAME, such as image=PICTURE")
        if role not in ROLES:
            close = difflib.get_close_matches(role, ROLES, n=1)
            hint = f"did you mean {close[0]}?" if close else f"roles are {', '.join(ROLES)}"
            raise UsageError(f"--column {item}: no role '{role}'; {hint}")
        if role in named:
            raise UsageError(f"--column {item}: the role {role} is mapped twice; map it once")
        if role == "post_id" and not name:
            raise UsageError(f"--column {item}: posts need an id; name the column that has it")
        named[role] = name or None
    none = {role for role, name in named.items() if name is None}
    if none >= {"text", "image"} and not named.get("image_uri"):
        raise UsageError(
            "--column text= and image=: nothing is left to annotate; where images come by URI, "
            "name their column with image_uri=NAME"
        )
    folder = image_folder or ""
    if folder and "://" not in folder:
        folder = os.path.abspath(os.path.expanduser(folder))
    columns = dataclasses.replace(
        PostColumns(image_folder=folder),
        **named,  # type: ignore[arg-type]
    )
    roles_of: dict[str, str] = {}
    for role in ROLES:
        name_of_role = getattr(columns, role)
        if name_of_role is None:
            continue
        other = roles_of.setdefault(name_of_role, role)
        if other != role:
            raise UsageError(
                f"--column: {other} and {role} are both '{name_of_role}'; one column plays one role"
            )
    return columns


def check_posts_schema(
    schema: pa.Schema, columns: PostColumns, keep: Sequence[str], file: str
) -> PostsLayout:
    """Return what to read from a file with this schema.

    post_id must be there; so must text and one of image and image_uri, unless columns says
    that the corpus has none, and every column that was mapped by name or is kept.
    file: its name for messages, without credentials.
    Raises SchemaError where a column is missing, twice there, or of a type that does not
    fit; UsageError where a kept column cannot stand beside the annotation columns.
    """
    check_kept_names(keep)
    present: dict[str, str | None] = dict.fromkeys(ROLES)
    for role in ROLES:
        name = getattr(columns, role)
        if name is None:
            continue
        found = schema.get_all_field_indices(name)
        if not found:
            if role in ("post_id", "text") or name != role:
                raise _missing(schema, file, role, name)
            continue
        _check_single(found, file, name)
        _check_type(schema.field(found[0]).type, file, role, name)
        present[role] = name
    if columns.image is not None and present["image"] is None and present["image_uri"] is None:
        raise _missing(schema, file, "image", columns.image)
    for name in keep:
        found = schema.get_all_field_indices(name)
        if not found:
            raise SchemaError(
                file, name, "no such column", "the column named with --keep", _has(schema)
            )
        _check_single(found, file, name)
    names = [name for name in present.values() if name is not None]
    return PostsLayout(
        read=tuple(dict.fromkeys([*names, *keep])),
        columns=dataclasses.replace(columns, **present),  # type: ignore[arg-type]
        keep=tuple(schema.field(name) for name in keep),
    )


def coerce_posts(batch: pa.RecordBatch, layout: PostsLayout) -> pa.RecordBatch:
    """Return the posts in the one form that jobs work on.

    Columns, in this order: post_id (string), text (large_string), image (large_binary),
    image_uri (large_string), BROKEN (string), all null where the file has none, then the kept
    columns as they were read. One that is called like a role stands as `keep.NAME` here;
    `kept_columns` gives them back under their own names.

    Of struct<bytes, path>, path becomes image_uri where bytes is null; what text stands for an
    image is told in `schemas.image_columns`; of a list, the first value counts. With all_media
    the other pictures follow as more columns; `media_of` gives them. A blank image_uri is null.
    Bytes that are no UTF-8 become U+FFFD instead of failing the file.
    """
    columns, rows = layout.columns, batch.num_rows
    ids = _strings(_column(batch, columns.post_id, "post_id"), pa.string())
    text = pa.nulls(rows, pa.large_string())
    if columns.text is not None:
        text = _strings(_column(batch, columns.text, "text"), pa.large_string())
    media = [_medium(batch, columns, place) for place in range(_most_media(batch, columns))]
    broken = pa.nulls(rows, pa.string())
    if BROKEN in batch.schema.names:
        broken = batch.column(BROKEN)
    kept = [batch.column(field.name) for field in layout.keep]
    fields = [
        # One without a value has no type by its footer, and any in its pages.
        field.with_name(f"keep.{field.name}" if field.name in ROLES else field.name).with_type(
            column.type
        )
        for field, column in zip(layout.keep, kept, strict=True)
    ]
    more = [array for medium in media[1:] for array in medium]
    named = [f.with_name(f"{f.name}.{n}") for n in range(1, len(media)) for f in _MEDIUM]
    return pa.RecordBatch.from_arrays(
        [ids, text, *media[0], broken, *kept, *more],
        schema=pa.schema([*_COERCED, *fields, *named]),
    )


def media_of(batch: pa.RecordBatch, layout: PostsLayout) -> list[tuple[pa.Array, pa.Array]]:
    """Images and addresses of a coerced batch, by their place in the posts' lists."""
    more = batch.columns[len(_COERCED) + len(layout.keep) :]
    first = (batch.column("image"), batch.column("image_uri"))
    return [first, *zip(more[::2], more[1::2], strict=True)]


def _most_media(batch: pa.RecordBatch, columns: PostColumns) -> int:
    names = [name for name in (columns.image, columns.image_uri) if name is not None]
    lists = [batch.column(name) for name in names if is_list(batch.column(name).type)]
    if not columns.all_media:
        return 1
    most = [pc.max(pc.list_value_length(column)).as_py() or 1 for column in lists]
    return min(MAX_MEDIA, max([1, *most]))


def _medium(batch: pa.RecordBatch, columns: PostColumns, place: int) -> tuple[pa.Array, pa.Array]:
    """The image (large_binary) and address (large_string) at one place of each post's lists."""
    found = pa.nulls(batch.num_rows, pa.large_binary())
    address = pa.nulls(batch.num_rows, pa.large_string())
    if columns.image_uri is not None:
        uris = _strings(
            nth_of_lists(_column(batch, columns.image_uri, "image_uri"), place), pa.large_string()
        )
        inline, address = resolve_uris(uris, columns.image_folder)
        found = found if inline is None else inline
    if columns.image is None:
        return found, address
    image = nth_of_lists(_column(batch, columns.image, "image"), place)
    if _is_text(_plain(image.type)):
        texts = _strings(image, pa.large_string())
        image, named = decode_texts(texts, columns.image_folder)
        return pc.coalesce(image, found), pc.coalesce(named, address)
    if pa.types.is_struct(image.type):
        # flatten, unlike field, carries a null struct down to its children.
        children = dict(zip([field.name for field in image.type], image.flatten(), strict=True))
        held = decode_bytes(children["bytes"].cast(pa.large_binary()))
        if "path" in children:
            _, named = resolve_uris(
                _strings(children["path"], pa.large_string()), columns.image_folder
            )
            address = pc.coalesce(address, pc.if_else(held.is_null(), named, None))
        return pc.coalesce(held, found), address
    return pc.coalesce(decode_bytes(image.cast(pa.large_binary())), found), address


def kept_columns(batch: pa.RecordBatch, layout: PostsLayout) -> pa.RecordBatch:
    """Return the kept columns of a coerced batch alone, under the names they came with."""
    columns = batch.columns[len(_COERCED) : len(_COERCED) + len(layout.keep)]
    fields = [f.with_type(c.type) for f, c in zip(layout.keep, columns, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


def _column(batch: pa.RecordBatch, name: str, role: str) -> pa.Array:
    """The column that plays a role; one without a value has been allowed to have any type."""
    column = batch.column(name)
    if fits_role(column.type, role):
        return column
    if column.null_count < len(column):
        way_out = "its footer says that it holds no value; write the file again"
        raise SchemaError("its rows", name, str(column.type), _EXPECTED[role], way_out)
    return pa.nulls(len(column), pa.string())


def _check_single(found: Sequence[int], file: str, name: str) -> None:
    if len(found) > 1:
        raise SchemaError(
            file,
            name,
            f"{len(found)} columns of that name",
            "one",
            "rename the others in the input",
        )


def _missing(schema: pa.Schema, file: str, role: str, name: str) -> SchemaError:
    if role == "post_id":
        way_out = "name the column with --column post_id=NAME"
    elif role == "image":
        way_out = "name it with --column image=NAME or image_uri=NAME, or say --column image="
    else:
        way_out = f"name it with --column {role}=NAME, or say --column {role}="
    return SchemaError(file, name, "no such column", _EXPECTED[role], f"{way_out} ({_has(schema)})")


def _has(schema: pa.Schema, most: int = 12) -> str:
    names = schema.names[:most]
    more = f" and {len(schema.names) - most} more" if len(schema.names) > most else ""
    return f"the file has {', '.join(names) or 'no columns'}{more}"


def _check_type(found: pa.DataType, file: str, role: str, name: str) -> None:
    if not fits_role(found, role):
        raise SchemaError(
            file,
            name,
            str(found),
            _EXPECTED[role],
            f"convert it, or name another column with --column {role}=NAME",
        )


def fits_role(found: pa.DataType, role: str) -> bool:
    """Whether a column of this type can play a role."""
    if role.startswith("image") and is_list(found):
        found = found.value_type
    plain = _plain(found)
    if role == "post_id":
        whole = pa.types.is_decimal(plain) and plain.scale == 0
        if pa.types.is_fixed_size_binary(plain):
            return bool(plain.byte_width == _UUID_BYTES)
        known = _is_text(plain) or _is_bytes(plain) or pa.types.is_integer(plain)
        return known or whole or plain in (pa.uuid(), pa.null(), pa.float64())
    if _is_text(plain) or _is_bytes(plain) or pa.types.is_null(plain):
        # Hive and Impala write texts as bytes and do not say so.
        return True
    return role == "image" and _is_image_struct(plain)


def _plain(found: pa.DataType) -> pa.DataType:
    return found.value_type if pa.types.is_dictionary(found) else found


def _is_text(found: pa.DataType) -> bool:
    return pa.types.is_string(found) or pa.types.is_large_string(found) or found == pa.string_view()


def _is_bytes(found: pa.DataType) -> bool:
    return (
        pa.types.is_binary(found)
        or pa.types.is_large_binary(found)
        or pa.types.is_fixed_size_binary(found)
        or found == pa.binary_view()
    )


def _is_image_struct(found: pa.DataType) -> bool:
    if not pa.types.is_struct(found):
        return False
    children = {field.name: field.type for field in found}
    image = children.get("bytes")
    path = children.get("path", pa.null())
    return (
        image is not None
        and (_is_bytes(image) or pa.types.is_null(image))
        and (_is_text(path) or pa.types.is_null(path))
    )


def _strings(column: pa.Array, to: pa.DataType) -> pa.Array:
    """Return text, bytes, UUIDs or numbers as strings that are valid UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.type == pa.uuid():
        column = column.storage
    if column.type == pa.binary(_UUID_BYTES):
        ids = [
            value if value is None else str(uuid.UUID(bytes=value)) for value in column.to_pylist()
        ]
        return pa.array(ids, to)
    if pa.types.is_floating(column.type):
        # pandas makes ids float where one is missing; those past 2**53 are no ids any more.
        column = pc.if_else(pc.is_nan(column), None, column)
        exact = pc.and_(pc.equal(pc.floor(column), column), pc.less(pc.abs(column), 2**53))
        if pc.all(exact).as_py() is False:
            way_out = "floats hold no other: write ids as integers or text"
            raise SchemaError("its rows", "post_id", "double", "whole numbers below 2**53", way_out)
        column = column.cast(pa.int64())
    if not _is_text(column.type) and not _is_bytes(column.type):
        return column.cast(to)
    # Parquet readers trust that a string column is UTF-8, not every writer cares: a cast from
    # binary is what checks it.
    raw = column.cast(pa.large_binary())
    try:
        return raw.cast(to)
    except pa.ArrowInvalid:
        decoded = [
            None if value is None else value.decode("utf-8", errors="replace")
            for value in raw.to_pylist()
        ]
        return pa.array(decoded, to)
