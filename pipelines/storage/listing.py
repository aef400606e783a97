"""What lies in a folder of a file system, with nothing left out in silence."""

from __future__ import annotations

import errno
import os
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


def list_files(
    fs: fsspec.AbstractFileSystem, folder: str, recursive: bool
) -> dict[str, dict[str, Any]]:
    """Return files by name relative to a folder, sorted; {} if there is no such folder.

    Each with what the file system says of it, at least its size. Unlike fsspec's own walk it
    never leaves out what it could not list: it raises.
    """
    prefix = folder.rstrip("/") + "/"
    if isinstance(fs, LocalFileSystem):
        return _list_local(folder, prefix, recursive)
    fs.invalidate_cache()
    try:
        listed = fs.find(folder, detail=True).values() if recursive else fs.ls(folder, detail=True)
    except FileNotFoundError:
        return {}
    files = {
        info["name"][len(prefix) :]: info
        for info in listed
        # A name that ends in "/" is a folder as some tools make them in object stores.
        if info["type"] == "file" and info["name"].startswith(prefix) and info["name"][-1] != "/"
    }
    return dict(sorted(files.items()))


def _list_local(folder: str, prefix: str, recursive: bool) -> dict[str, dict[str, Any]]:
    files: dict[str, dict[str, Any]] = {}
    # Each with the folders, as they really are, that links on the way to it led to.
    pending: list[tuple[str, tuple[str, ...]]] = [(folder, ())]
    while pending:
        path, entered = pending.pop()
        try:
            entries = list(os.scandir(path))
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in entries:
            if _is_dir(entry):
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
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ELOOP):
                    raise
                if not entry.is_symlink():
                    continue
                # A link to nothing is there, and for its reader to complain about.
                size = 0
            files[entry.path[len(prefix) :]] = {"size": size}
    return dict(sorted(files.items()))


def _is_dir(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False
