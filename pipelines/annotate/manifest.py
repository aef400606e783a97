"""The manifest of a run: told from the ledgers, which are what was published."""

from __future__ import annotations

import dataclasses
import json
import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from pipelines.annotate.job import Plan, ShardOutcome
from pipelines.annotate.output import layout
from pipelines.annotate.output.ledger import Ledger, LedgerFile, sum_counts
from pipelines.annotate.output.partition_state import read_ledger
from pipelines.annotate.publish.partition_tasks import FileTask, PartitionTask, partition_tasks
from pipelines.annotate.publish.results import FileResult, PartitionResult, why_unpublished
from pipelines.posts.column_types import from_text
from pipelines.storage.files import OutputError, open_store
from pipelines.storage.redaction import redact
from schemas.exit_codes import ExitCode
from schemas.manifest import FileCounts, Manifest, Totals, from_json, to_json

# Of the packages whose version may matter to the rows.
_PACKAGES = (
    *("apache-beam", "torch", "transformers", "tokenizers", "openvino"),
    *("pyarrow", "pillow", "fsspec"),
)

_PUBLISHED = ("published", "up_to_date")


def build_manifest(
    plan: Plan,
    results: Mapping[str, PartitionResult],
    started: datetime,
    outcomes: Sequence[ShardOutcome] = (),
    options: Mapping[str, Any] | None = None,
    phases: Mapping[str, float] | None = None,
) -> Manifest:
    """Return the manifest of a run that ends now.

    results: of publishing, by partition; a partition without one was settled already.
    started: UTC. outcomes: of the plan's shards. options: more than the plan's, no credentials.
    phases: seconds by what the run did.
    Totals are sums over the published files of the run's input. A file that is not published
    shows the parts of its earlier version, which stay, and counts nowhere.
    """
    store = open_store(plan.options.output)
    files: list[FileCounts] = []
    partitions: dict[str, str] = {}
    ledgers: list[Ledger] = []
    messages: list[str] = []
    for partition, task in partition_tasks(plan).items():
        ledger = read_ledger(store, partition)
        ledgers += [ledger] if ledger else []
        result = results.get(partition) or _settled(task, ledger)
        partitions[partition] = result.status
        if result.message:
            messages.append(f"partition {partition or '(none)'}: {result.message}")
        planned_files = {file.source_file: file for file in task.files}
        for name, outcome in sorted(result.files.items()):
            held = ledger.files.get(name) if ledger else None
            files.append(_file_counts(name, partition, planned_files.get(name), held, outcome))
    planned = sum(unit.rows for unit in plan.units)
    readable = sum(file.rows for file in plan.files)
    found = sum(one.rows - one.computed for one in outcomes if one.failure is None)
    runtimes: Counter[str] = Counter()
    for one in outcomes:
        runtimes.update({one.runtime: one.computed} if one.runtime else {})
    counts = {
        "input_bytes": _input_bytes(plan),
        "killed_attempts": sum(one.killed for one in outcomes),
        "cache_lookups": sum(one.cached[0] for one in outcomes),
        "cache_hits": sum(one.cached[1] for one in outcomes),
    }
    exit_code = _exit_code(files, partitions)
    finished = datetime.now(timezone.utc)
    return Manifest(
        run_id=plan.options.run_id,
        status=exit_code.name.lower(),
        exit_code=exit_code,
        started_at=started.isoformat(),
        finished_at=finished.isoformat(),
        model_id=redact(plan.options.model_id),
        model_revision=plan.options.model_revision,
        package_version=plan.options.package_version,
        versions=_versions(),
        options={**_options(plan), **(options or {})},
        totals=_totals(files, ledgers),
        files=files,
        partitions=partitions,
        failed_files=[file.source_file for file in files if file.status == "failed"],
        orphans=list(plan.orphans),
        pruned=sorted(name for result in results.values() for name in result.pruned),
        warnings=[
            *plan.warnings,
            *sorted({one.note for one in outcomes if one.note}),
            *(warning for result in results.values() for warning in result.warnings),
            *messages,
        ],
        runtimes=dict(sorted(runtimes.items())),
        phases=dict(phases or {}),
        fetched=_by_host(outcomes),
        counts={name: number for name, number in counts.items() if number},
        computed_rows=sum(one.computed for one in outcomes),
        skipped_rows=readable - planned + found,
        seconds=(finished - started).total_seconds(),
    )


def _input_bytes(plan: Plan) -> int:
    todo = {shard.source_file for unit in plan.units for shard in unit.shards}
    files = (file for file in plan.files if file.source_file in todo)
    return sum(group.bytes for file in files for group in file.row_groups)


def _by_host(outcomes: Iterable[ShardOutcome]) -> dict[str, dict[str, int]]:
    hosts: dict[str, dict[str, int]] = {}
    for host, what, addresses in sorted(one for outcome in outcomes for one in outcome.fetched):
        of_host = hosts.setdefault(host, {})
        of_host[what] = of_host.get(what, 0) + addresses
    return hosts


def write_manifest(output: str, manifest: Manifest) -> str:
    """Write the manifest where the run's output has it; return that place.

    A scheduler repeats a run under its id: the manifest of the earlier one is kept beside it.
    """
    store = open_store(output)
    name, data = layout.manifest(manifest.run_id), to_json(manifest).encode()
    if not store.create(name, data):
        # Each by its start, too: of runs that end at once, none overwrites the only copy.
        for one in {store.read(name) or data, data}:
            started_at = json.loads(one)["started_at"]
            store.write(layout.earlier_manifest(manifest.run_id, started_at), one)
        store.write(name, data)
    return f"{store.url}/{name}"


def read_manifest(output: str, run_id: str) -> Manifest:
    """Return the manifest of a run, wherever it was written from.

    Raises OutputError where there is none, DRFError where it is damaged.
    """
    store = open_store(output)
    name = layout.manifest(run_id)
    data = store.read(name)
    if data is None:
        raise OutputError(f"the run ended without its manifest {store.url}/{name}; run again")
    return from_json(data.decode())


def _settled(task: PartitionTask, ledger: Ledger | None) -> PartitionResult:
    """Return the result of a partition that publishing had nothing to do for."""
    files = {file.source_file: FileResult("up_to_date") for file in task.files}
    files |= {file.source_file: FileResult("failed", file.error) for file in task.failed}
    unpublished = ledger.unpublished if ledger else {}
    wanting = task.failed or any(not file.gone for file in unpublished.values())
    status = "failed" if wanting else "orphaned" if unpublished else "up_to_date"
    message = why_unpublished(unpublished) if unpublished else None
    return PartitionResult(task.partition, status, files, message=message)


def _file_counts(
    name: str,
    partition: str,
    planned: FileTask | None,
    held: LedgerFile | None,
    result: FileResult,
) -> FileCounts:
    earlier = held is not None and result.status not in _PUBLISHED
    rows = planned.rows if planned else 0
    return FileCounts(
        source_file=name,
        partition=partition,
        rows=held.rows if held and not planned else rows,
        annotations=held.annotations if held else 0,
        dead_letters=held.dead_letters if held else 0,
        parts=sorted({shard.part for shard in held.shards if shard.part}) if held else [],
        status=result.status,
        error=result.error,
        identity=planned.identity if planned else None,
        earlier=earlier,
    )


def _totals(files: Iterable[FileCounts], ledgers: Iterable[Ledger]) -> Totals:
    published = {f.source_file: f for f in files if f.status in _PUBLISHED}
    counts = sum_counts(
        shard.counts
        for ledger in ledgers
        for name, file in ledger.files.items()
        if name in published
        for shard in file.shards
    )
    return Totals(
        files=len(published),
        rows=sum(file.rows for file in published.values()),
        annotations=sum(file.annotations for file in published.values()),
        dead_letters=sum(file.dead_letters for file in published.values()),
        failed_files=sum(file.status == "failed" for file in files),
        duplicate_ids=sum(one.duplicate_ids for one in ledgers if one.files.keys() & published),
        labels=counts.labels,
        states=counts.states,
        reasons=counts.reasons,
        dead_letter_reasons=counts.dead_letter_reasons,
    )


def _exit_code(files: Iterable[FileCounts], partitions: Mapping[str, str]) -> ExitCode:
    if any(status == "incomplete" for status in partitions.values()):
        return ExitCode.FAILED
    if any(file.status == "failed" for file in files):
        return ExitCode.FAILED_FILES
    return ExitCode.HELD_BACK if "held_back" in partitions.values() else ExitCode.DONE


def _options(plan: Plan) -> dict[str, Any]:
    options = dataclasses.asdict(plan.options)
    kept = options.pop("kept")
    options["kept"] = {f.name: str(f.type) for f in from_text(kept)} if kept else {}
    for name in ("output", "model", "model_id"):
        options[name] = redact(options[name])
    if options["feature_cache"]:
        options["feature_cache"] = redact(options["feature_cache"])
    rows = options["rows"]
    rows["image_uri_prefixes"] = [redact(prefix) for prefix in rows["image_uri_prefixes"]]
    return {**options, "prune": plan.prune}


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return versions
