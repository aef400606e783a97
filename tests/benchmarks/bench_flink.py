"""Wall-clock and posts per second of `drf annotate`: in this process, and on a Flink cluster.

    deploy/flink/cluster up
    python -m tests.benchmarks.bench_flink [--model DIR] [--count 1000] [--rounds 1]

With one and with two TaskManagers of one slot each, by --parallelism, on the same posts in
turns. Start-up is the wall-clock of a run on one post. All share this machine: what two
TaskManagers bring shows only where there are more cores than one of them uses.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.benchmarks.many_posts import Originals
from tests.benchmarks.processes import annotate, in_turns, machine, table

FLINK = (
    "--runner=PortableRunner",
    "--environment_type=EXTERNAL",
    "--environment_config=localhost:50000",
)


@dataclass(frozen=True)
class Measure:
    """Seconds of a run on one post and on all."""

    startup: float
    seconds: float


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default", help="a checkpoint folder")
    parser.add_argument("--posts", help="Parquet file or folder; default: real posts, if any")
    parser.add_argument("--count", type=int, default=1000, help="posts, as changed copies")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--job-endpoint", default="10.213.47.1:8099", metavar="HOST:PORT")
    arguments = parser.parse_args(argv)
    flink = (*FLINK, f"--job_endpoint={arguments.job_endpoint}")
    engines: dict[str, tuple[str, ...]] = {
        "local": (),
        "Flink, 1 TaskManager": (*flink, "--parallelism=1"),
        "Flink, 2 TaskManagers": (*flink, "--parallelism=2"),
    }
    # Workers open the input and the output by the same paths.
    with tempfile.TemporaryDirectory() as folder:
        originals = Originals(arguments.posts, Path(folder))
        one = originals.write(Path(folder) / "one", 1)
        many = originals.write(Path(folder) / "many", arguments.count, -(-arguments.count // 4))
        print(f"{machine()}; {arguments.count} posts; {Path(arguments.model).name}")
        measures = in_turns(
            arguments.rounds,
            {
                name: partial(measure, arguments.model, one, many, options)
                for name, options in engines.items()
            },
        )
    report(measures, arguments.count)


def measure(model: str, one: Path, many: Path, options: Sequence[str]) -> Measure:
    """Run on one post, then on all."""
    startup = annotate(model, one, *options).seconds
    return Measure(startup, annotate(model, many, *options).seconds)


def report(measures: dict[str, list[Measure]], count: int) -> None:
    """Print medians; posts per second with start-up, and without it."""
    rows: list[list[object]] = [["", "wall-clock s", "posts/s", "start-up s", "posts/s without it"]]
    for name, rounds in measures.items():
        seconds = statistics.median(one.seconds for one in rounds)
        startup = statistics.median(one.startup for one in rounds)
        rate = statistics.median((count - 1) / (one.seconds - one.startup) for one in rounds)
        rows.append(
            [name, f"{seconds:.0f}", f"{count / seconds:.1f}", f"{startup:.0f}", f"{rate:.1f}"]
        )
    print(table(rows))


if __name__ == "__main__":
    main()
