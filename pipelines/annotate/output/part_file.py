"""A part as a file object: written with its bytes counted and hashed, read in few requests."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
import tempfile
from typing import IO

from pipelines.storage.files import Store
from pipelines.storage.retrying import retry

# Up to this size a file is one request to an object store.
_ONE_REQUEST_BYTES = 16 << 20


class PartFile:
    """A part being written: a binary file for Parquet writers that counts and hashes.

    On a local disk it grows in its place. For other stores it grows in the temporary folder,
    without a name, and is sent when it is closed: what fails on the way can be sent again as a
    whole, no half part is left in the store, and a killed process leaves nothing here.
    """

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self._name = name
        self._hash = hashlib.sha256()
        self._bytes = 0
        with store.explained("write", name):
            self._file: IO[bytes] = self._open()

    def _open(self) -> IO[bytes]:
        if not self._store.local:
            return tempfile.TemporaryFile()
        # Not the store's own open(): fsspec's local files hide their descriptor from fsync.
        path = self._store.full(self._name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return open(path, "xb")

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
        """Finish the file: durable on a local disk, there as a whole in other stores."""
        if self.closed:
            return
        with self._store.explained("write", self._name):
            try:
                self._file.flush()
                if self._store.local:
                    os.fsync(self._file.fileno())
                else:
                    self._send()
            finally:
                self._file.close()
            self._store.sync(self._name)

    def discard(self) -> None:
        """Close without finishing, and remove what was written. Raises nothing."""
        finished = self.closed
        with contextlib.suppress(Exception):
            self._file.close()
        if self._store.local or finished:
            with contextlib.suppress(Exception):
                self._store.remove(self._name)

    def _send(self) -> None:
        fs, path = self._store.fs, self._store.full(self._name)

        def send() -> None:
            self._file.seek(0)
            if self._bytes <= _ONE_REQUEST_BYTES:
                fs.pipe_file(path, self._file.read())
                return
            with fs.open(path, "wb") as target:
                shutil.copyfileobj(self._file, target, _ONE_REQUEST_BYTES)

        retry(send)

    @property
    def bytes(self) -> int:
        """How many bytes were written."""
        return self._bytes

    @property
    def sha256(self) -> str:
        """Hash of the bytes written, hexadecimal."""
        return self._hash.hexdigest()


class StoredFile(io.RawIOBase):
    """A file of a store as Parquet readers want it: a small one is read whole, in one request.

    Raises OutputError where the store refuses, which readers let through: it says nothing of
    the file's content. FileNotFoundError where there is none.
    """

    def __init__(self, store: Store, name: str, size: int) -> None:
        """Open a file. size: its bytes, as its ledger knows them."""
        self._store = store
        self._name = name
        self._size = size
        self._position = 0
        self._whole = store.read_range(name, 0, size) if size <= _ONE_REQUEST_BYTES else None

    def sha256(self) -> str:
        """Return the hash of the bytes that are there, hexadecimal."""
        digest = hashlib.sha256()
        self.seek(0)
        while data := self.read(_ONE_REQUEST_BYTES):
            digest.update(data)
        self.seek(0)
        return digest.hexdigest()

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position and return it."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, start + offset)
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Return bytes from the position on."""
        end = self._size
        if size is not None and size >= 0:
            end = min(end, self._position + size)
        start, self._position = self._position, max(self._position, end)
        if start >= end:
            return b""
        if self._whole is not None:
            return self._whole[start:end]
        return self._store.read_range(self._name, start, end)
