"""One process on all cores against several that share them.

    python -m tests.benchmarks.bench_processes --model DIR [--count 2000]

`drf annotate` as it runs on its own, and with `--direct_num_workers=2
--direct_running_mode=multi_processing --threads N`, N being a worker's share of the cores.
Posts per second without start-up, which is that of each way's own run on few posts (two, so that
both workers have one).
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.benchmarks.many_posts import Originals
from tests.benchmarks.processes import annotate, cores, heading, in_turns, per_post, ratio, table

FEW = 2


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a checkpoint folder")
    parser.add_argument("--posts", help="originals: a file or folder; default: the real nights")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args(argv)
    workers = arguments.workers
    several = f"{workers} processes"
    ways: dict[str, tuple[str, ...]] = {
        "one process": (),
        several: (
            *(f"--direct_num_workers={workers}", "--direct_running_mode=multi_processing"),
            *("--threads", str(max(1, cores() // workers))),
        ),
    }
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        originals = Originals(arguments.posts, root)
        many = originals.write(root / "many", arguments.count)
        few = originals.write(root / "few", FEW, rows_per_file=1)
        measures = in_turns(
            arguments.rounds,
            {
                name: partial(measure, arguments.model, many, few, arguments.count, options)
                for name, options in ways.items()
            },
        )
    print(heading(arguments.count, originals.name, arguments.model))
    rows: list[list[object]] = [["", "posts/s", "CPU ms/post", "start-up s", "peak MB"]]
    for name, rounds in measures.items():
        rate, cpu, startup, peak = (
            statistics.median(column) for column in zip(*rounds, strict=True)
        )
        rows.append([name, f"{rate:.1f}", f"{cpu:.2f}", f"{startup:.1f}", f"{peak:.0f}"])
    print(table(rows))
    rates = {name: [rate for rate, *_ in rounds] for name, rounds in measures.items()}
    print(f"{several} / one: {ratio(rates[several], rates['one process'])[1]}")


def measure(
    model: str, many: Path, few: Path, count: int, options: Sequence[str]
) -> tuple[float, ...]:
    """Posts per second and processor milliseconds per post, both without start-up; start-up in
    seconds, peak RSS in MB of all processes.
    """
    first, finished = annotate(model, few, *options), annotate(model, many, *options)
    return *per_post(first, finished, count - FEW), first.seconds, finished.peak


if __name__ == "__main__":
    main()
