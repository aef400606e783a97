"""One's own corpus: a table of posts (csv, tsv, jsonl) that names each image's file."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pipelines.importing.corpus import Corpus, RawPost, check_new
from schemas.errors import DRFError, SchemaError, UsageError
from schemas.posts import PostColumns

NO_LABEL = "without a label"

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSON_LINES = (".jsonl", ".ndjson")

Row = dict[str, Any]


def read_table(
    path: Path, columns: PostColumns, label_column: str | None, image_folder: Path | None = None
) -> Corpus:
    """Return the posts of a table in UTF-8; the first row of csv and tsv names columns.

    The image column holds paths, absolute or relative to the table's folder. columns.text or
    .image None: the corpus has none. Posts without a label are dropped, unless label_column is
    None: no post has one then. The labels are those that occur. image_folder: in which images
    may lie, too; a table, which may be a stranger's, names no file anywhere else.
    Raises UsageError for a path that is no such table or labels in a column of another part,
    SchemaError for a missing column, DRFError naming the row for what cannot be read, has no or
    a repeated id, a URL for an image, a file outside those folders, or a value of the wrong type.
    """
    if label_column is not None and label_column in (columns.post_id, columns.text, columns.image):
        raise UsageError(
            f"--label-column {label_column}: is read as another part of the post; "
            "name the column that holds the labels"
        )
    corpus = Corpus(path.name, ())
    seen: dict[str, str] = {}
    labels: set[str] = set()
    columns_found: dict[str, None] = {}
    roots = [folder.resolve() for folder in (path.parent, image_folder) if folder is not None]
    for where, row in _rows(path):
        columns_found.update(dict.fromkeys(row))
        if columns.post_id not in row:
            raise _missing("post_id", columns.post_id, row, where)
        post_id = (_text(row, columns.post_id, where, numbers=True) or "").strip()
        check_new(post_id, seen, where)
        label = _text(row, label_column, where)
        if label is None and label_column is not None:
            corpus.dropped[post_id] = NO_LABEL
            continue
        if label is not None:
            label = label.strip()
            labels.add(label)
        image = _text(row, columns.image, where)
        if image and "://" in image:
            raise DRFError(
                f"{where}: column {columns.image!r}: is a URL, expected the path of a file; fetch "
                "the images first, or say --column image="
            )
        corpus.posts.append(
            RawPost(
                post_id,
                label,
                _text(row, columns.text, where),
                _within(roots, path.parent / image.strip(), where) if image else None,
                where,
            )
        )
    if not seen:
        raise UsageError(f"{path}: holds no posts")
    for role, name in (("text", columns.text), ("image", columns.image), ("label", label_column)):
        if name is not None and name not in columns_found:
            raise _missing(role, name, columns_found, str(path))
    if not corpus.posts:
        raise UsageError(
            f"{path}: no post has a label in column {label_column!r}; name another with "
            "--label-column, or say --label-column= for posts without labels"
        )
    corpus.labels = tuple(sorted(labels))
    return corpus


def _within(roots: Sequence[Path], image: Path, where: str) -> Path:
    if not any(image.resolve().is_relative_to(root) for root in roots):
        raise DRFError(
            f"{where}: the image lies outside the table's folder; name the folder of the images "
            "with --image-folder"
        )
    return image


def _rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield (where, row); a row of csv is named by the line on which it ends."""
    suffix = path.suffix.lower()
    if suffix not in (*_DELIMITERS, *_JSON_LINES):
        raise UsageError(
            f"{path}: expected a table called {', '.join(f'*{s}' for s in _DELIMITERS)} "
            f"or *{_JSON_LINES[0]}"
        )
    # Texts may be longer than what the csv module takes for a mistake.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    line = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            if suffix in _JSON_LINES:
                for line, content in enumerate(file, start=1):
                    if content.strip():
                        yield f"{path}: line {line}", _json_row(content, f"{path}: line {line}")
                return
            reader = csv.DictReader(file, delimiter=_DELIMITERS[suffix], strict=True)
            names = reader.fieldnames or ()
            if twice := [name for name in names if list(names).count(name) > 1]:
                raise DRFError(f"{path}: has more than one column {twice[0]!r}; rename one")
            for row in reader:
                line = reader.line_num
                if None in row or None in row.values():
                    raise DRFError(
                        f"{path}: line {line}: has {_fields(row)} fields, the header "
                        f"{len(names)}; quote texts that contain the separator"
                    )
                yield f"{path}: line {line}", row
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such file") from error
    except OSError as error:
        raise DRFError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise DRFError(
            f"{path}: soon after line {line}: is not UTF-8; save the table as UTF-8"
        ) from error
    except csv.Error as error:
        raise DRFError(f"{path}: the row after line {line}: {error}") from error


def _fields(row: Row) -> int:
    more = len(row.get(None, ()))  # type: ignore[call-overload]
    return sum(value is not None for name, value in row.items() if name is not None) + more


def _json_row(content: str, where: str) -> Row:
    try:
        row = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise DRFError(f"{where}: is not valid JSON ({error})") from error
    if not isinstance(row, dict):
        raise DRFError(f"{where}: expected an object with a post's columns")
    return row


def _missing(role: str, name: str, columns: Iterable[str], where: str) -> SchemaError:
    option = "--label-column NAME" if role == "label" else f"--column {role}=NAME"
    none = {"post_id": "", "label": ", or say --label-column="}.get(
        role, f", or say --column {role}="
    )
    expected = "the path of the image's file" if role == "image" else f"the post's {role}"
    way_out = f"name it with {option}{none} (the table has {', '.join(columns)})"
    return SchemaError(where, name, "no such column", expected, way_out)


def _text(row: Row, column: str | None, where: str, numbers: bool = False) -> str | None:
    """A cell, None where it is absent or blank."""
    value = row.get(column) if column is not None else None
    if value is None or isinstance(value, str):
        return _whole(value) if value and value.strip() else None
    if numbers and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise DRFError(f"{where}: column {column!r}: found {type(value).__name__}, expected a string")


def _whole(text: str) -> str:
    """The text with U+FFFD for half characters, which no UTF-8 can hold.

    JSON has them where somebody cut a text in the middle of an emoji.
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
