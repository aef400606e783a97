"""Which files input paths name: a file, what lies in a folder, what a glob matches."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from pipelines.posts.kinds import is_parquet_name, may_be_parquet
from pipelines.posts.names import without_query
from pipelines.posts.record_files import KINDS, is_records_file
from pipelines.storage.backends import content_checksum, open_url
from pipelines.storage.files import in_parallel, open_store
from pipelines.storage.listing import list_files
from pipelines.storage.redaction import reason_of, redact
from pipelines.storage.retrying import retry
from pipelines.storage.table_logs import files_of_table, table_format
from schemas.errors import DRFError, UsageError

_MAGIC = re.compile(r"[*?\[]")

# What is left of a URL whose variable is empty; some stores would look for what they may list.
_NO_NAMES = ("s3://", "gs://", "gcs://", "az://", "abfs://", "http://", "https://", "hf://")

# What a web server answers where there is no such file, and will be none.
_GONE = (404, 410)


def check_paths(paths: Iterable[str], option: str) -> None:
    """Raise UsageError where a path names nothing; asked before anything large is imported."""
    for path in paths:
        find_files(path, None, option, set())


def find_files(
    path: str, output: str | None, option: str, skipped: set[str]
) -> tuple[str, list[tuple[str, str, Mapping[str, Any] | None]], set[str]]:
    """Return root, [(URL, name relative to the root's folder, info)], and hidden partitions.

    skipped: gets the names of what a folder holds beside. info: what a store's listing says of
    the file, which saves a request for each.
    """
    shown = redact(path)
    if not path.strip() or path.lower() in _NO_NAMES:
        raise UsageError(f"{option} {shown!r}: names nothing; is a variable empty?")
    try:
        fs, inner = open_url(path)
        try:
            kind = info_of(fs, inner)["type"]
        except FileNotFoundError:
            if not _MAGIC.search(inner):
                what = "file, folder or bucket" if "://" in path else "file or folder"
                raise UsageError(f"{option} {shown}: no such {what}") from None
            kind = "glob"
        url_of = _url_maker(path, inner, fs)
        if kind == "file":
            _check_apart(url_of(inner), False, output, shown)
            name = without_query(inner).rpartition("/")[2]
            return url_of(inner), [(url_of(inner), name, None)], set()
        if kind not in ("directory", "glob"):
            raise UsageError(f"{option} {shown}: is neither a file nor a folder")
        _check_in_no_table(fs, inner, kind)
        beside: set[str] = set()
        if kind == "directory":
            root, below = inner.rstrip("/"), _files_below(fs, inner, beside)
        else:
            root = inner[: _MAGIC.search(inner).start()].rpartition("/")[0]  # type: ignore[union-attr]
            below = _matches(fs, inner, root, beside)
        skipped |= beside
    except UsageError as error:
        raise error if str(error).startswith(option) else UsageError(f"{option} {error}") from error
    except DRFError:
        raise
    except Exception as error:
        raise UsageError(f"{option} {shown}: cannot be listed: {reason_of(error)}") from error
    names = [name for name in below if not _hidden(name)]
    if not names:
        what = "matches no file"
        if kind == "directory":
            what = f"the folder holds no file of posts ({', '.join(KINDS)})"
            if beside:
                what += f", but {min(beside)}; name a file itself to be told what it is"
        raise UsageError(f"{option} {shown}: {what}")
    _check_apart(url_of(root), kind == "directory", output, shown)
    found = [(url_of(f"{root}/{name}"), name, below[name]) for name in names]
    for url, _, _ in found:
        _check_apart(url, False, output, shown)
    # Nobody misses what a writer left behind (_temporary), but a partition may have been meant.
    folders = {part for name in below for part in name.split("/")[:-1]}
    return url_of(root), found, {part for part in folders if "=" in part and _hidden(part)}


def _check_in_no_table(fs: fsspec.AbstractFileSystem, inner: str, kind: str) -> None:
    """Raise UsageError for what lies in a table, of whose files only its log tells which count."""
    folder = inner.rstrip("/")
    if kind == "glob":
        folder = f"{inner[: _MAGIC.search(inner).start()].rpartition('/')[0]}/*"  # type: ignore[union-attr]
    while "/" in (above := folder.rpartition("/"))[0]:
        # Partitions lie in a table, and an Iceberg table's files in its folder `data`.
        folder, _, last = above
        marks = [f"{folder}/{mark}" for mark in ("_delta_log", ".hoodie")]
        iceberg = last == "data" and fs.glob(f"{folder}/metadata/*.metadata.json")
        if iceberg or any(_exists(fs, mark) for mark in marks):
            raise UsageError(
                f"{redact(folder)}: is a table's folder, whose log tells which of its files count; "
                "name the folder itself"
            )
        name = folder.rpartition("/")[2]
        if "=" not in name and name != "data":
            break


def _exists(fs: fsspec.AbstractFileSystem, path: str) -> bool:
    # Not every store has a path above every other: hf://datasets/OWNER has none.
    try:
        return bool(fs.exists(path))
    except ValueError:
        return False


def _files_below(
    fs: fsspec.AbstractFileSystem, folder: str, skipped: set[str]
) -> dict[str, Mapping[str, Any] | None]:
    """Return a folder's Parquet files, or where it has none its other files of posts, .json last.

    skipped: gets the names of the others. A name that says nothing is asked for its first bytes.
    Raises UsageError for the folder of a table whose files only its log tells apart.
    """
    files = retry(lambda: list_files(fs, folder, recursive=True))
    if (table := table_format(files)) is not None:
        url = folder if isinstance(fs, LocalFileSystem) else str(fs.unstrip_protocol(folder))
        live = files_of_table(url, table, files)
        files = {name: info for name, info in files.items() if name in live}
    unknown = [
        name
        for name, info in files.items()
        if not _hidden(name) and may_be_parquet(name) and info.get("size")
    ]
    heads = in_parallel(lambda name: read_range(fs, f"{folder.rstrip('/')}/{name}", 0, 4), unknown)
    by_content = {
        name for name, head in zip(unknown, heads, strict=True) if head in (b"PAR1", b"PARE")
    }
    # .json may be anything beside other files; alone, it is what Spark calls its JSON Lines.
    ways: list[Callable[[str], bool]] = [
        lambda name: is_parquet_name(name) or name in by_content,
        lambda name: is_records_file(name, in_folder=True),
        is_records_file,
    ]
    found: dict[str, Mapping[str, Any] | None] = {}
    for is_wanted in ways:
        if not any(not _hidden(name) for name in found):
            wanted = {name: info for name, info in files.items() if is_wanted(name)}
            found |= {
                name: info if content_checksum(info) else None for name, info in wanted.items()
            }
    skipped.update(name for name in files if name not in found and not _hidden(name))
    return found


def tell_skipped(names: Sequence[str]) -> list[str]:
    """One warning of all files that are not read, without those that writers leave by the way."""
    told = [name for name in names if not name.endswith((".crc", ".json", ".md", ".txt"))]
    if not told:
        return []
    some = ", ".join(told[:3]) + (" and others" if len(told) > 3 else "")
    return [f"{len(told)} files are no Parquet by name or content and are not read: {some}"]


def _matches(
    fs: fsspec.AbstractFileSystem, pattern: str, root: str, skipped: set[str]
) -> dict[str, Mapping[str, Any] | None]:
    found: dict[str, Mapping[str, Any] | None] = {}
    for path, info in retry(lambda: fs.glob(pattern, detail=True)).items():
        name = path[len(root) + 1 :]
        if info["type"] == "directory":
            below = _files_below(fs, path, skipped)
            # `**` matches its own root, too.
            inside = f"{name.rstrip('/')}/".lstrip("/")
            found |= {f"{inside}{inner}": info for inner, info in below.items()}
        else:
            found[name] = info if content_checksum(info) else None
    return dict(sorted(found.items()))


def _hidden(name: str) -> bool:
    return any(part.startswith((".", "_")) for part in name.split("/"))


def _url_maker(path: str, inner: str, fs: fsspec.AbstractFileSystem) -> Callable[[str], str]:
    """Return what makes a URL, with the host and user of `path`, of a path on its store."""
    if isinstance(fs, LocalFileSystem):
        return lambda found: found
    given = path.rstrip("/")
    if given.endswith(inner.rstrip("/")):
        prefix = given[: len(given) - len(inner.rstrip("/"))]
        return lambda found: prefix + found
    return lambda found: str(fs.unstrip_protocol(found))


def _check_apart(url: str, folder: bool, output: str | None, shown: str) -> None:
    if output is None:
        return
    store = open_store(output)
    out = store.root if store.local else str(store.fs.unstrip_protocol(store.root))
    if url == out or url.startswith(out.rstrip("/") + "/"):
        raise UsageError(
            f"--input {shown}: lies in the output {redact(output)}; "
            "annotations are no posts, name another folder"
        )
    if folder and out.startswith(url.rstrip("/") + "/"):
        raise UsageError(
            f"--output {redact(output)} lies in the input folder {shown}: the next run would "
            "read annotations as posts; name a folder outside it"
        )


def info_of(fs: fsspec.AbstractFileSystem, path: str) -> dict[str, Any]:
    """What a store says of a path. Raises FileNotFoundError only where it says: there is none."""
    # Not every store has a parent for every path: hf://datasets/OWNER/NAME.
    with contextlib.suppress(ValueError):
        fs.invalidate_cache(fs._parent(path))
    try:
        return retry(lambda: fs.info(path))
    except FileNotFoundError as error:
        # These say so of whatever went wrong; S3's and Google's mean it.
        says_little = {"http", "https", "hf"}.intersection(
            [fs.protocol] if isinstance(fs.protocol, str) else fs.protocol
        )
        cause = error.__cause__
        answer = getattr(cause, "response", None)
        status = getattr(cause, "status", getattr(answer, "status_code", None))
        if says_little and cause is not None and status not in _GONE:
            raise OSError(f"no answer of the server's that counts: {reason_of(cause)}") from cause
        raise


def read_range(fs: fsspec.AbstractFileSystem, path: str, start: int, end: int) -> bytes:
    """Return a part of a file. Raises what the store raises."""
    return bytes(retry(lambda: fs.cat_file(path, start=start, end=end)))
