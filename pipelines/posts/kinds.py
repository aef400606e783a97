"""What lies in a folder of inputs, told by names and first bytes: Parquet, or what else it is."""

from __future__ import annotations

import os
import re

# .parquet, .PARQUET, .parq, .pq, .parquet.gzip, .snappy.parquet, .parquet.zstd
_PARQUET_NAME = re.compile(r"\.(parquet|parq|pq)(\.(gz|gzip|snappy|zstd|zst|lz4|brotli|br))?$")

# What no text has.
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1f]")
# A mark of UTF-8, and white space.
_BLANK = b"\xef\xbb\xbf \t\r\n"

# What files of other kinds begin with.
_HEADS = (
    (b"ARROW1", "an Arrow IPC (Feather) file"),
    (b"FEA1", "a Feather file"),
    (b"ORC", "an ORC file"),
    (b"Obj\x01", "an Avro file"),
    (b"version https://git-lfs", "a Git LFS pointer; fetch its content with `git lfs pull`"),
    (b"\x1f\x8b", "a gzip archive; unpack it"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive; unpack it"),
    (b"BZh", "a bzip2 archive; unpack it"),
    (b"\xfd7zXZ", "an xz archive; unpack it"),
    (b"PK\x03\x04", "a zip archive (or a spreadsheet); unpack it"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\x89HDF", "an HDF5 file"),
    (b"PARE", "a Parquet file with an encrypted footer; write it without encryption"),
    (b"PAR1", "a Parquet file, of another name or cut short"),
)


def is_parquet_name(name: str) -> bool:
    """Whether a file's name says that it is Parquet."""
    return _PARQUET_NAME.search(name.lower()) is not None


def may_be_parquet(name: str) -> bool:
    """Whether a name says nothing of its kind: Hive's 000000_0, Beam's and Athena's shards."""
    last = name.rsplit("/", 1)[-1]
    suffix = os.path.splitext(last)[1]
    return not suffix or not re.fullmatch(r"\.[A-Za-z]{1,9}", suffix) or suffix.lower() == ".gz"


def binary_kind(head: bytes) -> str | None:
    """What a file that holds no records of text is, by its first bytes; None where nobody knows."""
    for mark, kind in _HEADS:
        # A column of CSV may be called ORCID.
        if head.startswith(mark) and (b" " in mark or _BINARY.search(head)):
            return kind
    if head.lstrip(_BLANK)[:1] == b"<":
        return "a web page or XML, perhaps an error page that was saved in its place"
    return None


def kind_of(head: bytes) -> str | None:
    """What a file that is no Parquet file is, by its first bytes; None where nobody knows."""
    if (kind := binary_kind(head)) is not None:
        return kind
    text = head.lstrip(_BLANK)
    if text[:1] in (b"{", b"["):
        return "JSON; name it .jsonl where it has one object a line"
    first = text.partition(b"\n")[0]
    if text and b"\0" not in head and (b"," in first or b"\t" in first or b";" in first):
        return "a text file, perhaps CSV; name it .csv"
    return None
