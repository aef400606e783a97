"""What an estimate of quality could bring at most, from the runs of a study.

A model that knows which modality a cell damages can do one thing that fusion does not: drop it.
Accuracy with that knowledge, used in the cells where it helps, bounds what telling damaged posts
from others can add to a fusion. It is chosen by the very posts that it is measured on, so it is
too high rather than too low.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from drf_core.disruption import DISCARD
from drf_core.protocol import CLEAN, OTHER_DAMAGE, RANDOM, Cell
from tests.benchmarks.study_runs import Run

# Nothing in another post's text or image gives it away.
UNDETECTABLE = "swapped"


def ceiling_table(
    runs: Mapping[str, Sequence[Run]], cells: Sequence[Cell], labels: np.ndarray
) -> str:
    """The section of the page; runs: the trainings of each design; labels (all posts,)."""
    disrupted = [k for k, cell in enumerate(cells) if cell.group not in (CLEAN, OTHER_DAMAGE)]
    unseen = [k for k, cell in enumerate(cells) if cell.group == OTHER_DAMAGE]
    told = [k for k in unseen if cells[k].strategy != UNDETECTABLE]
    columns = {
        "disrupted": disrupted,
        "unseen damage": unseen,
        "unseen damage, less another post's": told,
    }
    lines = [
        "## What knowing the damage could bring at most",
        "",
        "Accuracy as it is, and if the damaged modality of every post were known and dropped in",
        "the cells where dropping it is better. Chosen by the posts that it is measured on, so too",
        "high rather than too low.",
        "",
        "| design | " + " | ".join(f"{name} | known" for name in columns) + " |",
        "|---" * (1 + 2 * len(columns)) + "|",
    ]  # fmt: skip
    for design, own in runs.items():
        row = []
        for members in columns.values():
            asis, known = _known_damage(own, cells, labels, members)
            row += [f"{100 * asis:.1f}", f"{100 * known:.1f} ({100 * (known - asis):+.1f})"]
        lines.append(f"| {design} | " + " | ".join(row) + " |")
    return "\n".join([*lines, ""])


def _known_damage(
    runs: Sequence[Run], cells: Sequence[Cell], labels: np.ndarray, members: Sequence[int]
) -> tuple[float, float]:
    """Mean accuracy over the cells in members: as it is, and with the damage known."""
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
    asis, known = np.mean(found, axis=0)
    return float(asis), float(known)


def _dropping(cell: Cell) -> str:
    """Name of the cell that discards what `cell` damages, of the same posts."""
    if cell.group == RANDOM:
        return f"random {DISCARD} {cell.ratio:.1f}"
    return f"{cell.modality} {DISCARD}"
