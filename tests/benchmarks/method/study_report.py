"""The tables of a study: what every design reached, with intervals, from the trainings it left."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from drf_core.evaluation.bootstrap import Difference, differences, interval
from drf_core.evaluation.figures import Figures
from drf_core.evaluation.metrics import (
    LOWER_IS_BETTER,
    classification,
    resampled_classification,
    resamples_of,
)
from drf_core.evaluation.predictions import under_prior
from drf_core.evaluation.protocol import CLEAN, FIXED, OTHER_DAMAGE, RANDOM, Cell

SUBJECT = "drf"
UNSEEN = "unseen damage"
# Each figure at the operating point that it asks for: the labels' shares among all posts, or all
# labels alike.
SHARES, UNIFORM = "shares", "uniform"
FIGURES = (
    ("accuracy", SHARES),
    ("weighted_f1", SHARES),
    ("macro_auroc", SHARES),
    ("log_loss", SHARES),
    ("macro_recall", UNIFORM),
    ("macro_f1", UNIFORM),
)
_NAMES = ("accuracy", "weighted F1", "macro AUROC", "log loss", "macro recall", "macro F1")
_RESAMPLES = 2000
_SIGNIFICANT = 0.05
_RUN = re.compile(r"(?P<design>\w+)-(?P<seed>\d+)-(?P<fold>\d+)\.npz")

Key = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Run:
    """One training's predictions of its held-out posts; see `study._run`.

    posts (n,), probabilities (cells, n, labels) under a uniform prior, offset (labels,), unseen
    (cells,) bool, epoch (): the one that was kept.
    """

    posts: np.ndarray
    probabilities: np.ndarray
    offset: np.ndarray
    unseen: np.ndarray
    epoch: np.ndarray


def read_runs(folder: Path) -> dict[str, dict[Key, Run]]:
    """The trainings of each design, by (seed, fold)."""
    found: dict[str, dict[Key, Run]] = {}
    for path in sorted(folder.glob("*.npz")):
        named = _RUN.fullmatch(path.name)
        if named is not None:
            kept = np.load(path)
            run = Run(**{field.name: kept[field.name] for field in dataclasses.fields(Run)})
            found.setdefault(named["design"], {})[int(named["seed"]), int(named["fold"])] = run
    return found


def write_report(
    output: Path, designs: Sequence[str], cells: Sequence[Cell], labels: np.ndarray
) -> None:
    """Write tables.md and results.parquet of the designs' trainings in output/_runs.

    Only trainings that all designs have done count.
    """
    found = read_runs(output / "_runs")
    keys = sorted(set.intersection(*(set(found[design]) for design in designs)))
    runs = {design: [found[design][key] for key in keys] for design in designs}
    asked = [
        number
        for number, cell in enumerate(cells)
        if cell.group != OTHER_DAMAGE or any(run.unseen[number] for run in runs[SUBJECT])
    ]
    cells = [cells[number] for number in asked]
    figures = {design: _figures(own, asked, cells, labels) for design, own in runs.items()}
    groups = _groups(cells)
    pq.write_table(
        pa.Table.from_pylist(list(_records(figures, cells, groups))), output / "results.parquet"
    )
    epochs = ", ".join(
        f"{design} {np.mean([run.epoch for run in own]):.1f}" for design, own in runs.items()
    )
    folds = len({fold for _, fold in keys})
    page = [
        f"{len(np.unique(np.concatenate([run.posts for run in runs[SUBJECT]])))} posts, "
        f"{len(keys)} trainings a design (folds: {folds}, seeds: {len(keys) // folds}). "
        f"Mean epoch kept: {epochs}.",
        *_value_tables(figures, cells, groups),
        *_difference_tables(figures, groups),
        _count_table(figures, cells),
    ]
    (output / "tables.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")


def _groups(cells: Sequence[Cell]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {name: [] for name in (CLEAN, FIXED, RANDOM, OTHER_DAMAGE)}
    for number, cell in enumerate(cells):
        groups[cell.group].append(number)
    groups[UNSEEN] = groups.pop(OTHER_DAMAGE)
    return groups


def _figures(
    runs: Sequence[Run], asked: Sequence[int], cells: Sequence[Cell], labels: np.ndarray
) -> Figures:
    """`FIGURES` of one design: means over its trainings; replicates of trainings and posts.

    A replicate draws posts and, apart from them, trainings, the same for every design (the
    "pigeonhole" bootstrap of two crossed factors, Owen 2007; it errs on the wide side).
    """
    shares = np.bincount(labels) / len(labels)
    shape = (len(runs), len(cells), len(FIGURES))
    values = np.full(shape, np.nan)
    drawn = np.full((_RESAMPLES, *shape), np.nan, dtype=np.float32)
    weights = np.concatenate(list(resamples_of(len(labels), _RESAMPLES, 0))).astype(np.float32)
    for training, run in enumerate(runs):
        own, truth = weights[:, run.posts], labels[run.posts]
        for place, number in enumerate(asked):
            if cells[place].group == OTHER_DAMAGE and not run.unseen[number]:
                continue
            for point, prior in ((SHARES, shares), (UNIFORM, np.full(len(shares), 1.0))):
                said = under_prior(run.probabilities[number], np.exp(-run.offset), prior)
                once, often = (
                    classification(truth, said),
                    resampled_classification(own, truth, said),
                )
                for column, (name, at) in enumerate(FIGURES):
                    if at == point:
                        values[training, place, column] = once[name]
                        drawn[:, training, place, column] = often[name]
    chosen = next(resamples_of(len(runs), _RESAMPLES, 1))[:, :, None, None]
    counted = chosen * ~np.isnan(drawn)
    total = counted.sum(1)
    sums = (chosen * np.nan_to_num(drawn)).sum(1)
    replicates = np.divide(sums, total, out=np.full(sums.shape, np.nan), where=total > 0)
    return Figures(np.nanmean(values, 0), replicates)


def _compared(own: Figures, other: Figures, column: int) -> list[Difference]:
    return differences(
        own.values[:, column],
        own.replicates[:, :, column],
        other.values[:, column],
        other.replicates[:, :, column],
    )


def _records(
    figures: dict[str, Figures], cells: Sequence[Cell], groups: dict[str, list[int]]
) -> Iterator[dict[str, object]]:
    for scope, names in (("cell", [cell.name for cell in cells]), ("group", list(groups))):
        scoped = {
            design: own if scope == "cell" else own.means_over(groups.values())
            for design, own in figures.items()
        }
        for design, own in scoped.items():
            for column, (metric, point) in enumerate(FIGURES):
                # What the subject is ahead of this design by; of the subject itself nothing.
                ahead = _compared(scoped[SUBJECT], own, column)
                for place, name in enumerate(names):
                    bounds = interval(
                        float(own.values[place, column]), own.replicates[:, place, column]
                    )
                    record = {"design": design, "scope": scope, "cell": name, "metric": metric}
                    yield (
                        record
                        | {"operating_point": point}
                        | dataclasses.asdict(bounds)
                        | {
                            f"{SUBJECT}_less_{key}": None if design == SUBJECT else value
                            for key, value in dataclasses.asdict(ahead[place]).items()
                        }
                    )


def _value_tables(
    figures: dict[str, Figures], cells: Sequence[Cell], groups: dict[str, list[int]]
) -> Iterator[str]:
    single = groups[CLEAN] + groups[FIXED]
    wide = {name: groups[name] for name in (FIXED, RANDOM, UNSEEN)}
    columns = [cells[number].name for number in single]
    columns += [f"{name} ({len(members)})" for name, members in wide.items()]
    means = {design: own.means_over(wide.values()) for design, own in figures.items()}
    for column, (metric, point) in enumerate(FIGURES):
        rows = []
        for design, own in figures.items():
            found = [*own.values[single, column], *means[design].values[:, column]]
            rows.append([design, *(_value(metric, value) for value in found)])
        yield f"### {_NAMES[column]}, prior: {point}"
        yield _markdown(["", *columns], rows)


def _difference_tables(figures: dict[str, Figures], groups: dict[str, list[int]]) -> Iterator[str]:
    means = {design: own.means_over(groups.values()) for design, own in figures.items()}
    for column, (metric, _) in enumerate(FIGURES):
        rows = []
        for design, own in means.items():
            if design != SUBJECT:
                told = _compared(means[SUBJECT], own, column)
                rows.append([design, *(_difference(metric, one) for one in told)])
        yield f"### {_NAMES[column]}: {SUBJECT} less each of the others"
        yield _markdown(["", *groups], rows)


def _count_table(figures: dict[str, Figures], cells: Sequence[Cell]) -> str:
    rows = []
    for design, own in figures.items():
        if design == SUBJECT:
            continue
        row = [design]
        for column, (metric, _) in enumerate(FIGURES):
            told = {
                cell.name: one.value * (-1 if metric in LOWER_IS_BETTER else 1)
                for cell, one in zip(cells, _compared(figures[SUBJECT], own, column), strict=True)
                if one.p_holm < _SIGNIFICANT
            }
            worse = [name for name, value in told.items() if value < 0]
            named = f" ({', '.join(worse)})" if 0 < len(worse) <= 4 else ""
            row.append(f"{len(told) - len(worse)} / {len(worse)}{named}")
        rows.append(row)
    return "\n\n".join(
        [
            f"### Of {len(cells)} cells, those in which {SUBJECT} is significantly better / worse",
            "At .05 after Holm's correction for the cells.",
            _markdown(["than", *_NAMES], rows),
        ]
    )


def _value(metric: str, value: float) -> str:
    return f"{value:.3f}" if metric == "log_loss" else f"{100 * value:.1f}"


def _difference(metric: str, one: Difference) -> str:
    scale, digits = (1, 3) if metric == "log_loss" else (100, 1)
    value, low, high = (
        f"{scale * number:+.{digits}f}" for number in (one.value, one.low, one.high)
    )
    return f"{value} [{low}, {high}]"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
