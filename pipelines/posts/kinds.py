"""What lies in a folder of inputs, told by names and first bytes: Parquet, or what else it is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from urllib.parse import unquote

from pipelines.storage.redaction import reason_of, redact
from schemas.errors import UsageError

# .parquet, .PARQUET, .parq, .pq, .parquet.gzip, .snappy.parquet, .parquet.zstd
_PARQUET_NAME = re.compile(r"\.(parquet|parq|pq)(\.(gz|gzip|snappy|zstd|zst|lz4|brotli|br))?$")

# What files of other kinds begin with.
_HEADS = (
    (b"ARROW1", "an Arrow IPC (Feather) file"),
    (b"FEA1", "a Feather file"),
    (b"ORC", "an ORC file"),
    (b"Obj\x01", "an Avro file"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch its content with `git lfs pull`"),
    (b"\x1f\x8b", "a gzip archive; unpack it"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive; unpack it"),
    (b"PK\x03\x04", "a zip archive (or a spreadsheet); unpack it"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\x89HDF", "an HDF5 file"),
    (b"PARE", "a Parquet file with an encrypted footer; write it without encryption"),
    (b"PAR1", "a Parquet file that was cut short; write it again"),
)

_DELTA = "a Delta table"
_TABLE_MARKS = {
    "_delta_log": _DELTA,
    ".hoodie": "a Hudi table",
}

# What an installed deltalake reads, but plain files do not say: which rows of them are deleted,
# and what their columns are called.
_BEYOND_FILES = {"deletionVectors", "columnMapping"}


def is_parquet_name(name: str) -> bool:
    """Whether a file's name says that it is Parquet."""
    return _PARQUET_NAME.search(name.lower()) is not None


def may_be_parquet(name: str) -> bool:
    """Whether a name says nothing of its kind: Hive's 000000_0, Beam's and Athena's shards."""
    last = name.rsplit("/", 1)[-1]
    suffix = os.path.splitext(last)[1]
    return not suffix or not re.fullmatch(r"\.[A-Za-z]{1,9}", suffix) or suffix.lower() == ".gz"


def kind_of(head: bytes) -> str | None:
    """What a file that is no Parquet file is, by its first bytes; None where nobody knows."""
    for mark, kind in _HEADS:
        if head.startswith(mark):
            return kind
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:1] == b"<":
        return "a web page or XML, perhaps an error page that was saved in its place"
    if text[:1] in (b"{", b"["):
        return "JSON; name it .jsonl where it has one object a line"
    first = text.partition(b"\n")[0]
    if text and b"\0" not in head and (b"," in first or b"\t" in first or b";" in first):
        return "a text file, perhaps CSV; name it .csv"
    return None


def files_of_table(folder: str, kind: str) -> set[str]:
    """Names, in a table's folder (its URL), of the files whose rows count, by its log.

    Raises UsageError where what reads that log is not installed, or rows of a file do not count.
    """
    plain = "write the rows that count as plain Parquet files and name those"
    says = f"{redact(folder)}: is {kind}, which also holds rows that were deleted or replaced"
    if kind != _DELTA:
        raise UsageError(f"{says}; {plain}")
    try:
        import deltalake
    except ImportError:
        way_out = "install what reads its log (pip install '.[delta]')"
        raise UsageError(f"{says}; {way_out}, or {plain}") from None
    try:
        table = deltalake.DeltaTable(folder)
        live = table.file_uris()
        beyond = _BEYOND_FILES.intersection(table.protocol().reader_features or ())
    except Exception as error:
        raise UsageError(f"{says}; its log cannot be read: {reason_of(error)}; {plain}") from error
    if beyond:
        raise UsageError(f"{says}, some by its {' and '.join(sorted(beyond))}; {plain}")
    root = folder.partition("://")[2] or folder
    return {unquote(uri.partition(f"{root.rstrip('/')}/")[2]) for uri in live}


def table_format(names: Iterable[str]) -> str | None:
    """Which table format's folder this is, whose files only its log tells apart; None for none."""
    for name in names:
        parts = name.split("/")
        for mark, kind in _TABLE_MARKS.items():
            if mark in parts[:-1]:
                return kind
        if parts[-1].endswith(".metadata.json") and "metadata" in parts[:-1]:
            return "an Iceberg table"
    return None
