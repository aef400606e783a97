"""`drf annotate` in several ways, in turns, on copies of real posts.

    python -m tests.benchmarks.speed.bench_ways missing --model DIR [--count 1000]
    python -m tests.benchmarks.speed.bench_ways processes --model DIR [--rounds 3]
    python -m tests.benchmarks.speed.bench_ways commits --model DIR \\
        --before CLONE --before-model DIR
    python -m tests.benchmarks.speed.bench_ways flink --model DIR          (deploy/flink/cluster up)

missing: a share of the posts lacks its image, or its text, drawn at random, the same in every run;
an absent modality is not encoded, so posts per second should rise with the share. processes: one
on all cores against two that share them. commits: this code and that of a clone of another commit,
with a checkpoint that it can read; --shares 1: of texts alone. flink: in this process against a
cluster of one and of two TaskManagers of one slot each; all share this machine, so that two bring
something only where there are more cores than one of them uses.

Posts per second and processor time are without start-up, which is that of each way's own run on few
posts (two, so that two workers have one each).
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.benchmarks.many_posts import Originals, write_posts
from tests.benchmarks.processes import (
    Finished,
    annotate,
    cores,
    heading,
    in_turns,
    per_post,
    ratio,
    table,
)

FEW = 2
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Way:
    """A way to annotate: options of the command; modality: what a share of the posts lacks.

    code, model: a clone and a checkpoint in place of this code and of --model.
    """

    options: tuple[str, ...] = ()
    modality: str = "image"
    share: float = 0.0
    code: str | None = None
    model: str | None = None


def missing(arguments: argparse.Namespace) -> dict[str, Way]:
    """A share of the posts without an image, or without a text."""
    ways = {"as they come": Way()}
    for modality in ("image", "text"):
        for share in arguments.shares:
            if share:
                ways[f"{share:.0%} of {modality}s missing"] = Way((), modality, share)
    return ways


def processes(arguments: argparse.Namespace) -> dict[str, Way]:
    """One process on all cores, and two with their share of the cores each."""
    several = (
        *("--direct_num_workers=2", "--direct_running_mode=multi_processing"),
        *("--threads", str(max(1, cores() // 2))),
    )
    return {"one process": Way(), "2 processes": Way(several)}


def commits(arguments: argparse.Namespace) -> dict[str, Way]:
    """The code of another commit, and this one."""
    share = arguments.shares[0]
    before = Way(share=share, code=arguments.before, model=arguments.before_model)
    return {"before": before, "now": Way(share=share)}


def flink(arguments: argparse.Namespace) -> dict[str, Way]:
    """In this process, and on a cluster with one and two TaskManagers."""
    cluster = (
        *("--runner=PortableRunner", f"--job_endpoint={arguments.job_endpoint}"),
        *("--environment_type=EXTERNAL", "--environment_config=localhost:50000"),
    )
    return {
        "local": Way(),
        "Flink, 1 TaskManager": Way((*cluster, "--parallelism=1")),
        "Flink, 2 TaskManagers": Way((*cluster, "--parallelism=2")),
    }


COMPARED = {"missing": missing, "processes": processes, "commits": commits, "flink": flink}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("compared", choices=COMPARED)
    parser.add_argument("--model", default="default", help="a checkpoint folder")
    parser.add_argument("--posts", help="originals: a file or folder; default: the real nights")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="missing, commits")
    parser.add_argument("--before", help="commits: a clone")
    parser.add_argument("--before-model", help="commits: a checkpoint that its code reads")
    parser.add_argument("--job-endpoint", default="10.213.47.1:8099", help="flink")
    arguments = parser.parse_args(argv)
    ways = COMPARED[arguments.compared](arguments)
    # Workers open the input and the output by the same paths.
    with tempfile.TemporaryDirectory() as folder:
        originals = Originals(arguments.posts, Path(folder))
        few = originals.write(Path(folder) / "few", FEW, rows_per_file=1)
        measures = {}
        for name, way in ways.items():
            posts = _write(originals, Path(folder) / name, arguments.count, way)
            measures[name] = partial(_measure, arguments, few, posts, way)
        # Encoders are converted once.
        for way in {(way.code, way.model): way for way in ways.values()}.values():
            _annotate(arguments, few, way)
        measured = in_turns(arguments.rounds, measures)
    print(heading(arguments.count, originals.name, arguments.model))
    rows: list[list[object]] = [["", "posts/s", "CPU ms/post", "start-up s", "wall s", "peak MB"]]
    for name, rounds in measured.items():
        rate, cpu, startup, wall, peak = (
            statistics.median(column) for column in zip(*rounds, strict=True)
        )
        rows.append(
            [name, f"{rate:.1f}", f"{cpu:.2f}", f"{startup:.1f}", f"{wall:.1f}", f"{peak:.0f}"]
        )
    print(table(rows))
    rates = {name: [rate for rate, *_ in rounds] for name, rounds in measured.items()}
    first, *others = rates
    for name in others:
        print(f"{name} / {first}: {ratio(rates[name], rates[first])[1]}")


def _measure(arguments: argparse.Namespace, few: Path, many: Path, way: Way) -> tuple[float, ...]:
    """Posts per second and processor milliseconds per post, both without start-up; start-up and
    the whole run in seconds; peak RSS in MB of all processes.
    """
    first, finished = (_annotate(arguments, posts, way) for posts in (few, many))
    rates = per_post(first, finished, arguments.count - FEW)
    return *rates, first.seconds, finished.seconds, finished.peak


def _annotate(arguments: argparse.Namespace, posts: Path, way: Way) -> Finished:
    # Not the code of the working directory.
    code = {"PYTHONPATH": str(Path(way.code).resolve()), "PYTHONSAFEPATH": "1"} if way.code else {}
    return annotate(way.model or arguments.model, posts, *way.options, environment=code)


def _write(originals: Originals, folder: Path, count: int, way: Way) -> Path:
    """Write posts, of which a share has no modality; those that come without one count."""
    if not way.share:
        return originals.write(folder, count, -(-count // 4))
    generator = random.Random(0)
    lacking = [generator.random() < way.share for _ in range(count)]
    posts = (
        {**originals.copy(number), **({way.modality: None} if lacking[number] else {})}
        for number in range(count)
    )
    folder.mkdir()
    return write_posts(folder / "posts.parquet", posts)


if __name__ == "__main__":
    main()
