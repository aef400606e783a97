"""One name for an input file, however the input is written: the one that the output has.

A file's name in the rows follows from how the input was given when it was first published
(`posts` names it a/x.parquet, `posts/a` x.parquet). From then on its path decides.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from typing import TypeVar

from pipelines.annotate.output.ledger import Ledger
from pipelines.posts.input_files import FailedFile, InputFile
from pipelines.posts.inputs import InputListing
from pipelines.posts.names import partition_of
from pipelines.storage.redaction import redact

_File = TypeVar("_File", InputFile, FailedFile)


def keep_names(listing: InputListing, ledgers: Mapping[str, Ledger]) -> InputListing:
    """Return the listing, its files named as they are published. ledgers: by partition.

    A file that is not published and would have such a name gets more of its path.
    """
    listed: list[InputFile | FailedFile] = [*listing.files, *listing.failed]
    known: dict[str, str] = {}
    for partition in {file.partition for file in listed} & ledgers.keys():
        known |= {_place(file.path): name for name, file in ledgers[partition].files.items()}
    names: dict[str, str] = {}
    for file in listed:
        name = known.get(_place(redact(file.path)))
        if name is not None and partition_of(name) == file.partition:
            names[file.path] = name
    if not names:
        return listing
    taken = set(names.values())
    for file in listed:
        if file.path not in names:
            names[file.path] = _free(file.source_file, file.path, taken)
            taken.add(names[file.path])
    paths = {file.source_file: file.path for file in listed}
    return dataclasses.replace(
        listing,
        files=_renamed(listing.files, names),
        failed=_renamed(listing.failed, names),
        kept={names[paths[name]]: fields for name, fields in listing.kept.items()},
    )


def _place(path: str) -> str:
    return path if "://" in path else os.path.realpath(path)


def _free(name: str, path: str, taken: set[str]) -> str:
    """Return the shortest end of a path that is no other file's name, at least `name`."""
    folders = redact(path).removesuffix(name).rstrip("/").split("/")
    while name in taken and folders:
        name = f"{folders.pop()}/{name}"
    return name


def _renamed(files: Iterable[_File], names: Mapping[str, str]) -> tuple[_File, ...]:
    renamed = (dataclasses.replace(file, source_file=names[file.path]) for file in files)
    return tuple(sorted(renamed, key=lambda file: file.source_file))
