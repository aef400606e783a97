"""The types of columns: as they are handed on, whoever wrote them, and as an output has them.

All readers know the former. Of the columns that an output keeps there is one set, one type each, in
every part: nobody reads parts that disagree. What a night does not have is null, and what has no
value yet anywhere has no type, and no column either.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.posts.input_files import CorruptInputError
from schemas.image_columns import is_list

# Spark's default, INT96, holds what int64 does not in nanoseconds: 9999-12-31 became 1816.
FINEST_UNIT = "us"


def normal_schema(schema: pa.Schema) -> pa.Schema:
    """A file's columns in their normal types."""
    # What Hugging Face's datasets write down: the names of a label's numbers.
    said = {k: v for k, v in (schema.metadata or {}).items() if k == b"huggingface"}
    fields = [field.with_type(normal_type(field.type)) for field in schema]
    return pa.schema(fields, metadata=said or None)


def normal_type(type_: pa.DataType, nested: bool = False) -> pa.DataType:
    """The type that all readers find in Parquet: no dictionary, view or 64-bit offsets.

    Nor nanoseconds, other units of a time of day, or half precision, since Spark opens no file
    that has them; nor lists of a fixed length, of which pyarrow reads none that holds a null.
    nested: in another type, where pandas reads no bytes of a fixed length, UUIDs among them.
    """
    if isinstance(type_, pa.BaseExtensionType):
        name = type_.extension_name
        kept = name == "arrow.json" or (name == "arrow.uuid" and not nested)
        return type_ if kept else normal_type(type_.storage_type, nested)
    if pa.types.is_dictionary(type_):
        return normal_type(type_.value_type, nested)
    if pa.types.is_large_string(type_) or type_ == pa.string_view():
        return pa.string()
    if is_bytes(type_) or (nested and pa.types.is_fixed_size_binary(type_)):
        return pa.binary()
    if pa.types.is_timestamp(type_) and type_.unit == "ns":
        return pa.timestamp(FINEST_UNIT, type_.tz)
    if pa.types.is_time(type_):
        return pa.time64(FINEST_UNIT)
    if pa.types.is_float16(type_):
        return pa.float32()
    return _within(type_, lambda inner: normal_type(inner, True))


def is_bytes(type_: pa.DataType) -> bool:
    """Whether a type holds bytes of any length."""
    known = pa.types.is_binary(type_) or pa.types.is_large_binary(type_)
    return known or type_ == pa.binary_view()


def normalised(column: pa.Array) -> pa.Array:
    """A column in its normal type; bytes of a text that are no UTF-8 become U+FFFD.

    Readers trust that a string is UTF-8, not every writer cares: a cast from binary is what
    checks it.
    """
    wanted = normal_type(column.type)
    options = pc.CastOptions(_unchecked(wanted), allow_time_truncate=True)
    unchecked = column.cast(options=options)
    try:
        return unchecked.cast(wanted)
    except pa.ArrowInvalid:
        return pa.array([_repaired(value, wanted) for value in unchecked.to_pylist()], wanted)


def _within(type_: pa.DataType, change: Callable[[pa.DataType], pa.DataType]) -> pa.DataType:
    """A nested type with those in it changed; any other as it is."""
    if pa.types.is_struct(type_):
        return pa.struct([field.with_type(change(field.type)) for field in type_])
    if pa.types.is_map(type_):
        item = type_.item_field
        return pa.map_(change(type_.key_type), item.with_type(change(item.type)))
    if is_list(type_):
        return pa.list_(type_.value_field.with_type(change(type_.value_type)))
    return type_


def _unchecked(type_: pa.DataType) -> pa.DataType:
    """A normal type with bytes in place of texts."""
    return pa.binary() if pa.types.is_string(type_) else _within(type_, _unchecked)


def _repaired(value: Any, type_: pa.DataType) -> Any:
    if value is None:
        return None
    if pa.types.is_string(type_):
        return value.decode("utf-8", errors="replace")
    if pa.types.is_struct(type_):
        return {field.name: _repaired(value[field.name], field.type) for field in type_}
    if pa.types.is_map(type_):
        return [(_repaired(k, type_.key_type), _repaired(v, type_.item_type)) for k, v in value]
    return [_repaired(one, type_.value_type) for one in value] if is_list(type_) else value


def is_untyped(found: pa.DataType) -> bool:
    """Whether a type says nothing of its values: null, or lists of it."""
    return pa.types.is_null(found) or (is_list(found) and is_untyped(found.value_type))


def fits(found: pa.DataType, expected: pa.DataType) -> bool:
    """Whether a column of a file can be one of this type: it is, where it has values at all."""
    if found == expected or pa.types.is_null(found):
        return True
    if _is_number(found) and _is_number(expected):
        # pandas makes whole numbers float where one is missing. A cast tells what it would change,
        # but for this.
        rounds = pa.types.is_floating(found) and pa.types.is_floating(expected)
        return not rounds or found.bit_width <= expected.bit_width
    if pa.types.is_decimal(found) and pa.types.is_decimal(expected):
        whole = [one.precision - one.scale for one in (found, expected)]
        return bool(whole[0] <= whole[1] and found.scale <= expected.scale)
    if pa.types.is_timestamp(found) and pa.types.is_timestamp(expected):
        # A finer unit holds what a coarser one does, as far as it reaches.
        units = ("s", "ms", "us", "ns")
        return found.tz == expected.tz and units.index(found.unit) <= units.index(expected.unit)
    if is_list(found) and is_list(expected):
        return fits(found.value_type, expected.value_type)
    if pa.types.is_struct(found) and pa.types.is_struct(expected):
        ours, theirs = list(found), list(expected)
        return [field.name for field in ours] == [field.name for field in theirs] and all(
            fits(one.type, other.type) for one, other in zip(ours, theirs, strict=True)
        )
    return False


def _is_number(type_: pa.DataType) -> bool:
    return pa.types.is_integer(type_) or pa.types.is_floating(type_)


def of_records(field: pa.Field) -> pa.Field:
    """A kept column of a file of records, in a type that does not depend on its values.

    Objects are text (JSON): their fields would be those that came up in the file.
    """
    type_ = field.type
    if pa.types.is_decimal128(type_):
        return field.with_type(pa.decimal128(38, type_.scale))
    while is_list(type_):
        type_ = type_.value_type
    return field.with_type(pa.string()) if pa.types.is_struct(type_) else field


def conform(
    kept: pa.RecordBatch, fields: Sequence[pa.Field], rows: int, where: str
) -> pa.RecordBatch:
    """Return a batch's kept columns as the output has them. rows: of the batch.

    Raises CorruptInputError where a column has values that the output's type does not.
    """
    columns = []
    for field in fields:
        column = kept.column(field.name) if field.name in kept.schema.names else None
        if column is None or column.null_count == len(column):
            column = pa.nulls(rows, field.type)
        elif column.type != field.type:
            try:
                column = column.cast(field.type)
            except pa.ArrowException as error:
                raise CorruptInputError(
                    f"{where}: column '{field.name}' is {column.type}, with values that are none "
                    f"of {field.type}, which the output has; write the kept column with one type "
                    "in all files, or choose another output"
                ) from error
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


def to_text(fields: Iterable[pa.Field]) -> str:
    """Fields as text that crosses to workers and into ledgers, without what only writers use."""
    plain = [field.remove_metadata().with_nullable(True) for field in fields]
    return base64.b64encode(pa.schema(plain).serialize()).decode()


def from_text(text: str) -> tuple[pa.Field, ...]:
    """The fields that `to_text` wrote, in the types that columns have by now."""
    return tuple(normal_schema(pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text)))))
