"""A stand-in for the workers: annotates without a model, through the real staging.

Its rows depend on the input alone, so that two runs of it can be compared byte for byte. A
post without post_id is a dead letter; one without text has its text recovered.
"""

from __future__ import annotations

import datetime
import shutil
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractFileSystem

from pipelines.annotate.job import JobOptions, Plan, Shard, ShardOutcome
from pipelines.annotate.manifest import build_manifest
from pipelines.annotate.output import layout
from pipelines.annotate.output.attempts import Attempt
from pipelines.annotate.output.commit_records import CommitRecord
from pipelines.annotate.output.staged_shard import StagedShard
from pipelines.annotate.planning.make_plan import make_plan
from pipelines.annotate.publish.partition_tasks import partition_tasks
from pipelines.annotate.publish.publish_partition import publish_partition
from pipelines.annotate.publish.results import PartitionResult
from pipelines.posts.inputs import list_inputs
from pipelines.storage.files import Store, open_store
from schemas.dead_letters import dead_letters_schema
from schemas.manifest import Manifest

LABELS = ("negative", "neutral", "positive")
_WHEN = datetime.datetime(2026, 11, 19, tzinfo=datetime.timezone.utc)


def job_options(output: object, **changes: Any) -> JobOptions:
    fields: dict[str, Any] = {
        "output": str(output),
        "run_id": "test-run",
        "model": "test-model",
        "model_id": "test-model",
        "model_revision": "revision-1",
        "package_version": "0.0",
        "labels": LABELS,
        "max_dead_letter_share": 1.0,
    }
    return JobOptions(**{**fields, **changes})


def plan_run(
    output: object,
    *inputs: object,
    retry: Collection[str] = (),
    prune: bool = False,
    shard_rows: int = 4,
    **changes: Any,
) -> Plan:
    options = job_options(output, **changes)
    listing = list_inputs([str(path) for path in inputs], output=str(output))
    return make_plan(options, listing, retry=retry, prune=prune, shard_rows=shard_rows)


def annotate(plan: Plan, reason: str = "missing") -> Counter[str]:
    """Commit every shard of the plan's units; return how many by source file."""
    done: Counter[str] = Counter()
    for unit in plan.units:
        for shard in unit.shards:
            annotate_shard(plan.options, shard, reason)
            done[shard.source_file] += 1
    return done


def annotate_shard(options: JobOptions, shard: Shard, reason: str = "missing") -> CommitRecord:
    store = open_store(options.output)
    attempt = Attempt(store, shard.key, options.run_id)
    with StagedShard(store, options, shard, attempt) as staged:
        write_rows(staged, options, shard, reason)
        record = staged.commit()
    attempt.end()
    return record


def write_rows(
    staged: StagedShard, options: JobOptions, shard: Shard, reason: str = "missing"
) -> None:
    posts = pq.read_table(shard.path).slice(shard.first_row, shard.rows).to_pylist()
    rows = list(enumerate(posts, shard.first_row))
    alive = [annotation(options, shard, row, post, reason) for row, post in rows if post["post_id"]]
    dead = [dead_letter(shard, row) for row, post in rows if not post["post_id"]]
    staged.add_annotations(pa.Table.from_pylist(alive, staged.annotations_schema))
    staged.add_dead_letters(pa.Table.from_pylist(dead, dead_letters_schema()))


def annotation(
    options: JobOptions, shard: Shard, row: int, post: Mapping[str, Any], reason: str = "missing"
) -> dict[str, Any]:
    modality = {
        "state": "present", "quality": 0.5, "evidence": 0.5, "damage": None, "reason": None
    }  # fmt: skip
    text = modality if post["text"] else {**modality, "state": "recovered", "reason": reason}
    return {
        "post_id": post["post_id"],
        "label": LABELS[row % 3],
        "confidence": 1.0,
        "probabilities": {label: float(label == LABELS[row % 3]) for label in options.labels},
        **{f"text_{name}": value for name, value in text.items()},
        **{f"image_{name}": value for name, value in modality.items()},
        "text_share_read": 1.0 if post["text"] else None,
        "source_file": shard.source_file,
        "source_row": row,
        "model_id": options.model_id,
        "model_revision": options.model_revision,
        "run_id": options.run_id,
        "schema_version": 2,
        "annotated_at": _WHEN,
    }


def dead_letter(shard: Shard, row: int) -> dict[str, Any]:
    return {
        "post_id": None,
        "source_file": shard.source_file,
        "source_row": row,
        "stage": "check",
        "reason": "no_post_id",
        "message": "the post has no post_id",
    }


def publish(plan: Plan, failures: Mapping[str, str] | None = None) -> dict[str, PartitionResult]:
    """Publish the partitions that the plan says need it."""
    tasks = partition_tasks(plan)
    return {
        partition: publish_partition(plan.options, tasks[partition], failures)
        for partition in plan.publish
    }


def run_job(output: object, *inputs: object, **changes: Any) -> tuple[Manifest, Counter[str]]:
    """A whole run; return its manifest and how many shards it computed by source file."""
    started = datetime.datetime.now(datetime.timezone.utc)
    plan = plan_run(output, *inputs, **changes)
    computed = annotate(plan)
    results = publish(plan)
    outcomes = [
        ShardOutcome(s.key, s.source_file, s.partition, s.rows, computed=s.rows)
        for unit in plan.units
        for s in unit.shards
    ]
    return build_manifest(plan, results, started, outcomes), computed


def published_bytes(output: Path) -> dict[str, bytes]:
    """Every file below annotations/ and dead_letters/."""
    return {
        str(path.relative_to(output)): path.read_bytes()
        for tree in ("annotations", "dead_letters")
        for path in sorted((output / tree).rglob("*"))
        if path.is_file()
    }


def published_content(output: Path) -> list[tuple[str, str]]:
    """Every row of both trees by its folder, and every _SUCCESS, whatever parts hold them."""
    content = []
    for name in published_bytes(output):
        path = output / name
        rows = pq.ParquetFile(path).read().to_pylist() if path.suffix == ".parquet" else [name]
        content += [(str(path.parent.relative_to(output)), repr(row)) for row in rows]
    return sorted(content)


def remove_ledgers(output: Path, partition: str) -> None:
    shutil.rmtree(output / layout.LEDGERS / partition)


def published_rows(output: Path) -> list[tuple[str, int]]:
    """(source_file, source_row) of every row in both trees, as any reader finds them."""
    rows: list[tuple[str, int]] = []
    for tree in ("annotations", "dead_letters"):
        parts = [str(path) for path in sorted((output / tree).rglob("*.parquet"))]
        if parts:
            table = ds.dataset(parts).to_table(columns=["source_file", "source_row"])
            rows += zip(*(column.to_pylist() for column in table.columns), strict=True)
    return sorted(rows)


def success_files(output: Path) -> set[str]:
    return {str(path.relative_to(output)) for path in output.rglob("_SUCCESS")}


def staged_files(output: Path) -> set[str]:
    """What lies in the staging folder, but for locks, which stay, and half-written files."""
    staging = output / "_staging"
    found = {str(path.relative_to(staging)) for path in staging.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith(("locks/", "tmp/"))}


class SilentFS(MemoryFileSystem):
    """A file system that does not tell when a file changed, as fsspec's for HTTP does not."""

    cachable = False
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    modified = AbstractFileSystem.modified


def memory_store(name: str) -> Store:
    """An empty store that is no local disk."""
    store = open_store(f"memory://{name}")
    if store.fs.exists(store.root):
        store.fs.rm(store.root, recursive=True)
    return store
