"""What the job costs beside its model: `drf annotate` with a model that does nothing.

    python -m tests.benchmarks.speed.bench_overhead --model DIR [--count 200000] [--kilobytes 30]

Beside a bare loop that reads the same Parquet files and writes the same annotation columns.
Posts have random images of the given size, which nobody decodes. Start-up stands apart: for the
job it is that of a run on one post.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from schemas.annotations import ANNOTATIONS_SCHEMA_VERSION, annotations_schema
from tests.benchmarks.many_posts import write_posts
from tests.benchmarks.processes import (
    Finished,
    aim,
    drf_annotate,
    in_turns,
    machine,
    per_post,
    ratio,
    run,
    table,
)

LABELS = ("negative", "neutral", "positive")
JOB, BARE = "drf annotate, no-op model", "bare loop"
TARGET = 15_000
_ROWS_PER_FILE = 10_000


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default", help="its labels and name are used")
    parser.add_argument("--count", type=int, default=200_000)
    parser.add_argument("--kilobytes", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bare", help="be the bare loop over this folder")
    arguments = parser.parse_args(argv)
    if arguments.bare:
        print(json.dumps(read_and_write(Path(arguments.bare))))
        return
    with tempfile.TemporaryDirectory() as folder:
        many, one = Path(folder) / "many", Path(folder) / "one"
        write_random(many, arguments.count, arguments.kilobytes << 10)
        write_random(one, 1, arguments.kilobytes << 10)
        print(f"{machine()}; {arguments.count} posts of {arguments.kilobytes} KB")
        measures = in_turns(
            arguments.rounds,
            {
                JOB: partial(measure_job, arguments.model, many, one, arguments.count),
                BARE: partial(measure_bare, many, arguments.count),
            },
        )
    rows: list[list[object]] = [["", "posts/s", "CPU ms/post", "start-up s", "peak MB"]]
    for name, rounds in measures.items():
        rate, cpu, startup, peak = (
            statistics.median(column) for column in zip(*rounds, strict=True)
        )
        rows.append([name, f"{rate:,.0f}", f"{cpu:.3f}", f"{startup:.1f}", f"{peak:.0f}"])
    print(table(rows))
    rates = {name: [rate for rate, *_ in rounds] for name, rounds in measures.items()}
    print(f"{JOB} / {BARE}: {ratio(rates[JOB], rates[BARE])[1]}")
    print(aim(f"{JOB}, posts/s", statistics.median(rates[JOB]), TARGET))


def measure_job(model: str, many: Path, one: Path, count: int) -> tuple[float, ...]:
    """Posts per second, processor milliseconds per post, start-up, peak RSS in MB."""
    first, whole = (_noop(model, posts) for posts in (one, many))
    return *per_post(first, whole, count - 1), first.seconds, whole.peak


def _noop(model: str, posts: Path) -> Finished:
    with tempfile.TemporaryDirectory() as output:
        arguments = drf_annotate(model, posts, output)[2:]
        return run("-m", "tests.benchmarks.speed.noop_annotate", *arguments)


def measure_bare(many: Path, count: int) -> tuple[float, ...]:
    """The same of the bare loop."""
    finished = run("-m", "tests.benchmarks.speed.bench_overhead", "--bare", str(many))
    seconds, cpu = json.loads(finished.out)
    return count / seconds, 1000 * cpu / count, finished.seconds - seconds, finished.peak


def read_and_write(posts: Path) -> tuple[float, float]:
    """Read all posts, write an annotation for each; return the seconds and processor seconds."""
    began, before = time.perf_counter(), time.process_time()
    schema = annotations_schema(LABELS)
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted(posts.iterdir()):
            with pq.ParquetWriter(Path(folder) / path.name, schema, compression="zstd") as writer:
                row = 0
                for batch in pq.ParquetFile(path).iter_batches(1000):
                    ids, texts, images = (column.to_pylist() for column in batch.columns)
                    writer.write_batch(_annotations(schema, path.name, row, ids))
                    row += len(texts)
                    assert len(texts) == len(images)
    return time.perf_counter() - began, time.process_time() - before


def _annotations(schema: pa.Schema, file: str, first: int, ids: list[str]) -> pa.RecordBatch:
    values: dict[str, Any] = {
        "label": LABELS[0],
        "confidence": 1.0,
        "probabilities": {label: 0.5 for label in LABELS},
        "source_file": file,
        "model_id": "model",
        "model_revision": "0" * 64,
        "run_id": "run",
        "schema_version": ANNOTATIONS_SCHEMA_VERSION,
        "annotated_at": datetime.datetime.now(datetime.timezone.utc),
    }
    for modality in ("text", "image"):
        values |= {f"{modality}_state": "present", f"{modality}_reason": None}
        values |= {f"{modality}_quality": 0.5, f"{modality}_evidence": 0.5}
        values |= {f"{modality}_score": -1.0}
        values |= {f"{modality}_damage": None}
    values["text_share_read"] = 1.0
    columns = {
        field.name: pa.repeat(pa.scalar(values[field.name], field.type), len(ids))
        for field in schema
        if field.name in values
    }
    columns["post_id"] = pa.array(ids)
    columns["source_row"] = pa.array(range(first, first + len(ids)), pa.int64())
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def write_random(folder: Path, count: int, size: int, rows_per_file: int = _ROWS_PER_FILE) -> None:
    """Write posts with random bytes for images, no two alike."""
    folder.mkdir()
    noise = np.random.default_rng(0).bytes(32 << 20)
    for first in range(0, count, rows_per_file):
        numbers = range(first, min(first + rows_per_file, count))
        write_posts(folder / f"part-{first:07d}.parquet", _random_posts(numbers, noise, size))


def _random_posts(numbers: range, noise: bytes, size: int) -> Iterator[dict[str, Any]]:
    for number in numbers:
        start = number * 64 % (len(noise) - size)
        image = number.to_bytes(8, "big") + noise[start : start + size - 8]
        yield {"post_id": f"p{number}", "text": f"post number {number}", "image": image}


if __name__ == "__main__":
    main()
