"""What dropping the damaged modality would bring, were it known, from the runs of a study.

Per cell the better of two: accuracy as it is, and accuracy of the same trainings where the
damaged modality of the same posts is withheld. It bounds what a switch that keeps or drops a
modality, alike in all posts of a cell, can add to these trained models. It bounds neither weighing
by degree, nor choosing post by post, nor what another training makes of such knowledge. The choice
is made on the posts it is measured on, which favours it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from drf_core.corpus.disruption import DISCARD
from drf_core.evaluation.protocol import CLEAN, OTHER_DAMAGE, RANDOM, Cell
from tests.benchmarks.study_runs import Run

# By itself another post's text or image looks like any other; only its partner could tell.
_LIKE_ANY_OTHER = "swapped"


def known_damage_table(
    runs: Mapping[str, Sequence[Run]], cells: Sequence[Cell], labels: np.ndarray
) -> str:
    """The section of the page; runs: the trainings of each design; labels (all posts,)."""
    disrupted = [k for k, cell in enumerate(cells) if cell.group not in (CLEAN, OTHER_DAMAGE)]
    unseen = [k for k, cell in enumerate(cells) if cell.group == OTHER_DAMAGE]
    told = [k for k in unseen if cells[k].strategy != _LIKE_ANY_OTHER]
    columns = {
        "disrupted": disrupted,
        "unseen damage": unseen,
        "unseen damage, less another post's": told,
    }
    lines = [
        "## What dropping the damaged modality would bring, were it known",
        "",
        "Accuracy as it is, and where the damaged modality is dropped in every post of those cells",
        "in which that is better. For these trained models, all or nothing per cell: weighing by",
        "degree, choosing post by post or another training may gain more. Chosen on the posts that",
        "it is measured on, which favours it.",
        "",
        "| design | " + " | ".join(f"{name} | dropped where better" for name in columns) + " |",
        "|---" * (1 + 2 * len(columns)) + "|",
    ]  # fmt: skip
    for design, own in runs.items():
        row = []
        for members in columns.values():
            asis, dropped = _dropped_where_better(own, cells, labels, members)
            row += [f"{100 * asis:.1f}", f"{100 * dropped:.1f} ({100 * (dropped - asis):+.1f})"]
        lines.append(f"| {design} | " + " | ".join(row) + " |")
    return "\n".join([*lines, ""])


def _dropped_where_better(
    runs: Sequence[Run], cells: Sequence[Cell], labels: np.ndarray, members: Sequence[int]
) -> tuple[float, float]:
    """Mean accuracy over the cells in members: as it is, and where better dropped."""
    numbers = {cell.name: number for number, cell in enumerate(cells)}
    right = np.stack([run.accuracy(cells, labels) for run in runs])
    posts = np.array([len(run.posts) for run in runs])
    found = []
    for number in members:
        unseen = ~np.isnan(right[:, number])
        asis, dropped = (
            float(np.average(right[unseen, column], weights=posts[unseen]))
            for column in (number, numbers[_dropping(cells[number])])
        )
        found.append((asis, max(asis, dropped)))
    asis, better = np.mean(found, axis=0)
    return float(asis), float(better)


def _dropping(cell: Cell) -> str:
    """Name of the cell that discards what `cell` damages, of the same posts."""
    if cell.group == RANDOM:
        return f"random {DISCARD} {cell.ratio:.1f}"
    return f"{cell.modality} {DISCARD}"
