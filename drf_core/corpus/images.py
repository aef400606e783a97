"""Encoded images of a corpus that lie in a file: too many to hold in memory."""

from __future__ import annotations

import hashlib
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An encoded image in a file, equal to another of the same digest.

    digest: see `image_digest`. start, length: in bytes.
    """

    digest: bytes
    file: IO[Any] = field(compare=False, repr=False)
    start: int = field(compare=False)
    length: int = field(compare=False)

    def read(self) -> bytes:
        """Return its bytes; safe to call from any thread."""
        return os.pread(self.file.fileno(), self.length, self.start)


class ImageFile:
    """A file without a name in a folder, gone when nothing refers to its images any more."""

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self._end = 0

    def store(self, image: bytes) -> StoredImage:
        """Append an image. Raises OSError where the disk is full."""
        self._file.write(image)
        self._file.flush()
        start, self._end = self._end, self._end + len(image)
        return StoredImage(image_digest(image), self._file, start, len(image))


def image_bytes(image: bytes | StoredImage | None) -> bytes | None:
    """The encoded image, wherever it lies."""
    return image.read() if isinstance(image, StoredImage) else image


def image_digest(image: bytes | StoredImage | None) -> bytes:
    """BLAKE2b of the encoded image, (16,) bytes; of no image that of none."""
    if isinstance(image, StoredImage):
        return image.digest
    return hashlib.blake2b(image or b"", digest_size=16).digest()
