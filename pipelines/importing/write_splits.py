"""Posts to one Parquet file per split, a row group at a time."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.errors import DRFError, UsageError

MARK = b"drf.import"

SCHEMA = pa.schema(
    [
        ("post_id", pa.string()),
        ("text", pa.string()),
        ("image", pa.binary()),
        ("label", pa.string()),
        ("split", pa.string()),
    ]
)

# Hidden, so that readers of the folder pass it by.
_SCRATCH = ".importing-"

_GROUP_ROWS = 512
_GROUP_BYTES = 32 * 1024 * 1024

Row = tuple[str, str | None, bytes | None, str | None, str]


class SplitWriter:
    """One split's file. Holds at most a row group: 512 posts or, about, 32 MiB."""

    def __init__(self, path: Path, mark: bytes) -> None:
        self._writer = pq.ParquetWriter(
            path,
            SCHEMA.with_metadata({MARK: mark}),
            # Images are compressed already, and their smallest and largest tell nobody anything.
            compression={name: "none" if name == "image" else "zstd" for name in SCHEMA.names},
            use_dictionary=["label", "split"],
            write_statistics=[name for name in SCHEMA.names if name != "image"],
        )
        self._rows: list[Row] = []
        self._bytes = 0

    def add(self, row: Row) -> None:
        """Take (post_id, text, image, label, split)."""
        self._rows.append(row)
        self._bytes += len(row[2] or b"") + len(row[1] or "")
        if len(self._rows) >= _GROUP_ROWS or self._bytes >= _GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """Write what is left and the footer."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            columns = zip(*self._rows, strict=True)
            arrays = [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)]
            self._writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=SCHEMA))
        self._rows, self._bytes = [], 0


def import_mark(importer: str, source: str) -> bytes:
    """What a file's metadata says of its import: the same for every run of the same import.

    source: a name, not a path, so that the same corpus elsewhere makes the same bytes.
    """
    return json.dumps({"importer": importer, "source": source}, sort_keys=True).encode()


def check_output(folder: Path, mark: bytes) -> None:
    """Raise UsageError where the folder holds Parquet files of anything but this import."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--output {folder}: there is a file in the way; name another folder")
    try:
        existing = sorted(path for path in folder.rglob("*.parquet") if not _hidden(path, folder))
    except OSError as error:
        raise DRFError(f"--output {folder}: cannot be read ({error.strerror})") from error
    for path in existing:
        if _mark_of(path) != mark:
            raise UsageError(
                f"--output {folder}: {path.relative_to(folder)} is not from an earlier run of "
                "this import; name another folder"
            )


@contextmanager
def open_splits(
    folder: Path, splits: Sequence[str], mark: bytes
) -> Iterator[dict[str, SplitWriter]]:
    """A writer per split; their files replace those of an earlier run when all are whole.

    The earlier files go first, those of splits that are no more as well: killed in between,
    a run leaves too few files, and never splits that do not belong together.
    Raises DRFError where they cannot be written.
    """
    scratch = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for left_behind in folder.glob(f"{_SCRATCH}*"):
            shutil.rmtree(left_behind, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(prefix=_SCRATCH, dir=folder))
        writers = {name: SplitWriter(scratch / f"{name}.parquet", mark) for name in splits}
        yield writers
        for writer in writers.values():
            writer.close()
        for path in folder.glob("*.parquet"):
            if _mark_of(path) == mark:
                path.unlink()
        for name in splits:
            (scratch / f"{name}.parquet").replace(folder / f"{name}.parquet")
    except OSError as error:
        raise DRFError(f"--output {folder}: cannot be written ({error.strerror})") from error
    finally:
        if scratch:
            shutil.rmtree(scratch, ignore_errors=True)


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def _mark_of(path: Path) -> bytes | None:
    try:
        return (pq.read_schema(path).metadata or {}).get(MARK)
    except (OSError, pa.ArrowException):
        return None
