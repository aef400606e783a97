"""What input files are called in the rows, and which of their names cannot stand."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence

from pipelines.posts.date_folders import DateFolders
from pipelines.storage.redaction import redact
from schemas.annotations import annotations_schema
from schemas.dead_letters import dead_letters_schema
from schemas.errors import UsageError

# By URL: (source_file, partition).
Names = Mapping[str, tuple[str, str]]


def name_of(url: str, relative: str, dates: DateFolders | None = None) -> tuple[str, str]:
    """Return (source_file, partition) of an input file; relative: its name below the root.

    dates: the folders that stand for a partition without saying its key. Raises UsageError for
    a file that lies in none of those.
    """
    # A bucket, host or user is no folder, and what signs a request is no name.
    path = without_query(url).partition("://")[2].partition("/")[2] if "://" in url else url
    folders = path.split("/")
    if dates is not None:
        found = dates.find("/".join(folders[:-1]))
        if found is None:
            raise UsageError(
                f"--partition: {redact(url)} lies in no folder like {dates.format}; leave it out "
                "of --input"
            )
        source_file = "/".join([part for part in (*found, folders[-1]) if part])
        return source_file, partition_of(source_file)
    first = next((i for i, part in enumerate(folders[:-1]) if _is_hive(part)), None)
    source_file = without_query(relative) if first is None else "/".join(folders[first:])
    return source_file, partition_of(source_file)


def partition_of(source_file: str) -> str:
    """Return the hive partition that a source_file lies in: its key=value folders."""
    return "/".join(part for part in source_file.split("/")[:-1] if _is_hive(part))


def told_apart(source_files: Iterable[str]) -> list[str]:
    """Return the names that say which partition they are of: any may hold a posts.parquet."""
    return sorted({name for name in source_files if partition_of(name)})


def without_query(url: str) -> str:
    """Return a web address without its query; other stores' names may have a "?" in them."""
    return url.partition("?")[0] if url.startswith(("http://", "https://")) else url


def same_input(url: str, other: str) -> bool:
    """Whether two URLs mean one file: alike but for credentials, or one file of this disk."""
    if redact(url) == redact(other):
        return True
    if "://" in url or "://" in other:
        return False
    return os.path.realpath(url) == os.path.realpath(other)


def check_names(named: Names, keep: Sequence[str]) -> None:
    """Raise UsageError where two inputs have one name, or a hive key is a column's name.

    keep: the kept columns. Readers put a hive key in the place of a column of that name,
    many of them whatever its case.
    """
    urls: dict[str, str] = {}
    schemas = (annotations_schema(("any",)), dead_letters_schema())
    columns = {name.lower() for name in (*keep, *(name for one in schemas for name in one.names))}
    for url, (source_file, partition) in named.items():
        other = urls.setdefault(source_file, url)
        if other != url:
            raise UsageError(
                f"--input: {redact(other)} and {redact(url)} would both be source_file "
                f"'{source_file}'; give the folder above both, or annotate them into two outputs"
            )
        for folder in partition.split("/"):
            key = folder.partition("=")[0]
            if key.lower() in columns:
                raise UsageError(
                    f"--input: readers would take the folder {folder} of {redact(url)} for the "
                    f"column {key} of the rows; rename the folder"
                )


def once_each(named: Names) -> tuple[Names, list[str]]:
    """Return the names of each file of this disk once, and warnings of links left out."""
    spellings: dict[str, list[str]] = {}
    for url in named:
        spellings.setdefault(url if "://" in url else os.path.realpath(url), []).append(url)
    kept = {
        real: urls[0] if len(urls) == 1 else min(urls, key=_links)
        for real, urls in spellings.items()
    }
    warnings = [
        f"{redact(url)} is the same file as {redact(kept[real])}; it is annotated once"
        for real, urls in spellings.items()
        for url in urls
        if url != kept[real]
    ]
    return {url: named[url] for url in kept.values()}, warnings


def is_text(name: str) -> bool:
    """Whether a name can be written: those of a disk may be any bytes."""
    return name.isascii() or not _lone_surrogates(name)


def as_text(name: str) -> str:
    """Return a name with the bytes that are not UTF-8 spelled out."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _lone_surrogates(name: str) -> Iterable[str]:
    return [character for character in name if "\ud800" <= character <= "\udfff"]


def _links(path: str) -> int:
    """Return how many of a path's folders, itself included, are links."""
    links = 0
    while path != os.path.dirname(path):
        links += os.path.islink(path)
        path = os.path.dirname(path)
    return links


def _is_hive(part: str) -> bool:
    key, equals, value = part.partition("=")
    return bool(key and equals and value)
