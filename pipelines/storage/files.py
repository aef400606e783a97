"""Files of an output, on a local disk or any store that fsspec reaches.

A Store names its files relative to the output root. Every change is atomic per file: a
reader sees the old bytes or the new ones. On a local disk it is also durable, so that a
commit record never outlives the part it names in a power cut.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipelines.storage.backends import modified, open_url
from pipelines.storage.listing import list_files
from pipelines.storage.redaction import reason_of, redact
from pipelines.storage.retrying import retry, was_there
from schemas.errors import DRFError

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

_NO_BUCKET = "the bucket does not exist; create it, or correct the URL"

# Half-written files lie here, never beside the data: DuckDB's globs skip no leading "." or "_".
TEMPORARY = "_staging/tmp"

_TRIES_TO_PUT = 8


class OutputError(DRFError):
    """The output cannot be read or written as the job needs."""


class OutputRefusedError(OutputError):
    """The output lets nobody write here: no right to, read only, no such bucket."""


def into_folder(path: str, put: Callable[[str], _Result]) -> _Result:
    """Make the folder of a path on this machine's disk, and put something there.

    Another run may remove the folder in between, since it is empty: so a few times anew. Raises
    what `put` does.
    """
    folder = os.path.dirname(path)
    for _ in range(_TRIES_TO_PUT):
        # That a folder is there may be true no more when it is looked at.
        with contextlib.suppress(FileExistsError):
            os.makedirs(folder)
        with contextlib.suppress(FileNotFoundError):
            return put(path)
    # Who removes it waits where making it takes long, and is next each time: a folder that holds
    # something when it appears stays.
    name = uuid.uuid4().hex
    prepared = f"{folder}.{name}"
    os.makedirs(prepared)
    open(f"{prepared}/{name}", "xb").close()
    try:
        os.rename(prepared, folder)
    except OSError:
        shutil.rmtree(prepared)
        return put(path)
    try:
        return put(path)
    finally:
        os.unlink(f"{folder}/{name}")


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
        """Return the path of a file as the file system knows it.

        Names come from records, too, and none may lead out of the root.
        """
        if ".." in name.split("/"):
            raise OutputError(f"'{name}' is no name of a file of {self.url}")
        return f"{self.root.rstrip('/')}/{name}" if name else self.root

    def read(self, name: str) -> bytes | None:
        """Return a file's bytes, None where there is no such file."""
        with self.explained("read", name):
            try:
                # With a start, s3fs does not ask for the size first.
                return bytes(self._do(lambda: self.fs.cat_file(self.full(name), start=0)))
            except (FileNotFoundError, NotADirectoryError):
                return None

    def read_range(self, name: str, start: int, end: int) -> bytes:
        """Return bytes of a file, from start to before end; raise FileNotFoundError."""
        with self.explained("read", name, (FileNotFoundError,)):
            return bytes(self._do(lambda: self.fs.cat_file(self.full(name), start=start, end=end)))

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
                info = self._do(lambda: self.fs.info(self.full(name)))
                return int(info["size"]) if info["type"] == "file" else None
            except (FileNotFoundError, NotADirectoryError):
                return None

    def sizes(self, folder: str, recursive: bool = False) -> dict[str, int]:
        """Return the files in a folder with their bytes; {} where there is no such folder.

        Keys are relative to the folder. recursive: also what lies in its subfolders.
        """
        files = self.files(folder, recursive)
        return {name: int(info["size"] or 0) for name, info in files.items()}

    def files(self, folder: str, recursive: bool = False) -> dict[str, dict[str, Any]]:
        """Return the files in a folder with what the file system says of each, size and more."""
        with self.explained("list", folder):
            return self._do(lambda: list_files(self.fs, self.full(folder), recursive))

    def ages(self, folder: str, recursive: bool = False) -> dict[str, float]:
        """Return the files in a folder with the seconds since each was written.

        0 where it went meanwhile, or nobody knows.
        """
        files = self.files(folder, recursive)
        return {name: self._age(f"{folder}/{name}", info) for name, info in files.items()}

    def _age(self, name: str, info: Mapping[str, Any]) -> float:
        # What S3, Google's store and Azure's say in a listing needs no request for each file.
        written = modified(info)
        if not isinstance(written, datetime.datetime):
            with self.explained("read", name):
                try:
                    written = self._do(lambda: self.fs.modified(self.full(name)))
                except (FileNotFoundError, NotImplementedError):
                    return 0.0
        if written.tzinfo is None:
            written = written.replace(tzinfo=datetime.timezone.utc)
        return max(0.0, (datetime.datetime.now(datetime.timezone.utc) - written).total_seconds())

    def write(self, name: str, data: bytes, durable: bool = True) -> None:
        """Write a file whole, in the place of what was there.

        durable: it shall outlive a power cut, not only the death of the process.
        """
        with self.explained("write", name):
            if not self.local:
                self._do(lambda: self.fs.pipe_file(self.full(name), data))
                return
            with self._temporary(data, durable) as temporary:
                into_folder(self.full(name), lambda path: os.replace(temporary, path))
            if durable:
                self.sync(name)

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless there is one; return whether this call wrote it.

        Of any number of calls at once, one returns True, and nobody ever sees half a file. It
        rests on a condition that the store itself checks: If-None-Match on S3, a generation
        of 0 on Google's store. data: bytes that no other caller has.
        """
        with self.explained("write", name):
            try:
                if not self.local:
                    self._do(lambda: self.fs.pipe_file(self.full(name), data, mode="create"))
                    return True
                with self._temporary(data, durable=True) as temporary:
                    into_folder(self.full(name), lambda path: os.link(temporary, path))
                self.sync(name)
                return True
            except OSError as error:
                if not was_there(error):
                    raise
                # A request whose answer was lost was sent again, and found its own file.
                return not self.local and self.read(name) == data

    def copy(self, source: str, target: str) -> bool:
        """Give a file a second name, which no other file ever has; False where it is not there.

        On a disk it is one file with two names, elsewhere a copy that the store makes itself.
        """
        with self.explained("write", target):
            try:
                if not self.local:
                    self._do(lambda: self.fs.cp_file(self.full(source), self.full(target)))
                    return True
                with contextlib.suppress(FileExistsError):
                    into_folder(self.full(target), lambda path: os.link(self.full(source), path))
                return True
            except FileNotFoundError:
                return False

    def remove(self, name: str) -> None:
        """Remove a file if it is there."""
        with self.explained("remove", name), contextlib.suppress(FileNotFoundError):
            self._do(lambda: self.fs.rm_file(self.full(name)))

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
        if not self.local:
            return
        # Another run may have removed it, since it is empty.
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def check_writable(self, *folders: str) -> None:
        """Raise OutputError unless the root lets a job do what it will do at its end.

        That is to create files on the condition that there is none, and to bring files and
        folders from the staging folder into `folders`.
        """
        probe = f"{TEMPORARY}/{uuid.uuid4().hex}"
        try:
            if not self.create(probe, b"one") or self.create(probe, b"two"):
                raise OutputError(
                    f"{self.url}: the store overwrites a file that shall only be created, so runs "
                    "could not tell who was first; use one that supports conditional writes"
                )
            for folder in folders if self.local else ():
                self._check_links(probe, folder)
        finally:
            with contextlib.suppress(OutputError):
                self.remove(probe)

    def _check_links(self, probe: str, folder: str) -> None:
        inside, prepared = f"{folder}/.{uuid.uuid4().hex}", f"{probe}.folder"
        try:
            os.makedirs(self.full(prepared))
            os.link(self.full(probe), self.full(f"{prepared}/file"))
            into_folder(self.full(inside), lambda path: os.rename(self.full(prepared), path))
        except OSError as error:
            raise OutputError(
                f"cannot publish to {self.url}/{folder}: files of {self.url}/_staging cannot be "
                f"linked and moved there ({error.strerror}); both must lie on one disk that has "
                "hard links"
            ) from error
        finally:
            for left in (prepared, inside):
                shutil.rmtree(self.full(left), ignore_errors=True)
            with contextlib.suppress(OSError):
                os.rmdir(self.full(folder))

    @contextlib.contextmanager
    def _temporary(self, data: bytes, durable: bool) -> Iterator[str]:
        name = f"{TEMPORARY}/{uuid.uuid4().hex}"
        try:
            with into_folder(self.full(name), lambda path: open(path, "xb")) as file:
                file.write(data)
                if durable:
                    file.flush()
                    os.fsync(file.fileno())
            yield self.full(name)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(self.full(name))

    def _do(self, request: Callable[[], _Result]) -> _Result:
        return request() if self.local else retry(request)

    @contextlib.contextmanager
    def explained(
        self, verb: str, name: str, but: tuple[type[Exception], ...] = ()
    ) -> Iterator[None]:
        """Turn what the file system raises, `but` for some, into OutputError: verb and file."""
        try:
            yield
        except Exception as error:
            if isinstance(error, (DRFError, *but)):
                raise
            where = f"{self.url}/{name}" if name else self.url
            # Stores have no folders to lack, and gcsfs then says nothing but its request's URL.
            lacks = verb == "write" and not self.local and isinstance(error, FileNotFoundError)
            reason = _NO_BUCKET if lacks else reason_of(error)
            read_only = isinstance(error, OSError) and error.errno == errno.EROFS
            refused = verb == "write" and (isinstance(error, PermissionError) or read_only or lacks)
            kind = OutputRefusedError if refused else OutputError
            raise kind(f"cannot {verb} {where}: {reason}") from error


def open_store(url: str) -> Store:
    """Return the store of an output root: a local path or any fsspec URL.

    Raises OutputError where fsspec knows no such protocol or its package is not installed.
    """
    try:
        fs, root = open_url(url)
    except Exception as error:
        raise OutputError(f"cannot use {redact(url)} as output: {reason_of(error)}") from error
    return Store(fs, root)


def in_parallel(
    function: Callable[[_Item], _Result], items: Iterable[_Item], workers: int = 16
) -> list[_Result]:
    """Return function(item) for every item, in order; stores answer slowly, but many at once."""
    if workers == 1:
        return [function(item) for item in items]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(function, items))


def to_json(value: Any) -> bytes:
    """Return JSON bytes that are equal for equal values."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
