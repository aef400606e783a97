"""From the figures of every model to the records of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drf_core.evaluation.bootstrap import differences, interval
from drf_core.evaluation.figures import METRICS, Figures
from drf_core.evaluation.protocol import Cell, groups, met_in_training
from pipelines.evaluate.details import Details
from schemas.evaluation import EVALUATION_SCHEMA

Record = dict[str, Any]

# What a record calls the fields of a difference, where they are not called so.
_DIFFERENCES = {"value": "difference", "low": "difference_low", "high": "difference_high"}


@dataclass(frozen=True)
class EvaluatedModel:
    """A model with its figures over all cells.

    revision: content hash of the checkpoint. trained_kinds: {modality: kinds of damage that
    training inflicted}, None where the checkpoint does not say.
    """

    name: str
    revision: str
    trained_kinds: Mapping[str, Sequence[str]] | None
    figures: Figures
    details: Details


def records(
    models: Sequence[EvaluatedModel], baseline: str | None, cells: Sequence[Cell], posts: int
) -> list[Record]:
    """One record per model, cell or group of cells, and metric that is defined there.

    baseline: the model that the others are compared with, None for no comparison.
    """
    members = groups(cells, [model.trained_kinds for model in models])
    made: list[Record] = []
    for scope in ("cell", "group"):
        scoped = {
            model.name: model.figures
            if scope == "cell"
            else model.figures.means_over(members.values())
            for model in models
        }
        for model in models:
            if scope == "cell":
                places = [_cell_place(cell, model) for cell in cells]
            else:
                places = [{"cell": name, "group": name} for name in members]
            other = scoped[baseline] if baseline not in (None, model.name) else None
            for place, number, measured in _measured(scoped[model.name], other, places):
                blank = dict.fromkeys(EVALUATION_SCHEMA.names)
                head = {"model": model.name, "scope": scope, "metric": METRICS[number]}
                against = {"baseline": baseline, "posts": posts}
                made.append(blank | head | place | against | measured)
    return made


def _measured(
    figures: Figures, other: Figures | None, places: Sequence[Record]
) -> Iterator[tuple[Record, int, Record]]:
    for number in range(len(METRICS)):
        values = figures.values[:, number]
        replicates = figures.replicates[:, :, number]
        compared = None
        if other is not None:
            compared = differences(
                values, replicates, other.values[:, number], other.replicates[:, :, number]
            )
        for cell, place in enumerate(places):
            if math.isnan(values[cell]):
                continue
            measured = dict(vars(interval(float(values[cell]), replicates[:, cell])))
            if compared is not None:
                against = vars(compared[cell])
                measured |= {_DIFFERENCES.get(name, name): of for name, of in against.items()}
            yield place, number, {key: _or_none(value) for key, value in measured.items()}


def _cell_place(cell: Cell, model: EvaluatedModel) -> Record:
    return {
        "cell": cell.name,
        "group": cell.group,
        "strategy": cell.strategy,
        "modality": cell.modality,
        "ratio": cell.ratio,
        "met_in_training": met_in_training(cell, model.trained_kinds),
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
