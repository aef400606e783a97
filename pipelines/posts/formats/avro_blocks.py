"""Avro: blocks of records, each of which may be damaged by itself."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from typing import Any

from pipelines.posts.formats.records import Broken, Record, said

# Avro's blocks say how many records they hold; with more for each byte they are wrong.
_MOST_RECORDS_PER_BYTE = 2_000
_AVRO_MARKER_BYTES = 16
_MOST_BLOCK_BYTES = 1 << 30


def avro_records(file: Any, path: str) -> Iterator[Record]:
    """Yield a file's records. Raises ValueError where its blocks cannot be told apart."""
    import fastavro

    fastavro.block_reader(file)
    size = file.tell()
    file.seek(0)
    header = file.read(size)
    while block := _avro_block(file, header[-_AVRO_MARKER_BYTES:]):
        count, content = block
        try:
            # By itself, so that what is behind it can be read.
            records = list(fastavro.reader(io.BytesIO(header + content)))
        except Exception as error:
            broken = Broken(f"in a block that cannot be read: {said(error)}")
            yield from itertools.repeat(broken, count)
            continue
        if records and not isinstance(records[0], dict):
            raise ValueError("no record of fields")
        yield from (record for record in records if isinstance(record, dict))


def _avro_block(file: Any, marker: bytes) -> tuple[int, bytes] | None:
    """The number of records of the next block, and the block as it lies there; None at the end.

    A block: how many records, how many bytes, those, and the marker that the header ends with
    (https://avro.apache.org/docs/1.12.0/specification/#object-container-files).
    """
    count, content = _avro_long(file)
    if not content:
        return None
    size, more = _avro_long(file)
    if not 0 <= size <= _MOST_BLOCK_BYTES or not 0 <= count <= _MOST_RECORDS_PER_BYTE * size:
        raise ValueError("the size of a block is wrong")
    rest = file.read(size + _AVRO_MARKER_BYTES)
    if len(rest) < size + _AVRO_MARKER_BYTES or not rest.endswith(marker):
        raise ValueError("a block is cut short, or its size is wrong")
    return count, content + more + rest


def _avro_long(file: Any) -> tuple[int, bytes]:
    """The next integer as Avro writes it (zigzag, seven bits a byte), and its bytes, if any."""
    value, content = 0, b""
    for shift in range(0, 70, 7):
        content += (byte := file.read(1))
        value |= (byte[0] & 0x7F if byte else 0) << shift
        if not byte or byte[0] < 0x80:
            break
    return (value >> 1) ^ -(value & 1), content
