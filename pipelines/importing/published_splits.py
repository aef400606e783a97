"""Published splits: files that list the post ids of train, dev and test."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from pipelines.posts.splits import SPLITS
from schemas.errors import UsageError


def read_split_files(items: Sequence[str], known: set[str], source: str) -> dict[str, str]:
    """Return the split of every id in the files of `--splits NAME=FILE …`.

    Files hold an id per line, a JSON list of ids or of objects with an `id` (CLMLF's MVSA
    splits), or such objects line by line (MGNNS's TumEmo splits). known: the ids that the
    corpus names. source: where it names them.
    Raises UsageError for another form, a file that cannot be read, an id that is unknown or in
    two splits.
    """
    split_of: dict[str, str] = {}
    named: dict[str, str] = {}
    for item in items:
        name, equals, file = item.partition("=")
        if not equals or name not in SPLITS or not file:
            raise UsageError(
                f"--splits {item}: expected NAME=FILE with one of the names {', '.join(SPLITS)}"
            )
        if name in named:
            raise UsageError(f"--splits {item}: {name} is already {named[name]}")
        named[name] = file
        ids = _read_ids(item, Path(file))
        _refuse(
            (one for one in ids if one not in known),
            f"--splits {item}: post id",
            f"is not in {source}",
        )
        for other in (split for split in named if split != name):
            _refuse(
                (one for one in ids if split_of.get(one) == other),
                f"--splits {item}: post id",
                f"is in {other}={named[other]}, too",
            )
        split_of.update(dict.fromkeys(ids, name))
    return split_of


def _refuse(ids: Iterable[str], before: str, after: str) -> None:
    refused = list(dict.fromkeys(ids))
    if refused:
        more = f" (and {len(refused) - 1:,} more like it)" if len(refused) > 1 else ""
        raise UsageError(f"{before} {refused[0]!r} {after}{more}")


def _read_ids(item: str, path: Path) -> list[str]:
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"--splits {item}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--splits {item}: is not UTF-8 text") from error
    # Not splitlines: a text beside the id may hold what Unicode calls a line separator.
    lines = [line.strip() for line in content.split("\n") if line.strip()]
    if not lines:
        raise UsageError(f"--splits {item}: names no post")
    try:
        if lines[0].startswith("["):
            entries = json.loads(content)
            places = [f"entry {number}" for number in range(1, len(entries) + 1)]
        elif lines[0].startswith("{"):
            entries = [json.loads(line) for line in lines]
            places = [f"line {number}" for number in range(1, len(entries) + 1)]
        else:
            return lines
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--splits {item}: is not valid JSON ({error})") from error
    return [_id_of(item, place, entry) for place, entry in zip(places, entries, strict=True)]


def _id_of(item: str, place: str, entry: object) -> str:
    post_id = entry.get("id", entry.get("post_id")) if isinstance(entry, dict) else entry
    if isinstance(post_id, bool) or not isinstance(post_id, (str, int)):
        raise UsageError(
            f"--splits {item}: {place}: expected an id, or an object with the id as `id`"
        )
    return str(post_id).strip()
