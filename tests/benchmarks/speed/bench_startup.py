"""What `drf` takes before and without any work.

    python -m tests.benchmarks.speed.bench_startup --model DIR

`drf --help`; one post, with and without the runtime's compiled model from an earlier start; and
a corpus of 1,000 shards that is up to date, as files of one shard each and as a few large ones.
The corpus is made up to date with a model that does nothing, under the checkpoint's name.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tests.benchmarks.many_posts import Originals
from tests.benchmarks.processes import Finished, aim, annotate, drf_annotate, machine, run, table
from tests.benchmarks.speed.bench_overhead import write_random

HELP_TARGET, NOTHING_TARGET = 1.0, 5.0
_ROWS_PER_SHARD = 5


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default", help="a checkpoint folder")
    parser.add_argument("--posts", help="originals: a file or folder; default: the real nights")
    parser.add_argument("--shards", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args(argv)
    print(f"{machine()}; {Path(arguments.model).name}")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        one = Originals(arguments.posts, root).write(root / "one", 1)
        measures: dict[str, list[Finished]] = {}

        def measure(name: str, call: Callable[[], Finished]) -> float:
            measures[name] = [call() for _ in range(arguments.rounds)]
            return statistics.median(finished.seconds for finished in measures[name])

        helped = measure("drf --help", partial(run, "-m", "pipelines.cli", "--help", every=0.01))
        measure("one post, first start", partial(first_start, arguments.model, one))
        annotate(arguments.model, one)
        measure("one post, later start", partial(annotate, arguments.model, one))
        nothing = 0.0
        for files in (arguments.shards, max(1, arguments.shards // 50)):
            again = up_to_date(arguments.model, root / f"{files}", arguments.shards, files)
            name = f"nothing to do, {arguments.shards} shards in {files} files"
            nothing = max(nothing, measure(name, partial(run, *again)))
    rows: list[list[object]] = [["", "seconds", "slowest", "CPU s", "peak MB"]]
    for name, runs in measures.items():
        seconds, slowest = statistics.median(r.seconds for r in runs), max(r.seconds for r in runs)
        cpu, peak = (
            statistics.median(getattr(r, field) for r in runs) for field in ("cpu", "peak")
        )
        rows.append([name, f"{seconds:.2f}", f"{slowest:.2f}", f"{cpu:.2f}", f"{peak:.0f}"])
    print(table(rows))
    print(aim("drf --help, s", helped, HELP_TARGET, most=True))
    print(aim("nothing to do, s", nothing, NOTHING_TARGET, most=True))


def first_start(model: str, posts: Path) -> Finished:
    """Annotate with no compiled model in the cache."""
    with tempfile.TemporaryDirectory() as cache:
        return annotate(model, posts, environment={"DRF_CACHE": cache})


def up_to_date(model: str, folder: Path, shards: int, files: int) -> tuple[str, ...]:
    """Make a corpus that is up to date; return the arguments of the run that has nothing to do."""
    posts, output = folder / "posts", folder / "output"
    posts.parent.mkdir()
    rows = _ROWS_PER_SHARD * (shards // files)
    write_random(posts, rows * files, 64, rows_per_file=rows)
    again = drf_annotate(model, posts, output, "--shard-rows", str(_ROWS_PER_SHARD))
    run("-m", "tests.benchmarks.speed.noop_annotate", *again[2:])
    return again


if __name__ == "__main__":
    main()
