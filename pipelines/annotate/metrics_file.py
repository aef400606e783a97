"""The numbers of a run for monitoring: Prometheus' text format, as its node exporter collects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path

from drf_core.write_whole import write_whole
from pipelines.storage.redaction import reason_of
from schemas.errors import DRFError
from schemas.manifest import Manifest

_Samples = Iterable[tuple[dict[str, str], float]]


def write_metrics(path: str, manifest: Manifest) -> None:
    """Write a run's numbers to a local file, whole; raises DRFError where it cannot be written."""
    text = format_metrics(manifest)
    try:
        write_whole(Path(path), lambda unfinished: unfinished.write_text(text, encoding="utf-8"))
    except OSError as error:
        raise DRFError(f"--metrics {path}: cannot be written: {reason_of(error)}") from error


def format_metrics(manifest: Manifest) -> str:
    """A run's numbers, a gauge each: what the last run of this output came to."""
    totals = manifest.totals
    families: list[tuple[str, str, _Samples]] = [
        ("exit_code", "Exit code of the last run", [({}, manifest.exit_code)]),
        (
            "last_run_timestamp_seconds",
            "When the last run ended",
            [({}, datetime.fromisoformat(manifest.finished_at).timestamp())],
        ),
        ("run_seconds", "Wall time of the last run", [({}, manifest.seconds)]),
        (
            "phase_seconds",
            "Wall time of the last run by what it did",
            [({"phase": name}, seconds) for name, seconds in manifest.phases.items()],
        ),
        ("computed_posts", "Posts computed by the last run", [({}, manifest.computed_rows)]),
        ("published_posts", "Posts of its input that are published", [({}, totals.annotations)]),
        (
            "labels",
            "Published posts by label",
            [({"label": name}, posts) for name, posts in totals.labels.items()],
        ),
        (
            "modality_states",
            "Published posts by state of a modality",
            _by_modality("state", totals.states),
        ),
        (
            "modality_reasons",
            "Published posts by why a modality could not be used",
            _by_modality("reason", totals.reasons),
        ),
        (
            "dead_letters",
            "Published dead letters by reason",
            [({"reason": name}, posts) for name, posts in totals.dead_letter_reasons.items()],
        ),
        ("failed_files", "Files that could not be annotated", [({}, totals.failed_files)]),
        ("duplicate_ids", "Posts whose id occurred before", [({}, totals.duplicate_ids)]),
    ]
    lines: list[str] = []
    for name, about, samples in families:
        lines += [f"# HELP drf_{name} {about}.", f"# TYPE drf_{name} gauge"]
        lines += [f"drf_{name}{_labels(labels)} {float(value)!r}" for labels, value in samples]
    return "\n".join(lines) + "\n"


def _by_modality(what: str, counts: Mapping[str, Mapping[str, int]]) -> _Samples:
    return [({"modality": m, what: name}, n) for m, of in counts.items() for name, n in of.items()]


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    escaped = {
        name: value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
        for name, value in labels.items()
    }
    return "{" + ",".join(f'{name}="{value}"' for name, value in escaped.items()) + "}"
