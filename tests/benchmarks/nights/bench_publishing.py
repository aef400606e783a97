"""What readers meet while parts are replaced, and what publishing costs.

    python -m tests.benchmarks.nights.bench_publishing kills|kills-store|reads|time|store|small

kills: publishing a replacement of many parts, killed before each change of a file in turn: how many
kills leave a reader of whatever lies in the folders posts twice or missing, how many one who reads
by the ledger. kills-store: the same on moto's S3, which refuses everything from each third change
on.
reads: DuckDB's glob again and again while four runs replace
240 rows. time: publishing 1,000 shards that replace 1,000, on a disk. store: 100 that replace 100
on moto's S3 with 30 ms a request, and the requests. small: 1,000 inputs of 10 posts, then one of
them changed: parts in each tree, those without rows, and what a reader finds. No model runs: the
tests' stand-in annotates.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from pipelines.annotate.job import Plan
from pipelines.annotate.output import layout
from pipelines.annotate.output.snapshot import read_annotations
from pipelines.storage.files import OutputError
from tests.data.corpora import make_posts, write_posts
from tests.support.killing import run_and_kill
from tests.support.nights.stand_in import annotate, plan_run, publish, published_rows, run_job
from tests.support.services.emulators import run_s3
from tests.support.services.faulty_proxy import Request

NIGHT = "dt=2026-11-17"
DENIED = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"


def write_corpus(folder: Path, files: int, rows: int, row_group_rows: int | None = None) -> Path:
    for number in range(files):
        path = folder / NIGHT / f"part-{number:05d}.parquet"
        write_posts(path, make_posts(rows, number * rows), row_group_rows=row_group_rows)
    return folder


def publish_plan(plan: object) -> None:
    publish(plan)  # type: ignore[arg-type]


def prepare_replacement(folder: Path) -> Plan:
    """A night of 12 parts, and a run that is about to replace each of them."""
    corpus = write_corpus(folder / "in", 12, 8)
    run_job(folder / "before", corpus, part_bytes=1)
    plan = plan_run(folder / "before", corpus, part_bytes=1, model_revision="revision-2")
    annotate(plan)
    return plan


def look_at(found: Counter[str], output: Path, complete: list[tuple[str, int]]) -> None:
    """Count what a reader of the folders of a killed run finds, and one who reads by the ledger."""
    by_ledger: list[tuple[str, int]] = []
    for tree in layout.TREES:
        table = read_annotations(str(output), tree).to_table()
        if len(table):
            columns = (table[name].to_pylist() for name in ("source_file", "source_row"))
            by_ledger += zip(*columns, strict=True)
    for reader, rows in (("folder", published_rows(output)), ("ledger", by_ledger)):
        found[f"by the {reader}: posts twice"] += len(rows) > len(set(rows))
        found[f"by the {reader}: posts missing"] += set(rows) != set(complete)
    found["kills"] += 1


def kills(folder: Path) -> dict[str, int]:
    plan, complete = prepare_replacement(folder), published_rows(folder / "before")
    found: Counter[str] = Counter()
    for step in itertools.count(1):
        output = folder / f"killed-{step}"
        shutil.copytree(folder / "before", output)
        moved = replace(plan, options=replace(plan.options, output=str(output)))
        if not run_and_kill(step, publish_plan, moved):
            return dict(found)
        look_at(found, output, complete)
        shutil.rmtree(output)
    raise AssertionError("unreachable")


def kills_on_a_store(folder: Path) -> dict[str, int]:
    plan, complete = prepare_replacement(folder), published_rows(folder / "before")
    found: Counter[str] = Counter()
    with run_s3() as emulator:
        os.environ.update(emulator.environment)
        bucket = emulator.make_bucket()
        for step in itertools.count(1, 3):
            url = emulator.upload(folder / "before", f"{bucket}/killed-{step}")
            changes = itertools.count(1)

            def refuse(
                request: Request, changes: Iterator[int] = changes, step: int = step
            ) -> tuple[int, bytes] | None:
                nonlocal dead
                dead |= request.kind in ("PUT", "COPY", "DELETE", "POST") and next(changes) == step
                return (403, DENIED) if dead else None

            dead, emulator.proxy.refuse = False, refuse
            with contextlib.suppress(OutputError):
                publish(replace(plan, options=replace(plan.options, output=url)))
            emulator.proxy.refuse = None
            if not dead:
                return dict(found)
            emulator.download(url, folder / "killed")
            look_at(found, folder / "killed", complete)
    raise AssertionError("unreachable")


def replace_again(output: Path, corpus: Path, run: int, until: float) -> None:
    turn = 0
    while time.time() < until:
        turn += 1
        run_job(output, corpus, shard_rows=12, model_revision=f"revision-{run}-{turn}")


def reads(folder: Path, wanted: int = 1_000) -> dict[str, int]:
    import duckdb

    corpus = write_corpus(folder / "in", 4, 60, 12)
    run_job(folder / "out", corpus, shard_rows=12)
    until = time.time() + 60
    runs = [
        multiprocessing.Process(target=replace_again, args=(folder / "out", corpus, run, until))
        for run in range(4)
    ]
    for process in runs:
        process.start()
    found: Counter[str] = Counter()
    connection = duckdb.connect()
    glob = f"{folder}/out/annotations/**/*.parquet"
    query = f"select count(*), count(distinct (source_file, source_row)) from '{glob}'"
    while found["reads"] < wanted and any(process.is_alive() for process in runs):
        found["reads"] += 1
        try:
            posts, distinct = connection.execute(query).fetchone() or (0, 0)
            found["posts twice"] += posts > distinct
            found["posts missing"] += distinct < 240
        except duckdb.Error:
            found["a file is gone, said so"] += 1
    for process in runs:
        process.terminate()
        process.join()
    return dict(found)


def seconds(task: Callable[[], object]) -> float:
    began, used = time.perf_counter(), time.process_time()
    task()
    found = time.perf_counter() - began
    print(f"  {found:.2f} s, {time.process_time() - used:.2f} s of a processor", file=sys.stderr)
    return round(found, 2)


def publish_replacement(url: object, corpus: Path, shard_rows: int) -> float:
    run_job(url, corpus, shard_rows=shard_rows)
    plan = plan_run(url, corpus, shard_rows=shard_rows, model_revision="revision-2")
    annotate(plan)
    return seconds(lambda: publish(plan))


def on_a_disk(folder: Path) -> dict[str, float]:
    corpus = write_corpus(folder / "in", 10, 100, 1)
    return {"seconds": publish_replacement(folder / "out", corpus, 1)}


def on_a_store(folder: Path) -> dict[str, object]:
    corpus = write_corpus(folder / "in", 10, 10, 1)
    with run_s3() as emulator:
        os.environ.update(emulator.environment)
        url = f"{emulator.make_bucket()}/out"
        run_job(url, corpus, shard_rows=1)
        plan = plan_run(url, corpus, shard_rows=1, model_revision="revision-2")
        annotate(plan)
        emulator.proxy.requests.clear()
        emulator.proxy.before = lambda request: time.sleep(0.03)
        taken = seconds(lambda: publish(plan))
        emulator.proxy.before = None
        counts = emulator.proxy.counts()
        return {"seconds": taken, "requests": sum(counts.values()), **counts}


def small_files(folder: Path) -> dict[str, object]:
    corpus = write_corpus(folder / "in", 1_000, 10)
    found: dict[str, object] = {}
    for turn in ("first", "one changed", "again"):
        plan = plan_run(folder / "out", corpus, shard_rows=10)
        annotated = sum(annotate(plan).values())
        taken = seconds(lambda plan=plan: publish(plan))  # type: ignore[misc]
        rows = published_rows(folder / "out")
        found[turn] = {
            "shards annotated": annotated,
            "seconds to publish": taken,
            **{
                tree: [
                    pq.read_metadata(p).num_rows
                    for p in (folder / "out" / tree / NIGHT).glob("*.parquet")
                ]
                for tree in layout.TREES
            },
            "posts": len(rows),
            "posts twice": len(rows) - len(set(rows)),
        }
        if turn == "first":
            write_posts(corpus / NIGHT / "part-00500.parquet", make_posts(7, 50_000))
    return found


TASKS = {
    "kills": kills,
    "kills-store": kills_on_a_store,
    "reads": reads,
    "time": on_a_disk,
    "store": on_a_store,
    "small": small_files,
}

if __name__ == "__main__":
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            print(name, json.dumps(TASKS[name](Path(folder))), flush=True)
