"""Files of an output, on a local disk or any store that fsspec reaches.

A Store names its files relative to the output root. Every change is atomic per file: a
reader sees the old bytes or the new ones. On a local disk it is also durable, so that a
commit record never outlives the part it names in a power cut.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, BinaryIO, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipelines.layout import TEMPORARY
from pipelines.reasons import reason_of, redact
from schemas.errors import DRFError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class OutputError(DRFError):
    """The output cannot be read or written as the job needs."""


@dataclass(frozen=True)
class Store:
    """The files below one root of one file system; names are relative to the root, with "/".

    Every method raises OutputError, one readable line, where the file system refuses.
    """

    fs: fsspec.AbstractFileSystem
    root: str

    @cached_property
    def local(self) -> bool:
        """Whether it is this machine's disk: renames are atomic, locks are the kernel's."""
        return isinstance(self.fs, LocalFileSystem)

    @cached_property
    def url(self) -> str:
        """The root, as one can show it to a person."""
        return self.root if self.local else redact(str(self.fs.unstrip_protocol(self.root)))

    def full(self, name: str) -> str:
        """Return the path of a file as the file system knows it."""
        return f"{self.root.rstrip('/')}/{name}" if name else self.root

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, None where there is no such file."""
        with self.explained("read", name):
            try:
                return bytes(self.fs.cat_file(self.full(name)))
            except (FileNotFoundError, NotADirectoryError):
                return None

    def read_json(self, name: str) -> Any:
        """Return what a JSON file holds, None where there is no such file."""
        data = self.read(name)
        if data is None:
            return None
        try:
            return json.loads(data)
        except ValueError as error:
            raise OutputError(
                f"{self.url}/{name} is not valid JSON; delete it, what it described is done again"
            ) from error

    def size(self, name: str) -> int | None:
        """Return a file's bytes, None where there is no such file."""
        with self.explained("read", name):
            try:
                if not self.local:
                    self.fs.invalidate_cache(self.fs._parent(self.full(name)))
                return int(self.fs.info(self.full(name))["size"])
            except (FileNotFoundError, NotADirectoryError):
                return None

    def age(self, name: str) -> float:
        """Return the seconds since a file was written; 0 where it is gone or nobody knows."""
        with self.explained("read", name):
            try:
                modified = self.fs.modified(self.full(name))
            except (FileNotFoundError, NotImplementedError):
                return 0.0
        if modified.tzinfo is None:
            modified = modified.replace(tzinfo=datetime.timezone.utc)
        return max(0.0, (datetime.datetime.now(datetime.timezone.utc) - modified).total_seconds())

    def sizes(self, folder: str, recursive: bool = False) -> dict[str, int]:
        """Return the files in a folder with their bytes; {} where there is no such folder.

        Keys are relative to the folder. recursive: also what lies in its subfolders.
        """
        with self.explained("list", folder):
            return list_sizes(self.fs, self.full(folder), recursive)

    def write(self, name: str, data: bytes, durable: bool = True) -> None:
        """Write a file whole, in the place of what was there.

        durable: it shall outlive a power cut, not only the death of the process.
        """
        with self.explained("write", name):
            if not self.local:
                self.fs.pipe_file(self.full(name), data)
                return
            with self._temporary(data, durable) as temporary:
                self._make_parent(name)
                os.replace(temporary, self.full(name))
            if durable:
                self.sync(name)

    def write_json(self, name: str, value: Any, durable: bool = True) -> None:
        """Write a value as JSON, keys sorted, so that equal values are equal bytes."""
        self.write(name, to_json(value), durable)

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless there is one; return whether this call wrote it.

        Of any number of calls at once, one returns True, and nobody ever sees half a file.
        """
        with self.explained("write", name):
            try:
                if not self.local:
                    self.fs.pipe_file(self.full(name), data, mode="create")
                    return True
                with self._temporary(data, durable=True) as temporary:
                    self._make_parent(name)
                    os.link(temporary, self.full(name))
                self.sync(name)
                return True
            except FileExistsError:
                return False

    def open_part(self, name: str) -> PartFile:
        """Return an open file for a part, which counts and hashes the bytes it is given."""
        with self.explained("write", name):
            if self.local:
                self._make_parent(name)
            return PartFile(self, name)

    def move(self, source: str, target: str) -> None:
        """Move a file over whatever is at the target. Killed half-way, both may be there."""
        with self.explained("write", target):
            if self.local:
                self._make_parent(target)
                os.replace(self.full(source), self.full(target))
            else:
                self.fs.cp_file(self.full(source), self.full(target))
                self.fs.rm_file(self.full(source))

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        with self.explained("remove", name), contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self.full(name))

    def for_each(self, function: Callable[[_Item], object], items: Iterable[_Item]) -> None:
        """Call a function for every item: one by one on a disk, many at once elsewhere."""
        in_parallel(function, items, workers=1 if self.local else 16)

    def remove_empty_folders(self, folder: str, above: str) -> None:
        """Remove a folder and its parents below `above`, as far as they hold nothing."""
        while self.local and folder != above and folder.startswith(above):
            try:
                os.rmdir(self.full(folder))
            except OSError:
                return
            folder = folder.rpartition("/")[0]

    def sync(self, name: str) -> None:
        """Make a file's entry in its folder durable; nothing to do off the local disk."""
        folder = os.path.dirname(self.full(name))
        if self.local and os.path.isdir(folder):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def check_writable(self) -> None:
        """Raise OutputError unless files can be created, read and removed below the root."""
        name = f"{TEMPORARY}/{uuid.uuid4().hex}"
        self.write(name, b"", durable=False)
        self.remove(name)

    @contextlib.contextmanager
    def _temporary(self, data: bytes, durable: bool) -> Iterator[str]:
        name = f"{TEMPORARY}/{uuid.uuid4().hex}"
        self._make_parent(name)
        try:
            with open(self.full(name), "xb") as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            yield self.full(name)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(self.full(name))

    def _make_parent(self, name: str) -> None:
        os.makedirs(os.path.dirname(self.full(name)), exist_ok=True)

    @contextlib.contextmanager
    def explained(self, verb: str, name: str) -> Iterator[None]:
        """Turn what the file system raises into OutputError, naming verb and file."""
        try:
            yield
        except DRFError:
            raise
        except Exception as error:
            where = f"{self.url}/{name}" if name else self.url
            raise OutputError(f"cannot {verb} {where}: {reason_of(error)}") from error


class PartFile:
    """A part being written: a binary file for Parquet writers that counts and hashes."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name
        self._hash = hashlib.sha256()
        self._bytes = 0
        path = store.full(name)
        # Not the store's own open(): fsspec's local files hide their descriptor from fsync.
        self._file: BinaryIO = (
            open(path, "xb") if store.local else store.fs.open(path, "wb")  # noqa: SIM115
        )

    def write(self, data: bytes) -> int:
        """Append bytes."""
        with self._store.explained("write", self._name):
            self._file.write(data)
            self._hash.update(data)
            self._bytes += memoryview(data).nbytes
            return memoryview(data).nbytes

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self._bytes

    def flush(self) -> None:
        """Do nothing: what counts is close."""

    @property
    def closed(self) -> bool:
        """Whether close was called."""
        return bool(self._file.closed)

    def close(self) -> None:
        """Finish the file, durable on a local disk."""
        if self.closed:
            return
        with self._store.explained("write", self._name):
            try:
                if self._store.local:
                    self._file.flush()
                    os.fsync(self._file.fileno())
            finally:
                self._file.close()
            self._store.sync(self._name)

    @property
    def bytes(self) -> int:
        """How many bytes were written."""
        return self._bytes

    @property
    def sha256(self) -> str:
        """Hash of the bytes written, hexadecimal."""
        return self._hash.hexdigest()


def open_store(url: str) -> Store:
    """Return the store of an output root: a local path or any fsspec URL.

    Raises OutputError where fsspec knows no such protocol or its package is not installed.
    """
    try:
        fs, root = fsspec.core.url_to_fs(url)
    except Exception as error:
        raise OutputError(f"cannot use {redact(url)} as output: {reason_of(error)}") from error
    return Store(fs, root)


def in_parallel(
    function: Callable[[_Item], _Result], items: Iterable[_Item], workers: int = 16
) -> list[_Result]:
    """Return function(item) for every item, in order; stores answer slowly, but many at once."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, items))


def to_json(value: Any) -> bytes:
    """Return JSON bytes that are equal for equal values."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def list_sizes(fs: fsspec.AbstractFileSystem, folder: str, recursive: bool) -> dict[str, int]:
    """Return files by name relative to a folder, with their bytes, sorted; {} if there is none.

    Unlike fsspec's own walk it never leaves out what it could not list: it raises.
    """
    found: dict[str, int] = {}
    prefix = folder.rstrip("/") + "/"
    if isinstance(fs, LocalFileSystem):
        # Each with the folders, as they really are, that links on the way to it led to.
        pending: list[tuple[str, tuple[str, ...]]] = [(folder, ())]
        while pending:
            path, entered = pending.pop()
            try:
                entries = list(os.scandir(path))
            except (FileNotFoundError, NotADirectoryError):
                continue
            for entry in entries:
                if entry.is_dir():
                    way = entered
                    if recursive and entry.is_symlink():
                        target = os.path.realpath(entry.path)
                        here = os.path.realpath(path)
                        if target in entered or f"{here}/".startswith(f"{target}/"):
                            continue  # It leads back to where it was found.
                        way = (*entered, target)
                    if recursive:
                        pending.append((entry.path, way))
                    continue
                try:
                    size = entry.stat().st_size
                except FileNotFoundError:
                    if not entry.is_symlink():
                        continue
                    # A link to nothing is there, and for its reader to complain about.
                    size = 0
                found[entry.path[len(prefix) :]] = size
        return dict(sorted(found.items()))
    fs.invalidate_cache()
    try:
        listed = fs.find(folder, detail=True).values() if recursive else fs.ls(folder, detail=True)
    except FileNotFoundError:
        return {}
    for info in listed:
        if info["type"] == "file" and info["name"].startswith(prefix):
            found[info["name"][len(prefix) :]] = int(info["size"] or 0)
    return dict(sorted(found.items()))
