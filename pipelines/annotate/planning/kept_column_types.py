"""Which kept columns an output has, and of which types: by its ledgers, else by the first file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import pyarrow as pa

from pipelines.annotate.job import JobOptions
from pipelines.annotate.output.ledger import Ledger
from pipelines.posts.column_types import fits, from_text, is_untyped, to_text
from pipelines.posts.input_files import FailedFile, InputFile
from pipelines.posts.inputs import InputListing
from pipelines.posts.record_files import is_records_file
from pipelines.storage.redaction import redact
from schemas.errors import SchemaError

# By column: the field, and what has it so.
_Types = dict[str, tuple[pa.Field, str]]


def settle_kept_columns(
    listing: InputListing, ledgers: Mapping[str, Ledger], options: JobOptions
) -> tuple[InputListing, JobOptions]:
    """Return the listing, files failed whose kept columns are not of the output's types.

    The options have all kept columns that the output has then. ledgers: by partition. What is
    published of files that this run lists does not count: it may be replaced as a whole.
    """
    listed = {file.source_file for file in listing.files}
    others = {p: one for p, one in ledgers.items() if one.files.keys() - listed}
    types: _Types = {}
    for partition, ledger in others.items():
        _add(types, from_text(ledger.kept or to_text(())), partition or "what is published")
    before = len(types)
    for file in listing.files:
        _add(types, listing.kept[file.source_file], file.source_file)
    checked = [_check(file, listing.kept[file.source_file], types) for file in listing.files]
    failed = [file for file in checked if isinstance(file, FailedFile)]
    new = list(types)[before:] if others else []
    untyped = [name for name in options.rows.keep if name not in types and listing.files]
    warnings = [
        f"--keep {name}: no file has a value in it, so it has no type and is left out until one has"
        for name in untyped
    ] + [
        f"--keep {name}: what was published before has no such column; read with "
        "union_by_name=true in DuckDB, mergeSchema in Spark, or annotate it again"
        for name in new
    ]
    return dataclasses.replace(
        listing,
        files=tuple(file for file in checked if isinstance(file, InputFile)),
        failed=tuple(sorted([*listing.failed, *failed], key=lambda file: file.source_file)),
        warnings=(*listing.warnings, *warnings),
    ), dataclasses.replace(options, kept=to_text(field for field, _ in types.values()))


def _add(types: _Types, fields: Iterable[pa.Field], where: str) -> None:
    for field in fields:
        if not is_untyped(field.type):
            types.setdefault(field.name, (field, where))


def _check(
    file: InputFile, kept: Iterable[pa.Field], types: Mapping[str, tuple[pa.Field, str]]
) -> InputFile | FailedFile:
    for field in kept:
        expected, where = types.get(field.name, (field, ""))
        # What is text in the output can be written as such, whatever a record holds there.
        as_text = is_records_file(file.path) and pa.types.is_string(expected.type)
        if not as_text and not fits(field.type, expected.type):
            path = redact(file.path)
            way_out = "write the kept column with one type in all files, or choose another output"
            shown = f"{expected.type} as in {where}"
            error = SchemaError(path, field.name, str(field.type), shown, way_out)
            return FailedFile(path, file.source_file, file.partition, str(error))
    return file
