"""What an evaluation lets one look into: a row per post, labels one by one, confidence by bins."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from drf_core.evaluation.labels import LabelFigures, confusion, label_figures, reliability
from drf_core.evaluation.predictions import Outcome
from drf_core.evaluation.protocol import CLEAN, FIXED, Cell
from drf_core.write_whole import write_whole
from schemas.annotations import MODALITIES

# The groups of cells whose labels and confidence are told apart.
LOOKED_AT = (CLEAN, FIXED)


@dataclass(frozen=True)
class PostPlace:
    """Where a post of an evaluation came from."""

    post_id: str | None
    source_file: str
    source_row: int


@dataclass(frozen=True)
class Details:
    """Of one model. figures: of each label, by cell. confusions (labels, labels) and
    reliabilities (see `reliability`): by the groups that are looked at, over all their cells.
    """

    figures: Mapping[str, Sequence[LabelFigures]]
    confusions: Mapping[str, np.ndarray]
    reliabilities: Mapping[str, np.ndarray]


def look_into(truth: np.ndarray, cells: Sequence[Cell], outcomes: Sequence[Outcome]) -> Details:
    """Details of one model; truth (posts,) label indices, outcomes: one per cell."""
    said = {cell.name: outcome.probabilities for cell, outcome in zip(cells, outcomes, strict=True)}
    pooled = {
        group: np.concatenate([said[cell.name] for cell in cells if cell.group == group])
        for group in LOOKED_AT
    }
    return Details(
        {name: label_figures(truth, probabilities) for name, probabilities in said.items()},
        {group: confusion(_repeated(truth, found), found) for group, found in pooled.items()},
        {group: reliability(_repeated(truth, found), found) for group, found in pooled.items()},
    )


def write_predictions(
    path: Path,
    model: str,
    labels: Sequence[str],
    places: Sequence[PostPlace],
    truth: np.ndarray,
    cells: Sequence[Cell],
    outcomes: Sequence[Outcome],
) -> None:
    """Write a row per post and cell: what it is, what the model said, how far it trusted what."""

    def write(unfinished: Path) -> None:
        tables = (
            _cell_table(model, labels, places, truth, cell, outcome)
            for cell, outcome in zip(cells, outcomes, strict=True)
        )
        first = next(tables)
        with pq.ParquetWriter(unfinished, first.schema, compression="zstd") as writer:
            for table in itertools.chain([first], tables):
                writer.write_table(table)

    write_whole(path, write)


def write_label_figures(path: Path, labels: Sequence[str], details: Mapping[str, Details]) -> None:
    """Write a row per model, cell and label."""
    rows = [
        {"model": model, "cell": cell, "label": label, **dataclasses.asdict(figures)}
        for model, of_model in details.items()
        for cell, of_cell in of_model.figures.items()
        for label, figures in zip(labels, of_cell, strict=True)
    ]
    write_whole(path, lambda unfinished: pq.write_table(pa.Table.from_pylist(rows), unfinished))


def describe_labels(labels: Sequence[str], details: Details) -> str:
    """Markdown: which labels are taken for which, and the figures of each, undisrupted."""
    lines = []
    for group, counts in details.confusions.items():
        head = [f"**{group}: labels (rows) as**", *labels]
        if group == CLEAN:
            head += ["precision", "recall", "F1"]
        lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for number, label in enumerate(labels):
            row = [label, *(f"{count:,}" for count in counts[number])]
            if group == CLEAN:
                of_label = details.figures[CLEAN][number]
                row += [f"{v:.3f}" for v in (of_label.precision, of_label.recall, of_label.f1)]
            lines.append(f"| {' | '.join(row)} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def suspicions(labels: Sequence[str], details: Details) -> list[str]:
    """What looks like a model that learned nothing, in words: sentences to warn with."""
    clean = details.figures[CLEAN]
    given = [label for label, of in zip(labels, clean, strict=True) if of.predicted]
    found = [f"calls every undisrupted post {given[0]}"] if len(given) == 1 else []
    if all(of_cell == clean for of_cell in details.figures.values()):
        found.append("says the same in all cells, whatever is disrupted")
    return found


def _repeated(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    return np.tile(truth, len(probabilities) // len(truth))


def _cell_table(
    model: str,
    labels: Sequence[str],
    places: Sequence[PostPlace],
    truth: np.ndarray,
    cell: Cell,
    outcome: Outcome,
) -> pa.Table:
    probabilities = outcome.probabilities.astype(np.float32)

    def named(indices: Iterable[int]) -> pa.Array:
        return pa.array([labels[index] for index in indices])

    columns = {
        "model": pa.array([model] * len(places)),
        "cell": pa.array([cell.name] * len(places)),
        "post_id": pa.array([place.post_id for place in places], pa.string()),
        "source_file": pa.array([place.source_file for place in places]),
        "source_row": pa.array([place.source_row for place in places]),
        "label": named(truth),
        "predicted": named(probabilities.argmax(1)),
        "confidence": pa.array(probabilities.max(1)),
        "probabilities": pa.StructArray.from_arrays(
            [pa.array(of) for of in probabilities.T.copy()], names=list(labels)
        ),
    }
    for number, m in enumerate(MODALITIES):
        columns[f"{m}_present"] = pa.array(outcome.present[:, number].astype(bool))
        columns[f"{m}_damaged"] = pa.array(outcome.damaged[:, number].astype(bool))
        columns[f"{m}_quality"] = pa.array(outcome.quality[:, number].astype(np.float32))
    return pa.table(columns)
