"""What readers meet while parts are replaced, and what publishing costs.

    python -m tests.benchmarks.nights.bench_publishing kills|reads|time|store|small

kills: publishing a replacement, killed before each change of a file in turn: how many kills leave
a plain reader posts twice, or missing. reads: DuckDB's glob again and again while four runs replace
240 rows. time: publishing 1,000 shards that replace 1,000, on a disk. store: 100 that replace 100
on moto's S3 with 30 ms a request, and the requests. small: 1,000 inputs of 10 posts, then one of
them changed: parts in each tree, those without rows, and what a reader finds. No model runs: the
tests' stand-in annotates.
"""

from __future__ import annotations

import json
import multiprocessing
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq

from pipelines.annotate.output import layout
from tests.data.corpora import make_posts, write_posts
from tests.support.killing import run_and_kill
from tests.support.nights.stand_in import annotate, plan_run, publish, published_rows, run_job

NIGHT = "dt=2026-11-17"


def write_corpus(folder: Path, files: int, rows: int, row_group_rows: int | None = None) -> Path:
    for number in range(files):
        path = folder / NIGHT / f"part-{number:05d}.parquet"
        write_posts(path, make_posts(rows, number * rows), row_group_rows=row_group_rows)
    return folder


def publish_plan(plan: object) -> None:
    publish(plan)  # type: ignore[arg-type]


def kills(folder: Path) -> dict[str, int]:
    corpus = write_corpus(folder / "in", 3, 8)
    run_job(folder / "before", corpus)
    plan = plan_run(folder / "before", corpus, model_revision="revision-2")
    annotate(plan)
    complete = published_rows(folder / "before")
    found: Counter[str] = Counter()
    step, killed = 1, True
    while killed:
        output = folder / f"killed-{step}"
        shutil.copytree(folder / "before", output)
        moved = replace(plan, options=replace(plan.options, output=str(output)))
        killed = run_and_kill(step, publish_plan, moved)
        rows = published_rows(output)
        found["kills"] += killed
        found["posts twice"] += killed and len(rows) > len(set(rows))
        found["posts missing"] += killed and set(rows) != set(complete)
        shutil.rmtree(output)
        step += 1
    return dict(found)


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
    import os

    from tests.support.services.emulators import run_s3

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
    "reads": reads,
    "time": on_a_disk,
    "store": on_a_store,
    "small": small_files,
}

if __name__ == "__main__":
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory() as folder:
            print(name, json.dumps(TASKS[name](Path(folder))), flush=True)
