"""A run's report as one JSON value: every number that its page shows."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.annotate.output import layout
from pipelines.annotate.output.histograms import EVIDENCE_FIELDS
from pipelines.annotate.report.compare import (
    compare_nights,
    compare_with_reference,
    deviating_groups,
)
from pipelines.annotate.report.gather import RunNight
from pipelines.annotate.report.model_facts import ModelFacts
from pipelines.annotate.report.nights import Night, earlier_nights
from pipelines.annotate.report.recount import sql_of_night
from pipelines.annotate.report.run_index import RunLine, nights_of
from pipelines.annotate.report.significance import Moments, expected_accuracy, share_interval
from pipelines.annotate.report.verdict import judge, next_commands
from schemas.annotations import MODALITIES
from schemas.manifest import Manifest
from schemas.read_record import read_record

REPORT_VERSION = 1

# Options that change rows, and so may explain what changed.
_ROW_OPTIONS = (
    "columns",
    "image_uri_prefixes",
    "max_image_pixels",
    "max_image_bytes",
    "image_formats",
)
_SHOWN_FILES = 50

# Of the manifest, what the index has, and what the page shows of the run as it stands there.
_OF_MODEL = ("model_id", "model_revision", "package_version")
_OF_MANIFEST = ("run_id", "started_at", "exit_code", "seconds", *_OF_MODEL)
_OF_RUN = (
    *("seconds", "phases", "computed_rows", "runtimes", "counts", "fetched", "versions"),
    *("warnings", *_OF_MODEL),
)


def build_report(
    manifest: Manifest,
    nights: Sequence[RunNight],
    runs: Sequence[RunLine],
    facts: ModelFacts,
    output: str,
    held_back: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    """Return the report of a run.

    nights: those of the run, in order; the last is what the report is about. runs: the output's
    earlier ones. output: its root, without credentials. held_back: by partition, what is staged.
    """
    subject = nights[-1] if nights else None
    places = subject.places if subject else {}
    groups = deviating_groups(subject.histograms.groups) if subject else {}
    report = {
        "version": REPORT_VERSION,
        "run_id": manifest.run_id,
        "started_at": manifest.started_at,
        "output": output,
        "held_back": list(held_back),
        "failed_files": _failed_files(manifest),
        "night": None if subject is None else dataclasses.asdict(subject.night),
        "trust": _trust(subject, facts) if subject else None,
        "reference": {"posts": facts.reference_posts, "known": facts.reference_known},
        "adapted": facts.adapted,
        "groups": groups,
        "why": _why(subject.night) if subject else {},
        "evidence": _evidence(subject) if subject else [],
        "run": _run(manifest, nights),
        "places": {
            name: places[tree]
            for name, tree in (("posts", layout.ANNOTATIONS), ("lost", layout.DEAD_LETTERS))
            if places
        },
        "sql": {}
        if subject is None
        else sql_of_night(
            output,
            subject.places[layout.ANNOTATIONS],
            manifest.run_id,
            subject.places[layout.DEAD_LETTERS],
            subject.whole,
            any(subject.night.damage.values()),
            list(groups),
        ),
    }
    own = [one.night for one in nights if not one.night.staged]
    return compare_report(report, manifest, [*nights_of(runs), *own], runs, facts)


def compare_report(
    report: Mapping[str, Any],
    manifest: Manifest,
    known: Sequence[Night],
    runs: Sequence[RunLine],
    facts: ModelFacts,
    against: Night | None = None,
) -> dict[str, Any]:
    """Return a report with what follows from other nights; all else of it stays.

    known: nights, whenever they were. runs: the output's earlier ones. against: a night to compare
    with; the one before by default.
    """
    night = read_record(Night, report["night"]) if report["night"] else None
    changes: list[dict[str, Any]] = []
    likeness: dict[str, dict[str, Any]] = {}
    before: Night | None = None
    earlier: list[Night] = []
    if night is not None and night.annotations:
        earlier = earlier_nights(known, night)
        before = against or (earlier[-1] if earlier else None)
        changes = compare_nights(night, before, earlier)
        likeness = compare_with_reference(night, before, earlier, facts.reference_posts)
    verdict = judge(manifest, night, changes, likeness)
    commands = next_commands(verdict["word"], manifest, report["output"], report["held_back"])
    strange = [
        m for m, said in likeness.items() if said["stranger"] or said["lower"] or said["drifts"]
    ]
    holds = {"holds": bool(likeness) and not strange, "strange": strange}
    return {
        **report,
        "verdict": {**verdict, "next": commands},
        "before": None if before is None else dataclasses.asdict(before),
        "nights_before": len(earlier),
        "explained_by": _explained(manifest, before, runs),
        "changes": changes,
        "trust": report["trust"] and {**report["trust"], **holds},
        "likeness": likeness,
    }


def run_line(manifest: Manifest, report: Mapping[str, Any], nights: Sequence[RunNight]) -> RunLine:
    """Return the run's line of the index."""
    totals = manifest.totals
    return RunLine(
        **{name: getattr(manifest, name) for name in _OF_MANIFEST},
        word=report["verdict"]["word"],
        sentence=report["verdict"]["sentence"],
        rows=totals.rows,
        annotations=totals.annotations,
        dead_letters=totals.dead_letters,
        options=_row_options(manifest),
        nights=[one.night for one in nights],
    )


def _row_options(manifest: Manifest) -> dict[str, Any]:
    rows = manifest.options.get("rows", {})
    return {name: rows[name] for name in _ROW_OPTIONS if name in rows}


def _failed_files(manifest: Manifest) -> list[dict[str, Any]]:
    failed = [file for file in manifest.files if file.status == "failed"]
    return [
        {
            "source_file": file.source_file,
            "error": file.error or "",
            "kept_rows": file.annotations if file.earlier else 0,
        }
        for file in failed[:_SHOWN_FILES]
    ]


def _explained(
    manifest: Manifest, before: Night | None, runs: Sequence[RunLine]
) -> list[dict[str, str]]:
    """What differs between this run and the one that made the night it is compared with."""
    if before is None:
        return []
    run = next((line for line in reversed(runs) if line.run_id == before.run_id), None)
    if run is None:
        return []
    now: dict[str, Any] = {
        "model": f"{manifest.model_id} ({manifest.model_revision[:12]})",
        "package": manifest.package_version,
        **_row_options(manifest),
    }
    then: dict[str, Any] = {
        "model": f"{run.model_id} ({run.model_revision[:12]})",
        "package": run.package_version,
        **run.options,
    }
    return [
        {"what": name.replace("_", " "), "before": _plain(then.get(name)), "now": _plain(value)}
        for name, value in now.items()
        if _plain(value) != _plain(then.get(name))
    ]


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={one}" for name, one in sorted(value.items()) if one)
    if isinstance(value, (list, tuple)):
        return ", ".join(str(one) for one in value)
    return "" if value is None else str(value)


def _trust(subject: RunNight, facts: ModelFacts) -> dict[str, Any]:
    night, histograms = subject.night, subject.histograms
    value, low, high = expected_accuracy(night.moments())
    counts: dict[str, Mapping[str, int]] = {
        "label": night.labels,
        **{f"{m}_state": night.states.get(m, {}) for m in MODALITIES},
    }
    rows = []
    for column, of in counts.items():
        values = histograms.moments.get(column, {})
        for name, posts in _by_count(of):
            if name not in values:
                continue
            expected, lower, upper = expected_accuracy(Moments(posts, *values[name]))
            rows.append(
                {
                    "by": column,
                    "value": name,
                    "posts": posts,
                    "expected": expected,
                    "low": lower,
                    "high": upper,
                }
            )
    card = None
    if facts.accuracy is not None:
        measured = facts.accuracy_posts
        interval = share_interval(facts.accuracy * measured, measured) if measured else None
        card = {
            "accuracy": facts.accuracy,
            "posts": measured,
            "on": facts.accuracy_on,
            "interval": interval,
        }
    return {
        "expected": value,
        "low": low,
        "high": high,
        "by": rows,
        "confidence": histograms.confidence,
        "card": card,
    }


def _evidence(subject: RunNight) -> list[dict[str, Any]]:
    """Why posts got their labels, by label: means of evidence (logits), and shares of posts."""
    found = []
    for label, posts in _by_count(subject.night.labels):
        sums = subject.histograms.evidence.get(label)
        if sums and posts:
            means = {name: of / posts for name, of in zip(EVIDENCE_FIELDS, sums, strict=True)}
            found.append({"label": label, "posts": posts, **means})
    return found


def _why(night: Night) -> dict[str, list[dict[str, Any]]]:
    """Why modalities could not be used, what damage they look to have, why posts were lost."""
    found = {}
    for m in MODALITIES:
        for what, counts in (("reason", night.reasons), ("damage", night.damage)):
            found[f"{m}_{what}"] = _counted(counts.get(m, {}), night.annotations)
    found["dead_letters"] = _counted(night.dead_letter_reasons, night.rows)
    return found


def _counted(counts: Mapping[str, int], total: int) -> list[dict[str, Any]]:
    return [
        {"name": name, "posts": posts, "share": posts / total if total else 0.0}
        for name, posts in _by_count(counts)
        if posts
    ]


def _by_count(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _run(manifest: Manifest, nights: Sequence[RunNight]) -> dict[str, Any]:
    price = manifest.options.get("price_per_hour")
    return {
        **{name: getattr(manifest, name) for name in _OF_RUN},
        "found_rows": manifest.skipped_rows,
        "posts_per_second": manifest.computed_rows / max(manifest.seconds, 1e-9),
        "files": len(manifest.files),
        "bytes": sum(one.bytes for one in nights),
        "duplicate_ids": manifest.totals.duplicate_ids,
        "cost": None if price is None else price * manifest.seconds / 3600,
        "price_per_hour": price,
        "runner": str(manifest.options.get("runner", "")),
        "nights": [
            {"name": one.night.name, "posts": one.night.annotations, "bytes": one.bytes}
            for one in nights
        ],
    }
