"""Posts to label and answers, as tables and as labelling tools have them.

csv: one row per post with an empty column `answer`, pictures in a folder beside. label-studio: its
task format, a JSON array, and its JSON export. argilla: a JSON line per record, with fields,
metadata and responses.
"""

from __future__ import annotations

import base64
import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from schemas.errors import UsageError

FORMATS = ("csv", "label-studio", "argilla")

# What travels with a post, there and back.
FIELDS = ("post_id", "source_file", "source_row", "label", "confidence", "kind", "weight", "run_id")

# A spreadsheet runs what begins like a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def write_posts(
    path: Path, kind: str, posts: Sequence[Mapping[str, Any]], labels: Sequence[str]
) -> None:
    """Write posts to label.

    posts: FIELDS, text and image (a data: URI, an address or None) of each.
    """
    if kind == "csv":
        folder = path.with_name(f"{path.stem}_images")
        with path.open("w", encoding="utf-8", newline="") as file:
            names = [*FIELDS, "text", "image", "answer"]
            writer = csv.DictWriter(file, names, extrasaction="ignore")
            writer.writeheader()
            for number, post in enumerate(posts, 1):
                image = _beside(post["image"], folder / f"{number:05}.webp")
                cells = {"text": _cell(post["text"]), "image": _cell(image), "answer": ""}
                writer.writerow({**post, **cells})
        return
    if kind == "label-studio":
        tasks = [
            {"data": {**_meta(post), "text": post["text"], "image": post["image"]}}
            for post in posts
        ]
        path.write_text(json.dumps(tasks, ensure_ascii=False, indent=1), encoding="utf-8")
        return
    with path.open("w", encoding="utf-8") as file:
        for post in posts:
            record = {
                "id": f"{post['source_file']}:{post['source_row']}",
                "fields": {"text": post["text"] or "", "image": post["image"]},
                "metadata": _meta(post),
                "responses": {},
                "question": {"name": "label", "labels": list(labels)},
            }
            file.write(json.dumps(record, ensure_ascii=False) + "\n")


def read_answers(path: Path) -> list[dict[str, Any]]:
    """Return the posts of a file that came back and were answered: FIELDS and answer.

    Of several answers to a post the last counts. Raises UsageError, naming file and row.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--import {path}: cannot be read ({type(error).__name__})") from error
    records: Iterable[tuple[Mapping[str, Any], Any]]
    try:
        if text.lstrip().startswith("["):
            records = [(task.get("data", {}), _choice(task)) for task in json.loads(text)]
        elif text.lstrip().startswith("{"):
            lines = [json.loads(line) for line in text.splitlines() if line.strip()]
            records = [(line.get("metadata", {}), _response(line)) for line in lines]
        else:
            rows = csv.DictReader(text.splitlines(keepends=True))
            records = [(row, row.get("answer")) for row in rows]
    except (ValueError, AttributeError, KeyError, IndexError, TypeError) as error:
        raise UsageError(
            f"--import {path}: is none of the formats that --export writes "
            f"({type(error).__name__}); give the tool's JSON export, or the csv with its column "
            "`answer` filled"
        ) from error
    answers: dict[tuple[str, int], dict[str, Any]] = {}
    for number, (fields, answer) in enumerate(records, 1):
        if not answer or not str(answer).strip():
            continue
        missing = [name for name in FIELDS if name not in fields]
        if missing:
            raise UsageError(
                f"--import {path}, row {number}: lacks {missing[0]}; leave the columns that "
                "--export wrote as they are"
            )
        try:
            found = {
                **{name: fields[name] for name in FIELDS},
                "source_row": int(fields["source_row"]),
                "weight": float(fields["weight"]),
                "answer": str(answer).strip(),
            }
        except ValueError as error:
            raise UsageError(f"--import {path}, row {number}: {error}") from error
        answers[found["source_file"], found["source_row"]] = found
    return list(answers.values())


def _meta(post: Mapping[str, Any]) -> dict[str, Any]:
    return {name: post[name] for name in FIELDS}


def _beside(image: str | None, path: Path) -> str | None:
    """What a table says of an image: its address, or where its bytes were written."""
    if image is None or not image.startswith("data:"):
        return image
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(base64.b64decode(image.partition(",")[2]))
    return f"{path.parent.name}/{path.name}"


def _cell(text: str | None) -> str:
    text = (text or "").replace("\0", "\N{SYMBOL FOR NULL}")
    return f"'{text}" if text.startswith(_FORMULA) else text


def _choice(task: Mapping[str, Any]) -> str | None:
    """The label that Label Studio's last finished annotation chose."""
    for annotation in reversed(task.get("annotations") or []):
        if annotation.get("was_cancelled"):
            continue
        for result in annotation.get("result") or []:
            if choices := result.get("value", {}).get("choices"):
                return str(choices[0])
    return None


def _response(record: Mapping[str, Any]) -> str | None:
    """The label that Argilla's last submitted response gave."""
    responses = (record.get("responses") or {}).get("label") or []
    submitted = [one for one in responses if one.get("status", "submitted") == "submitted"]
    return str(submitted[-1]["value"]) if submitted else None
