"""Peak memory of `drf annotate` against the number of posts, and memory over time.

    python -m tests.benchmarks.speed.bench_memory --model DIR [--sizes 2000 20000 100000]

Resident memory of the process and its children, sampled; the peak should not grow with the
corpus. Copies of real posts at original size (many_posts.py), removed after each run. What a
quarter of the run held is the median of its samples, the first without start-up: a leak would
make it rise. --no-model has posts go through the job with a model that answers at once: what the
job itself holds, of many more posts. Another load on the machine makes this slower, not larger.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.many_posts import Originals
from tests.benchmarks.processes import Finished, aim, drf_annotate, machine, run, table

TARGET = 1.2
_NO_MODEL = "tests.benchmarks.speed.noop_annotate"


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default", help="a checkpoint folder")
    parser.add_argument("--posts", help="originals: a file or folder; default: the real nights")
    parser.add_argument("--sizes", type=int, nargs="+", default=[2_000, 20_000, 100_000])
    parser.add_argument("--no-model", action="store_true")
    parser.add_argument("options", nargs="*", help="further options of drf annotate, after --")
    arguments = parser.parse_args(argv)
    rows: list[list[object]] = [
        ["posts", "seconds", "peak MB", "times the first", "median MB of each quarter"]
    ]
    peaks: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        originals = Originals(arguments.posts, Path(folder))
        print(f"{machine()}; copies of {originals.name}; {Path(arguments.model).name}")
        for size in arguments.sizes:
            with tempfile.TemporaryDirectory(dir=folder) as of_size:
                posts = originals.write(Path(of_size) / "posts", size)
                options = drf_annotate(
                    arguments.model, posts, Path(of_size) / "output", *arguments.options
                )
                finished = (
                    run("-m", _NO_MODEL, *options[2:]) if arguments.no_model else run(*options)
                )
            peaks.append(finished.peak)
            held = " ".join(f"{median:.0f}" for median in quarters(finished))
            times = f"{finished.peak / peaks[0]:.2f}"
            rows.append(
                [f"{size:,}", f"{finished.seconds:.0f}", f"{finished.peak:.0f}", times, held]
            )
            print(table(rows[:1] + rows[-1:]).splitlines()[-1], flush=True)
    print("\n" + table(rows))
    print(aim("peak, last size to first", peaks[-1] / peaks[0], TARGET, most=True))


def quarters(finished: Finished) -> list[float]:
    """Median memory in MB of each quarter of a run, start-up (the first tenth) left out."""
    samples = [held for _, held in finished.memory]
    samples = samples[len(samples) // 10 :]
    parts = [samples[len(samples) * n // 4 : len(samples) * (n + 1) // 4] for n in range(4)]
    return [statistics.median(part) for part in parts if part]


if __name__ == "__main__":
    main()
