"""The kept columns of an output: one set of them, one type each, in every part.

Nobody reads parts that disagree. What a night does not have is null, and what has no value yet
anywhere has no type, and no column either.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence

import pyarrow as pa

from pipelines.posts.input_files import CorruptInputError


def is_untyped(found: pa.DataType) -> bool:
    """Whether a type says nothing of its values: null, or lists of it."""
    return pa.types.is_null(found) or (_is_list(found) and is_untyped(found.value_type))


def fits(found: pa.DataType, expected: pa.DataType) -> bool:
    """Whether a column of a file can be one of this type: it is, where it has values at all."""
    if found == expected or pa.types.is_null(found):
        return True
    if pa.types.is_timestamp(found) and pa.types.is_timestamp(expected):
        # A finer unit holds what a coarser one does, as far as it reaches.
        units = ("s", "ms", "us", "ns")
        return found.tz == expected.tz and units.index(found.unit) <= units.index(expected.unit)
    if _is_list(found) and _is_list(expected):
        return fits(found.value_type, expected.value_type)
    if pa.types.is_struct(found) and pa.types.is_struct(expected):
        ours, theirs = list(found), list(expected)
        return [field.name for field in ours] == [field.name for field in theirs] and all(
            fits(one.type, other.type) for one, other in zip(ours, theirs, strict=True)
        )
    return False


def conform(
    kept: pa.RecordBatch, fields: Sequence[pa.Field], rows: int, where: str
) -> pa.RecordBatch:
    """Return a batch's kept columns as the output has them. rows: of the batch.

    Raises CorruptInputError where a column has values that its footer denied.
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
                    f"{where}: column '{field.name}' is {column.type}, its footer said otherwise; "
                    "write the file again"
                ) from error
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=pa.schema(fields))


def to_text(fields: Iterable[pa.Field]) -> str:
    """Fields as text that crosses to workers and into ledgers, without what only writers use."""
    plain = [field.remove_metadata().with_nullable(True) for field in fields]
    return base64.b64encode(pa.schema(plain).serialize()).decode()


def from_text(text: str) -> tuple[pa.Field, ...]:
    """The fields that `to_text` wrote."""
    return tuple(pa.ipc.read_schema(pa.py_buffer(base64.b64decode(text))))


def _is_list(found: pa.DataType) -> bool:
    return pa.types.is_list(found) or pa.types.is_large_list(found)
