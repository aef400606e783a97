"""What a post costs when a share of the posts lacks its image, or its text.

    python -m tests.benchmarks.bench_missing --model DIR [--count 1000]

An absent modality is not encoded, so posts per second of `drf annotate` should rise with the
share. Posts come in the order of their copies: which ones lack something is drawn at random,
the same in every run. Start-up, of a run on one post, is not counted.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from tests.benchmarks.many_posts import Originals, write_posts
from tests.benchmarks.processes import annotate, heading, in_turns, per_post, table

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a checkpoint folder")
    parser.add_argument("--posts", help="originals: a file or folder; default: the real nights")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        originals = Originals(arguments.posts, root)
        one = originals.write(root / "one", 1)
        cases = [
            (m, share)
            for m in ("image", "text")
            for share in arguments.shares
            if share or m == "image"
        ]
        corpora = {
            f"{share:.0%} of {m}s missing" if share else "as they come": write_without(
                originals, root / f"{m}-{share}.parquet", arguments.count, m, share
            )
            for m, share in cases
        }
        starts = [annotate(arguments.model, one) for _ in range(3)]
        measures = in_turns(
            arguments.rounds,
            {name: partial(annotate, arguments.model, posts) for name, posts in corpora.items()},
        )
    start = sorted(starts, key=lambda run: run.seconds)[1]
    startup = f"start-up {start.seconds:.1f} s"
    print(heading(arguments.count, originals.name, arguments.model, startup))
    rows: list[list[object]] = [["", "posts/s", "CPU ms/post"]]
    for name, runs in measures.items():
        each = [per_post(start, finished, arguments.count - 1) for finished in runs]
        rate, cpu = (statistics.median(column) for column in zip(*each, strict=True))
        rows.append([name, f"{rate:.0f}", f"{cpu:.2f}"])
    print(table(rows))


def write_without(
    originals: Originals, path: Path, count: int, modality: str, share: float
) -> Path:
    """Write posts, `share` of which have no `modality`; those that come without one count."""
    generator = random.Random(0)
    lacking = {number: generator.random() < share for number in range(count)}
    return write_posts(
        path,
        (
            {**originals.copy(number), **({modality: None} if lacking[number] else {})}
            for number in range(count)
        ),
    )


if __name__ == "__main__":
    main()
