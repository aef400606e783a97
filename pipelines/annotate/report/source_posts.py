"""Posts as they came, of some annotated rows: texts and images for people to look at."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.annotate.output.ledger import LedgerFile
from pipelines.annotate.output.partition_state import read_ledgers
from pipelines.posts.input_files import RowRange
from pipelines.posts.inputs import Footer, read_footer
from pipelines.posts.reading import read_unit_rows
from pipelines.storage.backends import open_url
from pipelines.storage.files import Store
from pipelines.storage.redaction import reason_of
from schemas.posts import PostColumns, check_posts_schema

Place = tuple[str, int]


@dataclass(frozen=True)
class SourcePost:
    """One post of the input. image_uri: where its image was fetched, if it did not come along."""

    text: str | None
    image: bytes | None
    image_uri: str | None


def read_source_posts(
    files: Mapping[str, LedgerFile], places: Iterable[Place], columns: PostColumns
) -> tuple[dict[Place, SourcePost], list[str]]:
    """Return posts by (source file, source row), and why some could not be read.

    files: of the ledgers, which know where the input lay. columns: as the run mapped them.
    """
    wanted: dict[str, set[int]] = {}
    for source_file, row in places:
        wanted.setdefault(source_file, set()).add(row)
    found: dict[Place, SourcePost] = {}
    problems: list[str] = []
    for source_file, rows in sorted(wanted.items()):
        if source_file not in files:
            problems.append(f"{source_file}: no ledger knows where it lay")
            continue
        try:
            found |= _read(source_file, files[source_file], rows, columns)
        except Exception as error:
            problems.append(f"{source_file}: {reason_of(error)}")
    return found, problems


def _read(
    source_file: str, file: LedgerFile, rows: Iterable[int], columns: PostColumns
) -> dict[Place, SourcePost]:
    fs, path = open_url(file.path)
    footer = read_footer(fs, path, columns=columns)
    if footer.identity != file.identity:
        raise ValueError("it changed since it was annotated")
    layout = check_posts_schema(footer.schema, columns, (), source_file)
    ranges = [RowRange(source_file, row, 1, (_group_of(footer, row),)) for row in sorted(rows)]
    found = {}
    for _, first, batch in read_unit_rows(fs, path, ranges, layout, schema=footer.schema):
        for offset, post in enumerate(batch.select(["text", "image", "image_uri"]).to_pylist()):
            found[source_file, first + offset] = SourcePost(**post)
    return found


def _group_of(footer: Footer, row: int) -> int:
    """The row group that holds a row."""
    ends = itertools.accumulate(rows for rows, _ in footer.groups)
    return next((group for group, end in enumerate(ends) if row < end), 0)


def ledger_files(store: Store) -> dict[str, LedgerFile]:
    """Return every published input file of an output, by source_file."""
    ledgers = read_ledgers(store).values()
    return {name: file for ledger in ledgers for name, file in ledger.files.items()}


def post_columns(options: Mapping[str, Any]) -> PostColumns:
    """Return the columns that a run's manifest says it read."""
    given = options.get("rows", {}).get("columns", {})
    names = {field.name for field in dataclasses.fields(PostColumns)}
    return PostColumns(**{name: value for name, value in given.items() if name in names})
