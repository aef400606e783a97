"""The index of an output's runs: one line of JSON per run, appended when it ends."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pipelines.annotate.report.nights import Night
from pipelines.storage.files import Store, to_json
from schemas.read_record import read_record

INDEX = "_runs/index.jsonl"


@dataclass(frozen=True)
class RunLine:
    """One run, as the index has it. options: those that change rows."""

    run_id: str
    started_at: str
    word: str
    sentence: str
    exit_code: int
    rows: int
    annotations: int
    dead_letters: int
    seconds: float
    model_id: str
    model_revision: str
    package_version: str
    options: dict[str, Any] = field(default_factory=dict)
    nights: list[Night] = field(default_factory=list)
    report: bool = True


def read_index(store: Store) -> list[RunLine]:
    """Return the runs of an output in the order in which they ended, of each id the last.

    What is no line of this version (a write that was cut off) is passed over.
    """
    data = store.read(INDEX)
    lines: dict[str, RunLine] = {}
    for text in (data or b"").decode(errors="replace").splitlines():
        try:
            line = read_record(RunLine, json.loads(text))
        except ValueError:
            continue
        lines.pop(line.run_id, None)
        lines[line.run_id] = line
    return list(lines.values())


def append_to_index(store: Store, line: RunLine) -> None:
    """Add a run's line to the index.

    On a disk the line is appended in one write, so that runs that end at once both stay. A
    bucket has no append: there the index is read and written whole, and of two runs that end in
    the same second one line may be lost; `drf runs` finds such a run by its manifest.
    """
    data = to_json(dataclasses.asdict(line)) + b"\n"
    if store.local:
        with store.explained("write", INDEX), open(store.full(INDEX), "ab") as file:
            file.write(data)
        return
    store.write(INDEX, (store.read(INDEX) or b"") + data)


def nights_of(lines: Iterable[RunLine]) -> list[Night]:
    """Return the nights of runs, held-back ones left out: their rows are in no reader's hands."""
    return [night for line in lines for night in line.nights if not night.staged]
