"""The page of a study: what every design reached, with intervals, from the runs it left."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from drf_core.evaluation.bootstrap import Difference, differences, interval
from drf_core.evaluation.figures import Figures
from drf_core.evaluation.metrics import (
    CLASSIFICATION,
    auroc,
    expected_calibration_error,
    rank_correlation,
)
from drf_core.evaluation.protocol import OTHER_DAMAGE, Cell
from drf_core.evaluation.resampled_metrics import resampled_classification, resamples_of
from schemas.annotations import MODALITIES
from tests.benchmarks.study_known_damage import known_damage_table
from tests.benchmarks.study_runs import Key, Run, read_runs

METRICS = CLASSIFICATION[:3]
BASELINE = "concatenation"
SUBJECT = "drf"
UNSEEN = "unseen damage"
# With fewer, the least p-value there can be would not survive Holm's correction for 32 cells.
_RESAMPLES = 10_000


def write_report(
    output: Path,
    designs: Sequence[str],
    cells: Sequence[Cell],
    labels: np.ndarray,
    command: str,
) -> None:
    """Write RESULTS.md and results.parquet of the designs' runs in output/_runs."""
    found = read_runs(output / "_runs")
    every = {design: found[design] for design in designs if design in found}
    shown = _shown(every, cells)
    runs = {
        design: {key: run.only(shown) for key, run in own.items()} for design, own in every.items()
    }
    all_cells, cells = cells, [cells[number] for number in shown]
    baseline = runs[BASELINE]
    groups = _groups(cells)
    kept: dict[tuple[str, tuple[Key, ...]], Figures] = {}

    def over(design: str, keys: tuple[Key, ...]) -> Figures:
        if (design, keys) not in kept:
            kept[design, keys] = _figures(runs[design], keys, cells, labels)
        return kept[design, keys]

    rows, per_design, parts = [], {}, {}
    for design, own in runs.items():
        common = tuple(sorted(own.keys() & baseline.keys()))
        table, other = over(design, common), over(BASELINE, common)
        per_design[design] = (table, other, len(common))
        rows += list(_records(design, table, other, cells, groups, len(common)))
        if design.startswith(f"{SUBJECT}_"):
            common = tuple(sorted(own.keys() & runs[SUBJECT].keys()))
            parts[design] = (over(design, common), over(SUBJECT, common))
    pq.write_table(pa.Table.from_pylist(rows), output / "results.parquet")
    page = [_head(runs, labels, command), _group_table(per_design, groups)]
    page.append(_significance_table(per_design, cells))
    if parts:
        page.append(_part_table(parts, groups))
    page.append(_spread_table(runs, cells, labels))
    page.append(known_damage_table(_with_same_trainings(runs), cells, labels))
    page.append(_cell_table(per_design[SUBJECT], cells))
    page.append(_diagnostics(every, all_cells, labels))
    (output / "RESULTS.md").write_text("\n".join(page), encoding="utf-8")


def _shown(runs: dict[str, dict[Key, Run]], cells: Sequence[Cell]) -> list[int]:
    """Cells that count for every design: with few trainings, some kinds are never left out."""
    return [
        number
        for number, cell in enumerate(cells)
        if cell.group != OTHER_DAMAGE
        or all(
            any(own[key].unseen[number] for key in own.keys() & runs[BASELINE].keys())
            for own in runs.values()
        )
    ]


def _groups(cells: Sequence[Cell]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for number, cell in enumerate(cells):
        groups.setdefault(UNSEEN if cell.group == OTHER_DAMAGE else cell.group, []).append(number)
    groups["disrupted"] = groups["modality-fixed"] + groups["modality-random"]
    order = ("clean", "modality-fixed", "modality-random", "disrupted", UNSEEN)
    return {name: groups[name] for name in order}


def _figures(
    runs: dict[Key, Run], keys: Sequence[Key], cells: Sequence[Cell], labels: np.ndarray
) -> Figures:
    """`METRICS` of one design over some of its runs."""
    values = np.zeros((len(cells), len(METRICS)))
    replicates = np.zeros((_RESAMPLES, *values.shape), dtype=np.float32)
    pooled = []
    for number, cell in enumerate(cells):
        used = [runs[key] for key in keys]
        if cell.group == OTHER_DAMAGE:
            used = [run for run in used if run.unseen[number]]
        posts = np.concatenate([run.posts for run in used])
        said = np.concatenate([run.probabilities[number] for run in used])
        pooled.append((labels[posts], said, posts))
        once = resampled_classification(np.ones((1, len(labels))), *pooled[-1])
        values[number] = [once[metric][0] for metric in METRICS]
    begun = 0
    for weights in resamples_of(len(labels), _RESAMPLES, 0):
        block = slice(begun, begun + len(weights))
        begun += len(weights)
        for number, predictions in enumerate(pooled):
            drawn = resampled_classification(weights, *predictions)
            replicates[block, number] = np.stack([drawn[metric] for metric in METRICS], 1)
    return Figures(values, replicates)


def _compared(table: Figures, other: Figures, metric: int) -> list[Difference]:
    return differences(
        table.values[:, metric],
        table.replicates[:, :, metric],
        other.values[:, metric],
        other.replicates[:, :, metric],
    )


def _records(
    design: str,
    table: Figures,
    other: Figures,
    cells: Sequence[Cell],
    groups: dict[str, list[int]],
    runs: int,
) -> Iterable[dict[str, object]]:
    members = groups.values()
    scopes = (
        ("cell", [cell.name for cell in cells], table, other),
        ("group", list(groups), table.means_over(members), other.means_over(members)),
    )
    for scope, names, own, base in scopes:
        for number, metric in enumerate(METRICS):
            compared = _compared(own, base, number)
            for place, name in enumerate(names):
                bounds = interval(
                    float(own.values[place, number]), own.replicates[:, place, number]
                )
                record: dict[str, object] = {"design": design, "scope": scope, "cell": name}
                record |= {"metric": metric, "runs": runs, **dataclasses.asdict(bounds)}
                # Also of the baseline: a table has the columns of its first row.
                found = dataclasses.asdict(compared[place])
                record |= {
                    f"difference_{key}": None if design == BASELINE else value
                    for key, value in found.items()
                }
                yield record


def _head(runs: dict[str, dict[Key, Run]], labels: np.ndarray, command: str) -> str:
    counts = ", ".join(f"{design} {len(own)}" for design, own in runs.items())
    most = max(len(own) for own in runs.values())
    fewer = [design for design, own in runs.items() if len(own) < most]
    unfinished = (
        f"\n**Unfinished**: the command trains all designs {most} times, also {', '.join(fewer)}.\n"
        if fewer
        else ""
    )
    majority = np.bincount(labels).max() / len(labels)
    return f"""# What each part contributes

{len(labels)} posts, cross-validated; majority class {100 * majority:.1f} %. Trainings (seeds x
folds): {counts}. Designs with different trainings are compared by their differences only, which
are paired with {BASELINE} on the same trainings, in points, with
95 % bootstrap intervals over posts, not corrected for their number and not counting what another
seed would change: for that see how far trainings differ. "Unseen damage" is what the training at
hand did not use.

Written by `{command}`.
{unfinished}"""


def _with_same_trainings(runs: dict[str, dict[Key, Run]]) -> dict[str, list[Run]]:
    """The trainings that all of the fusions worth comparing by accuracy alone have done."""
    compared = {d: runs[d] for d in (BASELINE, SUBJECT, "late_average") if d in runs}
    common = sorted(set.intersection(*(set(own) for own in compared.values())))
    return {design: [own[key] for key in common] for design, own in compared.items()}


def _group_table(
    per_design: dict[str, tuple[Figures, Figures, int]], groups: dict[str, list[int]]
) -> str:
    lines = ["## Accuracy / weighted F1 / macro F1, means over groups of cells", ""]
    lines.append(
        "| design | trainings | "
        + " | ".join(f"{name} ({len(groups[name])})" for name in groups)
        + " |"
    )
    lines.append("|---" * (len(groups) + 2) + "|")
    for design, (table, _, trainings) in per_design.items():
        values = 100 * table.means_over(groups.values()).values
        row = [" / ".join(f"{value:.1f}" for value in each) for each in values]
        lines.append(f"| {design} | {trainings} | " + " | ".join(row) + " |")
    rivals = {design: pair[:2] for design, pair in per_design.items() if design != BASELINE}
    return "\n".join([*lines, "", *_difference_tables(rivals, BASELINE, groups)])


def _significance_table(
    per_design: dict[str, tuple[Figures, Figures, int]], cells: Sequence[Cell]
) -> str:
    lines = [
        f"## Cells significantly better / worse than with {BASELINE}",
        "",
        f"Of {len(cells)}, at .05 after Holm's correction for the cells, not for the designs and",
        "metrics.",
        "",
        "| design | " + " | ".join(metric.replace("_", " ") for metric in METRICS) + " |",
        "|---" * (len(METRICS) + 1) + "|",
    ]
    for design, (table, other, _) in per_design.items():
        if design == BASELINE:
            continue
        row = []
        for number in range(len(METRICS)):
            told = [one for one in _compared(table, other, number) if one.p_holm < 0.05]
            better = sum(one.value > 0 for one in told)
            row.append(f"{better} / {len(told) - better}")
        lines.append(f"| {design} | " + " | ".join(row) + " |")
    return "\n".join([*lines, ""])


def _part_table(parts: dict[str, tuple[Figures, Figures]], groups: dict[str, list[int]]) -> str:
    lines = [
        f"## What {SUBJECT} becomes without a part, or with another head, on the same trainings",
        "",
    ]
    return "\n".join([*lines, *_difference_tables(parts, SUBJECT, groups)])


def _difference_tables(
    pairs: dict[str, tuple[Figures, Figures]], against: str, groups: dict[str, list[int]]
) -> list[str]:
    """Lines of a table per metric; pairs: figures of a design and of what it is compared with."""
    means = {
        design: (own.means_over(groups.values()), other.means_over(groups.values()))
        for design, (own, other) in pairs.items()
    }
    lines = []
    for number, metric in enumerate(METRICS):
        lines += [f"### {metric.replace('_', ' ')} less that of {against}", ""]
        lines.append("| design | " + " | ".join(groups) + " |")
        lines.append("|---" * (len(groups) + 1) + "|")
        for design, pair in means.items():
            row = [
                f"{100 * found.value:+.1f} [{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
                for found in _compared(*pair, number)
            ]
            lines.append(f"| {design} | " + " | ".join(row) + " |")
        lines.append("")
    return lines


def _spread_table(
    runs: dict[str, dict[Key, Run]], cells: Sequence[Cell], labels: np.ndarray
) -> str:
    """Differences of single trainings: what another seed or fold would change."""
    groups = _groups(cells)
    lines = [
        f"## How far trainings differ: accuracy less that of {BASELINE}, mean ± standard error",
        "",
        "Of each training the unseen damage is what it left out, so the kinds that none trains",
        "with count more here than above. Trainings share posts: the errors are lower bounds.",
        "",
        "| design | trainings | " + " | ".join(groups) + " |",
        "|---" * (len(groups) + 2) + "|",
    ]
    for design, own in runs.items():
        common = sorted(own.keys() & runs[BASELINE].keys())
        if design == BASELINE or len(common) < 2:
            continue
        found = np.array(
            [
                own[key].accuracy(cells, labels) - runs[BASELINE][key].accuracy(cells, labels)
                for key in common
            ]
        )
        row = []
        for members in groups.values():
            # A training counts where it left out one of the kinds.
            told = found[:, members]
            each = 100 * np.nanmean(told[~np.isnan(told).all(1)], 1)
            error = each.std(ddof=1) / len(each) ** 0.5 if len(each) > 1 else np.nan
            row.append(f"{each.mean():+.1f} ± {error:.1f}")
        lines.append(f"| {design} | {len(common)} | " + " | ".join(row) + " |")
    return "\n".join([*lines, ""])


def _cell_table(pair: tuple[Figures, Figures, int], cells: Sequence[Cell]) -> str:
    table, other, _ = pair
    compared = [_compared(table, other, number) for number in range(len(METRICS))]
    lines = [f"## {SUBJECT}, cell by cell; in brackets its difference from {BASELINE}", ""]
    lines += ["`*` significant at .05 after Holm's correction for the cells.", ""]
    lines.append("| cell | " + " | ".join(metric.replace("_", " ") for metric in METRICS) + " |")
    lines.append("|---" * (len(METRICS) + 1) + "|")
    for place, cell in enumerate(cells):
        row = []
        for number in range(len(METRICS)):
            found = compared[number][place]
            mark = " *" if found.p_holm < 0.05 else ""
            row.append(f"{100 * table.values[place, number]:.1f} ({100 * found.value:+.1f}{mark})")
        name = f"unseen: {cell.name}" if cell.group == OTHER_DAMAGE else cell.name
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    return "\n".join([*lines, ""])


def _diagnostics(runs: dict[str, dict[Key, Run]], cells: Sequence[Cell], labels: np.ndarray) -> str:
    lines = [f"## Quality, recovery, calibration ({SUBJECT}, means over trainings)", ""]
    lines += ["| modality | damage | in training | quality AUROC |", "|---|---|---|---|"]
    numbers = {cell.name: number for number, cell in enumerate(cells)}
    own = list(runs[SUBJECT].values())
    for column, m in enumerate(MODALITIES):
        for cell in cells:
            if cell.modality != m or cell.strategy in ("discard", "corrupt+discard"):
                continue
            number = numbers[cell.name]
            for unseen in (False, True):
                scores = [
                    auroc(
                        run.quality[0, run.present[0, :, column], column],
                        run.quality[number, run.present[number, :, column], column],
                    )
                    for run in own
                    if bool(run.unseen[number]) == unseen
                ]
                if scores:
                    met = "no" if unseen else "yes"
                    lines.append(f"| {m} | {cell.strategy} | {met} | {np.mean(scores):.3f} |")
    lines += ["", "| | text | image |", "|---|---|---|"]
    shares = [
        np.mean([(run.quality[0, run.present[0, :, c], c] < 0.05).mean() for run in own])
        for c in range(2)
    ]
    lines.append("| clean posts with a quality below .05 | " + _pair(shares) + " |")
    correlations = []
    for column, m in enumerate(MODALITIES):
        number = numbers[f"{m} discard"]
        found = []
        for run in own:
            error = run.recovery_error[number, :, column]
            there = ~np.isnan(error)
            found.append(rank_correlation(run.quality[number, there, column], -error[there]))
        correlations.append(np.mean(found))
    lines.append(
        "| Spearman: quality of recovered features, closeness to the true ones | "
        + _pair(correlations)
        + " |"
    )
    lines += [
        "",
        "| design | calibration error, clean | mean over the disrupted cells |",
        "|---|---|---|",
    ]
    groups = _groups(cells)
    for design, each in runs.items():
        errors = np.array(
            [
                [
                    expected_calibration_error(labels[run.posts], run.probabilities[number])
                    for number in range(len(cells))
                ]
                for run in each.values()
            ]
        ).mean(0)
        disrupted = errors[groups["disrupted"]].mean()
        lines.append(f"| {design} | {errors[0]:.3f} | {disrupted:.3f} |")
    return "\n".join([*lines, ""])


def _pair(values: Sequence[float]) -> str:
    return " | ".join(f"{value:.3f}" for value in values)
