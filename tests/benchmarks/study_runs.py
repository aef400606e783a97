"""The trainings that a study left: what each said of the posts it held out."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from drf_core.evaluation.protocol import OTHER_DAMAGE, Cell

_RUN = re.compile(r"(?P<design>\w+)-(?P<seed>\d+)-(?P<fold>\d+)\.npz")

Key = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Run:
    """One training's predictions of its held-out posts; see `study._run`."""

    posts: np.ndarray
    probabilities: np.ndarray
    quality: np.ndarray
    present: np.ndarray
    recovery_error: np.ndarray
    left_out: dict[str, str]
    unseen: np.ndarray

    def only(self, cells: Sequence[int]) -> Run:
        """The same training in some of the cells."""
        names = ("probabilities", "quality", "present", "recovery_error", "unseen")
        return dataclasses.replace(self, **{name: getattr(self, name)[cells] for name in names})

    def accuracy(self, cells: Sequence[Cell], labels: np.ndarray) -> np.ndarray:
        """(cells,), nan where a cell's damage is one that this training used.

        cells: those that the predictions are of; labels (all posts,).
        """
        right = (self.probabilities.argmax(-1) == labels[self.posts]).mean(-1)
        used = np.array([cell.group == OTHER_DAMAGE for cell in cells]) & ~self.unseen
        return np.where(used, np.nan, right)


def read_runs(folder: Path) -> dict[str, dict[Key, Run]]:
    """The runs of each design, by (seed, fold)."""
    found: dict[str, dict[Key, Run]] = {}
    for path in sorted(folder.glob("*.npz")):
        named = _RUN.fullmatch(path.name)
        if named is None:
            continue
        kept = np.load(path)
        run = Run(
            **{
                field.name: kept[field.name]
                for field in dataclasses.fields(Run)
                if field.name != "left_out"
            },
            left_out=json.loads(str(kept["left_out"])),
        )
        found.setdefault(named["design"], {})[int(named["seed"]), int(named["fold"])] = run
    return found
