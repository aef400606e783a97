"""The records of an evaluation as tables: Markdown for a page, a short one for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from drf_core.evaluation.metrics import CLASSIFICATION, LOWER_IS_BETTER
from drf_core.evaluation.protocol import FIXED
from pipelines.evaluate.records import Record

_SIGNIFICANT = 0.05
_HEADINGS = {
    "accuracy": "accuracy",
    "macro_recall": "macro recall",
    "weighted_f1": "weighted F1",
    "macro_f1": "macro F1",
    "macro_auroc": "macro AUROC",
    "log_loss": "log loss",
    "calibration_error": "calibration error",
    "text_quality_auroc": "text quality AUROC",
    "image_quality_auroc": "image quality AUROC",
    "text_low_quality": "texts of low quality",
    "image_low_quality": "images of low quality",
    "text_recovery_correlation": "text recovery rank correlation",
    "image_recovery_correlation": "image recovery rank correlation",
}
_DIAGNOSTICS = tuple(_HEADINGS)[len(CLASSIFICATION) - 1 :]


class Table:
    """Records by (model, cell or group, metric)."""

    def __init__(self, records: Iterable[Record], scope: str) -> None:
        self._records = {
            (record["model"], record["cell"], record["metric"]): record
            for record in records
            if record["scope"] == scope
        }
        self.models = list(dict.fromkeys(key[0] for key in self._records))
        self.places = list(dict.fromkeys(key[1] for key in self._records))

    def get(self, model: str, place: str, metric: str) -> Record | None:
        """The record, None where there is no such figure."""
        return self._records.get((model, place, metric))

    def met(self, place: str) -> str:
        """Whether the models met a cell's damage in training, in words; empty if unsaid."""
        answers = {
            m: (self.get(m, place, "accuracy") or {}).get("met_in_training") for m in self.models
        }
        if len(set(answers.values())) == 1:
            return {True: "yes", False: "no", None: ""}[answers[self.models[0]]]
        return ", ".join(
            f"{model}: {'yes' if met else 'no'}"
            for model, met in answers.items()
            if met is not None
        )


def figure(value: float) -> str:
    """A figure with three digits: .713, 1.000, -.250."""
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.3f}"


def mark(record: Record) -> str:
    """▲ better, ▼ worse than the baseline by more than chance, after correction; else empty."""
    p, difference = record["p_holm"], record["difference"]
    if p is None or p >= _SIGNIFICANT or not difference:
        return ""
    return "▲" if (difference > 0) != (record["metric"] in LOWER_IS_BETTER) else "▼"


def with_difference(record: Record | None) -> str:
    """A figure, in brackets its difference to the baseline in points, and its mark."""
    if record is None:
        return ""
    if record["difference"] is None:
        return figure(record["value"])
    return f"{figure(record['value'])} ({100 * record['difference']:+.1f}){mark(record)}"


def with_interval(record: Record | None) -> str:
    """The difference to the baseline in points, its interval and its mark."""
    if record is None or record["difference"] is None:
        return ""
    low, high = (100 * record[f"difference_{side}"] for side in ("low", "high"))
    return f"{100 * record['difference']:+.1f} [{low:+.1f}, {high:+.1f}]{mark(record)}"


def write_report(
    records: Sequence[Record],
    introduction: str,
    baseline: str | None,
    plot: str,
    labels: Mapping[str, str],
    reliability: str,
) -> str:
    """The Markdown page.

    introduction: of `introduce`. baseline: the model that the others are compared with. plot,
    reliability: names of the image files beside it. labels: by model, the tables of what is taken
    for what.
    """
    groups, cells = Table(records, "group"), Table(records, "cell")
    others = [model for model in cells.models if model != baseline]
    parts = ["# Evaluation", introduction, "## Means over cells"]
    for metric in CLASSIFICATION:
        parts.append(_grid(groups, metric, with_difference))
    if baseline and others:
        parts += [
            "## Differences of the means",
            f"In points (log loss: hundredths), against {baseline}, with 95 % intervals of "
            "the paired bootstrap.",
        ]
        rows = [
            [model, place, *(with_interval(groups.get(model, place, m)) for m in CLASSIFICATION)]
            for model in others
            for place in groups.places
        ]
        parts.append(_markdown(["model", "cells", *(_HEADINGS[m] for m in CLASSIFICATION)], rows))
    parts += ["## Every cell", f"![accuracy over the share of disrupted posts]({plot})"]
    for metric in ("accuracy", "weighted_f1"):
        parts.append(_grid(cells, metric, with_difference, met=True))
    parts += ["## Label by label", _LABEL_NOTES]
    for model, tables in labels.items():
        parts += [f"### {model}: labels", tables]
    parts += [f"![accuracy over confidence]({reliability})"]
    parts += ["## Quality, calibration, recovery", _DIAGNOSTIC_NOTES]
    for model in cells.models:
        parts += [f"### {model}", _diagnostics(cells, model)]
    return "\n\n".join(parts) + "\n"


_LABEL_NOTES = f"""\
Posts by their label (rows) and what the model called them (columns): undisrupted, and over the
cells of {FIXED}. `labels.parquet` has precision, recall and F1 of every label in every cell,
`predictions/` a row per post and cell."""

_DIAGNOSTIC_NOTES = """\
Quality AUROC: chance that an undisrupted post's quality exceeds that of one the cell damages.
Of low quality: share of what is present whose quality is below the checkpoint's threshold.
Recovery rank correlation: Spearman between the quality of recovered features and their
closeness (negative distance) to the true ones, so that higher is better."""


def closing_table(records: Sequence[Record], baseline: str | None) -> str:
    """Means over the groups of cells, for the terminal."""
    table = Table(records, "group")
    metrics = ("accuracy", "macro_f1", "macro_auroc", "log_loss")
    rows = [["", "", *(_HEADINGS[metric] for metric in metrics)]]
    for place in table.places:
        for model in table.models:
            figures = [with_difference(table.get(model, place, metric)) for metric in metrics]
            rows.append([place if model == table.models[0] else "", model, *figures])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    if baseline:
        lines.append(f"(in brackets: points against {baseline}; {_legend()})")
    return "\n".join(lines)


_PRIORS = {
    "uniform": "All labels were expected equally often.",
    "shares": "Labels were expected as often as they are among these posts.",
}


def introduce(about: Mapping[str, Any], posts: str, models: Mapping[str, str]) -> str:
    """What a page begins with.

    about: what results.json says beside its records. posts: what was evaluated on, in words.
    models: a description of each.
    """
    lines = ["Written by", "", "```", about["command"], "```", "", posts, ""]
    lines += [f"- {name}: {description}" for name, description in models.items()]
    lines += [
        "",
        f"{_PRIORS[about['prior']]} Every model met the same disruptions (seed {about['seed']}). "
        f"Intervals and tests: paired bootstrap over the posts, {about['resamples']:,} resamples, "
        "the same for all models and cells.",
    ]
    if about["baseline"]:
        lines.append(f"In brackets: points against {about['baseline']}; {_legend()}.")
    lines += [
        "",
        "modality-fixed: one named modality disrupted in every post. modality-random: a share of "
        "the posts disrupted, the modality drawn. corrupt: 40-80 % of the words masked or pixels "
        "black; discard: the modality is gone; corrupt+discard: half each. A post that would be "
        "left with nothing, having no other modality, stays as it is. disrupted: "
        "modality-fixed and modality-random. other damage: kinds beyond the published protocol; "
        "*met in training* says whether a model's training used the kind. unseen damage: those "
        "of them that no model compared met.",
    ]
    return "\n".join(lines)


def _legend() -> str:
    return "▲ better, ▼ worse at p < .05, Holm-corrected over the rows"


def _grid(
    table: Table, metric: str, show: Callable[[Record | None], str], met: bool = False
) -> str:
    rows = []
    known = met and any(table.met(place) for place in table.places)
    for place in table.places:
        row = [place, *(show(table.get(model, place, metric)) for model in table.models)]
        rows.append([*row, table.met(place)] if known else row)
    head = [f"**{_HEADINGS[metric]}**", *table.models]
    return _markdown([*head, "met in training"] if known else head, rows)


def _diagnostics(table: Table, model: str) -> str:
    rows = []
    for place in table.places:
        records = [table.get(model, place, metric) for metric in _DIAGNOSTICS]
        rows.append([place, *("" if one is None else figure(one["value"]) for one in records)])
    return _markdown(["", *(_HEADINGS[metric] for metric in _DIAGNOSTICS)], rows)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])
