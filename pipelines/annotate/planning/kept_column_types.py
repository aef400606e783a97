"""Kept columns have one type in all parts of an output: nobody reads parts that disagree."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from pipelines.posts.files import FailedFile, InputFile
from pipelines.storage.redaction import redact
from schemas.errors import SchemaError

# By column: its type, and which file has it so.
Types = dict[str, tuple[pa.DataType, str]]


def add_types(types: Types, fields: Iterable[pa.Field], where: str) -> None:
    """Add the types of a file's kept columns, of those that have none yet.

    A column that is all null may have no type; it sets none.
    """
    for field in fields:
        if not pa.types.is_null(field.type):
            types.setdefault(field.name, (_plain(field.type), where))


def fail_other_types(
    files: Sequence[InputFile], kept: Mapping[str, Sequence[pa.Field]], types: Types
) -> tuple[tuple[InputFile, ...], tuple[FailedFile, ...]]:
    """Return the files whose kept columns have the given types, and the others as failed.

    kept: fields of the kept columns, by source_file.
    """
    checked = [_check(file, kept[file.source_file], types) for file in files]
    return (
        tuple(file for file in checked if isinstance(file, InputFile)),
        tuple(file for file in checked if isinstance(file, FailedFile)),
    )


def _check(file: InputFile, kept: Sequence[pa.Field], types: Types) -> InputFile | FailedFile:
    for field in kept:
        expected, where = types.get(field.name, (field.type, ""))
        if expected not in (field.type, _plain(field.type)):
            path = redact(file.path)
            way_out = "write the kept column with one type in all files, or choose another output"
            type_here = str(field.type)
            error = SchemaError(path, field.name, type_here, f"{expected} as in {where}", way_out)
            return FailedFile(path, file.source_file, file.partition, str(error))
    return file


def _plain(type_: pa.DataType) -> pa.DataType:
    """Return the type without what Parquet does not tell apart."""
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    if pa.types.is_large_string(type_) or type_ == pa.string_view():
        return pa.string()
    if pa.types.is_large_binary(type_) or type_ == pa.binary_view():
        return pa.binary()
    return type_
