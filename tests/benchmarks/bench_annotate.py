"""Posts per second and peak memory of `drf annotate`, beside the script everyone writes first.

    python -m tests.benchmarks.bench_annotate --model DIR [--model DIR ...] [--posts PATH]

Both run as processes of their own on the same posts, in turns, since machines drift. Speed is
without start-up, which stands apart: for `drf annotate` it is the shortest of some runs on one
post, so the posts should take several times as long. Machines differ: the ratios within one run
are what can be compared.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sample import make_sample
from schemas.posts import PostColumns, check_posts_schema, coerce_posts


@dataclasses.dataclass(frozen=True)
class Measure:
    """One process: posts per second without start-up, start-up in seconds, peak RSS in MB."""

    rate: float
    startup: float
    peak: float


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", required=True, help="a checkpoint folder")
    parser.add_argument("--posts", help="Parquet file or folder; default: the sample corpus")
    parser.add_argument("--count", type=int, default=1000, help="posts, repeated to so many")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        source = Path(arguments.posts) if arguments.posts else root / "sample"
        if not arguments.posts:
            make_sample(source)
        many, one = write_corpus(source, root, arguments.count)
        for model in arguments.model:
            measures: dict[str, list[Measure]] = {"drf annotate": [], "plain script": []}
            startup = min(run_drf(model, one)[0] for _ in range(arguments.rounds))
            for _ in range(arguments.rounds):
                measures["drf annotate"].append(measure_drf(model, many, startup, arguments.count))
                measures["plain script"].append(measure_plain(model, many, arguments.count))
            report(model, measures)


def write_corpus(source: Path, root: Path, count: int) -> tuple[Path, Path]:
    """Write `count` posts, repeated as often as needed, and one post, as files of their own."""
    batches = []
    for path in [source] if source.is_file() else sorted(source.rglob("*.parquet")):
        file = pq.ParquetFile(path)
        layout = check_posts_schema(file.schema_arrow, PostColumns(), (), str(path))
        batches += [coerce_posts(batch, layout) for batch in file.iter_batches()]
    posts = pa.Table.from_batches(batches).select(["post_id", "text", "image"])
    repeated = pa.concat_tables([posts] * -(-count // posts.num_rows)).slice(0, count)
    many, one = root / "many.parquet", root / "one.parquet"
    pq.write_table(repeated, many, row_group_size=200)
    pq.write_table(posts.slice(0, 1), one)
    print(f"{count} posts, {many.stat().st_size / count / 1024:.0f} KB each, from {source}")
    return many, one


def measure_drf(model: str, many: Path, startup: float, count: int) -> Measure:
    """Run `drf annotate` on all posts, into an output of its own."""
    seconds, peak, _ = run_drf(model, many)
    return Measure((count - 1) / (seconds - startup), startup, peak)


def run_drf(model: str, posts: Path) -> tuple[float, float, str]:
    """Seconds, peak RSS in MB and standard output of one `drf annotate`."""
    with tempfile.TemporaryDirectory() as output:
        return run(
            *("-m", "pipelines.cli", "annotate", "--json", "--input", str(posts)),
            *("--output", output, "--model", model, "--max-dead-letter-share", "1"),
        )


def measure_plain(model: str, many: Path, count: int) -> Measure:
    """Run the plain script on all posts."""
    script = ("-m", "tests.benchmarks.plain_script", "--model", model, "--posts", str(many))
    _, peak, out = run(*script)
    times = json.loads(out)
    return Measure(count / times["loop"], times["startup"], peak)


def run(*arguments: str) -> tuple[float, float, str]:
    """Seconds, peak RSS in MB and standard output of a Python process that must succeed."""
    with tempfile.TemporaryFile("w+") as out:
        began = time.perf_counter()
        process = os.posix_spawn(
            sys.executable,
            [sys.executable, *arguments],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, out.fileno(), 1)],
        )
        _, status, usage = os.wait4(process, 0)
        seconds = time.perf_counter() - began
        out.seek(0)
        if status:
            sys.exit(f"{' '.join(arguments)}: exit status {os.waitstatus_to_exitcode(status)}")
        return seconds, usage.ru_maxrss / 1024, out.read()


def report(model: str, measures: dict[str, list[Measure]]) -> None:
    """Print medians, and the ratio of speeds, each round with itself."""
    print(f"\n{model}\n{'':<14}{'posts/s':>9}{'start-up s':>12}{'peak MB':>9}")
    for name, rounds in measures.items():
        rate, startup, peak = (
            statistics.median(getattr(measure, field) for measure in rounds)
            for field in ("rate", "startup", "peak")
        )
        print(f"{name:<14}{rate:>9.1f}{startup:>12.1f}{peak:>9.0f}")
    pairs = zip(measures["drf annotate"], measures["plain script"], strict=True)
    ratios = sorted(drf.rate / plain.rate for drf, plain in pairs)
    print(f"ratio {statistics.median(ratios):.2f} (rounds {ratios[0]:.2f} to {ratios[-1]:.2f})")


if __name__ == "__main__":
    main()
