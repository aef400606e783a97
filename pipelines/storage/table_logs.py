"""Tables whose log tells which of their files count: Delta, Iceberg and Hudi."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from urllib.parse import unquote

from pipelines.storage.redaction import reason_of, redact
from schemas.errors import UsageError

DELTA, HUDI, ICEBERG = "a Delta table", "a Hudi table", "an Iceberg table"
_TABLE_MARKS = {"_delta_log": DELTA, ".hoodie": HUDI}

# What a Delta log may say beyond which files count.
_BEYOND_DELTA = {"deletionVectors", "columnMapping"}
_DELETED_ROWS, _RENAMED = "rows deleted in files that stay", "columns that were renamed"

# 00003-UUID.metadata.json, or v3.metadata.json
_ICEBERG_METADATA = re.compile(r"metadata/v?(\d+)[^/]*\.metadata\.json$")


def table_format(names: Iterable[str]) -> str | None:
    """Which table format's folder this is, whose files only its log tells apart; None for none."""
    for name in names:
        parts = name.split("/")
        for mark, kind in _TABLE_MARKS.items():
            if mark in parts[:-1]:
                return kind
        if parts[-1].endswith(".metadata.json") and "metadata" in parts[:-1]:
            return ICEBERG
    return None


def files_of_table(folder: str, kind: str, names: Iterable[str]) -> set[str]:
    """Names, in a table's folder (its URL), of the files whose rows count, by its log.

    kind: as table_format tells. names: of all files there. Raises UsageError where what
    reads that log is not installed, or where rows of a file do not count.
    """
    plain = "write the rows that count as plain Parquet files and name those"
    says = f"{redact(folder)}: is {kind}, which also holds rows that were deleted or replaced"
    names = set(names)
    try:
        live, beyond = _READERS[kind](folder, names)
    except ImportError:
        extra = kind.split()[1].lower()
        way_out = f"install what reads its log (pip install '.[{extra}]')"
        raise UsageError(f"{says}; {way_out}, or {plain}") from None
    except Exception as error:
        raise UsageError(f"{says}; its log cannot be read: {reason_of(error)}; {plain}") from error
    if beyond:
        raise UsageError(f"{says}, some by its {' and '.join(sorted(beyond))}; {plain}")
    if lacking := live - names:
        raise UsageError(f"{says}; its log names {min(lacking)}, which is not there; {plain}")
    return live


def _delta(folder: str, names: set[str]) -> tuple[set[str], set[str]]:
    """Files that count, and what the log says beyond them."""
    import deltalake

    table = deltalake.DeltaTable(folder)
    live = {_below(folder, unquote(uri)) for uri in table.file_uris()}
    return live, _BEYOND_DELTA.intersection(table.protocol().reader_features or ())


def _iceberg(folder: str, names: set[str]) -> tuple[set[str], set[str]]:
    from pyiceberg.table import StaticTable

    metadata = (name for name in names if _ICEBERG_METADATA.search(name))
    newest = max(metadata, key=lambda name: int(_ICEBERG_METADATA.findall(name)[0]))
    url = folder if "://" in folder else f"file://{folder}"
    table = StaticTable.from_metadata(f"{url.rstrip('/')}/{newest}")
    called: dict[int, set[str]] = {}
    for schema in table.schemas().values():
        for field in schema.fields:
            called.setdefault(field.field_id, set()).add(field.name)
    beyond = {_RENAMED for by_id in called.values() if len(by_id) > 1}
    tasks = list(table.scan().plan_files())
    beyond |= {_DELETED_ROWS for task in tasks if task.delete_files}
    return {_below(folder, task.file.file_path) for task in tasks}, beyond


def _hudi(folder: str, names: set[str]) -> tuple[set[str], set[str]]:
    from hudi import HudiTable

    slices = HudiTable(folder).get_file_slices()
    live = {one.base_file_relative_path() for one in slices}
    return live, {_DELETED_ROWS for one in slices if one.has_log_files()}


_READERS: dict[str, Callable[[str, set[str]], tuple[set[str], set[str]]]] = {
    DELTA: _delta,
    HUDI: _hudi,
    ICEBERG: _iceberg,
}


def _below(folder: str, url: str) -> str:
    """The name of a file in the folder; the whole URL where it lies elsewhere."""
    root = f"{(folder.partition('://')[2] or folder).rstrip('/')}/"
    before, found, name = url.partition(root)
    whole = before in ("", "file:") or before.endswith("://")
    return name if found and whole else url
