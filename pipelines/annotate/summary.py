"""The closing summary of a run, for a person."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from schemas.annotations import MODALITIES, STATES
from schemas.manifest import Manifest

# A long list of files or warnings belongs to the manifest, not to the screen.
_SHOWN = 5


def format_summary(manifest: Manifest, output: str) -> list[str]:
    """Counts, labels, states, reasons, what went wrong, and where the files are."""
    totals = manifest.totals
    lines = [_headline(manifest), *_runtimes(manifest)]
    if totals.annotations:
        lines.append("")
        labels = dict(sorted(totals.labels.items(), key=lambda item: -item[1]))
        lines += _row("labels", _shares(labels, totals.annotations))
        for name in MODALITIES:
            counts = totals.states.get(name, {})
            states = {state: counts[state] for state in STATES if state in counts}
            reasons = _counts(totals.reasons.get(name, {}))
            shares = _shares(states, totals.annotations)
            lines += _row(name, f"{shares}: {reasons}" if reasons else shares)
    lines += _hosts(manifest)
    if totals.dead_letters:
        reasons = _counts(totals.dead_letter_reasons)
        lines += _row("dead letters", f"{totals.dead_letters:,}  ({reasons})")
    if totals.duplicate_ids:
        lines += _row(
            "duplicate ids",
            f"{totals.duplicate_ids:,}  (in their partitions; annotated like any other post)",
        )
    lines += _troubles(manifest)
    root = output.rstrip("/")
    places = f"{root}/_runs/{manifest.run_id}"
    lines += [
        "",
        *_places(manifest, root),
        *_row("manifest", f"{places}/manifest.json"),
        *(_row("report", f"{places}/report.html") if manifest.report else ()),
    ]
    return lines


def _places(manifest: Manifest, root: str) -> list[str]:
    """Where rows lie, as far as there are any."""
    lines: list[str] = []
    if any(file.annotations for file in manifest.files):
        lines += _row("annotations", f"{root}/annotations")
    if any(file.dead_letters for file in manifest.files):
        lines += _row("dead letters", f"{root}/dead_letters")
    if "held_back" in manifest.partitions.values():
        lines += _row("held back", f"{root}/_staging/parts, for 7 days")
    return lines


def closing_error(manifest: Manifest) -> str | None:
    """One line that says why the exit code is not 0, None where it is."""
    if manifest.exit_code == 0:
        return None
    lines = _reasons(manifest)
    return first_of(lines or [f"the run ended as {manifest.status}"], "in the manifest")


def first_of(lines: Sequence[str], where: str) -> str:
    """The first of some lines, and how many more there are, and where."""
    more = len(lines) - 1
    return f"{lines[0]} (and {more} more, {where})" if more else lines[0]


def _reasons(manifest: Manifest) -> list[str]:
    """Why files failed, else why partitions are not complete."""
    return _errors(manifest) or [
        line for line in manifest.warnings if line.startswith("partition ")
    ]


def _errors(manifest: Manifest) -> list[str]:
    """Each file's error, with its name unless it says that itself."""
    found = ((file.source_file, file.error) for file in manifest.files if file.error)
    return [error if name in error else f"{name}: {error}" for name, error in found]


def _headline(manifest: Manifest) -> str:
    totals = manifest.totals
    files = f"{totals.files:,} file{'' if totals.files == 1 else 's'}"
    done = f"{totals.annotations:,} of {totals.rows:,} posts annotated, in {files}"
    if manifest.files and not totals.files:
        done = "no file is published"
    if not manifest.computed_rows:
        return f"{done}; nothing was left to compute ({manifest.seconds:.1f} s)"
    rate = manifest.computed_rows / max(manifest.seconds, 1e-9)
    return (
        f"{done}; {manifest.computed_rows:,} posts computed now, {manifest.skipped_rows:,} found "
        f"done ({manifest.seconds:.1f} s, {rate:.1f} posts/s with start-up)"
    )


def _runtimes(manifest: Manifest) -> list[str]:
    """What encoded the rows that were computed, by share only where there were several."""
    names = manifest.runtimes
    if len(names) < 2:
        return [f"encoded by {name}" for name in names]
    return [f"encoded by {_shares(names, sum(names.values()))}"]


def _hosts(manifest: Manifest) -> list[str]:
    """What became of addresses, of the hosts with the most failures, then with the most."""

    def failures(host: str) -> tuple[int, int]:
        counts = manifest.fetched[host]
        total = sum(counts.values())
        return counts.get("fetched", 0) - total, -total

    return _list(
        "fetched from",
        [
            f"{host}  {_counts(manifest.fetched[host])}"
            for host in sorted(manifest.fetched, key=failures)
        ],
    )


def _troubles(manifest: Manifest) -> list[str]:
    lines: list[str] = []
    for partition, status in sorted(manifest.partitions.items()):
        if status not in ("published", "up_to_date"):
            lines += _row(
                status.replace("_", " "), f"partition {partition or '(the whole output)'}"
            )
    lines += _list("failed file", _errors(manifest))
    pruned = set(manifest.pruned)
    lines += _list("orphan", [name for name in manifest.orphans if name not in pruned])
    lines += _list("pruned", manifest.pruned)
    lines += _list("warning", _warnings(manifest))
    return ["", *lines] if lines else []


def _warnings(manifest: Manifest) -> list[str]:
    """The warnings, less what the closing error or a file's error says already."""
    told = [file.error for file in manifest.files if file.error]
    if manifest.exit_code:
        told += _reasons(manifest)[:1]
    return [line for line in manifest.warnings if not any(reason in line for reason in told)]


def _list(name: str, items: list[str]) -> list[str]:
    lines = [line for item in items[:_SHOWN] for line in _row(name, item)]
    if len(items) > _SHOWN:
        lines += _row(name, f"… and {len(items) - _SHOWN:,} more, listed in the manifest")
    return lines


def _row(name: str, text: str) -> list[str]:
    return [f"  {name:<14}{text}"]


def _shares(counts: Mapping[str, int], total: int) -> str:
    return "   ".join(f"{name} {n:,} ({n / total:.1%})" for name, n in counts.items())


def _counts(counts: Mapping[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {n:,}" for name, n in ordered if n)
