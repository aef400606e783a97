"""Posts per second and peak memory of `drf annotate`, end to end, beside two rivals.

    python -m tests.benchmarks.speed.bench_annotate --model DIR [--count 5000] [--plain-count 500]

The rivals: the script everyone writes first (plain_script.py), and a loop without Beam over the
same annotator, its runtime and threads (bare_loop.py). All are processes of their own, in turns,
since machines drift, on copies of real posts that no cache can answer (many_posts.py). Speed is
without start-up, which stands apart: for `drf annotate` it is that of a run on one post, which
the same round makes, with the runtime's compiled model already there. Machines differ: the
ratios, each round with itself, are what can be compared. Where others use the machine, too,
processor time per post is what stays comparable.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.benchmarks.many_posts import Originals
from tests.benchmarks.processes import (
    aim,
    annotate,
    heading,
    in_turns,
    native_bf16,
    per_post,
    ratio,
    run,
    table,
)

DRF, BARE, PLAIN = "drf annotate", "bare loop", "plain script"
# Times the plain script: to be reached, and aimed at.
NATIVE_BF16, WITHOUT_BF16 = (10, 14), (5, 10)


@dataclass(frozen=True)
class Measure:
    """One process: posts per second and processor milliseconds per post, both without start-up;
    start-up in seconds, peak RSS in MB.
    """

    rate: float
    cpu: float
    startup: float
    peak: float


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a checkpoint folder")
    parser.add_argument("--posts", help="originals: a file or folder; default: the real nights")
    parser.add_argument("--count", type=int, default=5000)
    parser.add_argument("--plain-count", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runtime", default="auto", help="of drf annotate and the bare loop")
    arguments = parser.parse_args(argv)
    runtime = ("--runtime", arguments.runtime)
    with tempfile.TemporaryDirectory() as folder:
        originals = Originals(arguments.posts, Path(folder))
        sizes = {DRF: arguments.count, PLAIN: arguments.plain_count, "one": 1}
        posts = {name: originals.write(Path(folder) / name, count) for name, count in sizes.items()}
        size = sum(path.stat().st_size for path in posts[DRF].iterdir()) / arguments.count
        kilobytes = f"{size / 1024:.0f} KB a post"
        print(heading(arguments.count, originals.name, arguments.model, kilobytes))
        annotate(arguments.model, posts["one"], *runtime)
        model, many, count = arguments.model, posts[DRF], arguments.count
        measures = in_turns(
            arguments.rounds,
            {
                DRF: partial(measure_drf, model, posts, count, runtime),
                BARE: partial(measure_rival, "bare_loop", model, many, count, runtime),
                PLAIN: partial(
                    measure_rival, "plain_script", model, posts[PLAIN], arguments.plain_count
                ),
            },
        )
    report(measures)


def measure_drf(model: str, posts: dict[str, Path], count: int, options: Sequence[str]) -> Measure:
    """Run `drf annotate` on one post, then on all."""
    one, many = (annotate(model, posts[name], *options) for name in ("one", DRF))
    return Measure(*per_post(one, many, count - 1), one.seconds, many.peak)


def measure_rival(
    script: str, model: str, posts: Path, count: int, options: Sequence[str] = ()
) -> Measure:
    """Run a script that prints its start-up and its loop in seconds."""
    given = ("--model", model, "--posts", str(posts), *options)
    finished = run("-m", f"tests.benchmarks.speed.{script}", *given)
    times = json.loads(finished.out)
    if "runtime" in times:
        print(f"{script}: {times['runtime']}")
    rate, cpu = count / times["loop"], 1000 * times["cpu"] / count
    return Measure(rate, cpu, times["startup"], finished.peak)


def report(measures: dict[str, list[Measure]]) -> None:
    """Print medians, and the ratios of speeds beside what they are to be."""
    rows: list[list[object]] = [["", "posts/s", "CPU ms/post", "start-up s", "peak MB"]]
    for name, rounds in measures.items():
        rate, cpu, startup, peak = (
            statistics.median(getattr(measure, field) for measure in rounds)
            for field in ("rate", "cpu", "startup", "peak")
        )
        rows.append([name, f"{rate:.1f}", f"{cpu:.2f}", f"{startup:.1f}", f"{peak:.0f}"])
    print(table(rows))
    rates = {name: [measure.rate for measure in rounds] for name, rounds in measures.items()}
    cpus = {name: [measure.cpu for measure in rounds] for name, rounds in measures.items()}
    least, wanted = NATIVE_BF16 if native_bf16() else WITHOUT_BF16
    for rival, targets in ((BARE, (0.9,)), (PLAIN, (least, wanted))):
        middle, shown = ratio(rates[DRF], rates[rival])
        print(f"{DRF} / {rival}: {shown}")
        for target in targets:
            print("  " + aim("median", middle, target))
        _, shown = ratio(cpus[rival], cpus[DRF])
        print(f"  {rival} / {DRF}, processor time per post: {shown}")


if __name__ == "__main__":
    main()
