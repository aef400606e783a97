"""`drf annotate` beside what one would use instead: same checkpoint, same posts, in turns.

    pip install -r tests/benchmarks/peers/requirements.txt        # in an environment of its own
    python -m tests.benchmarks.peers.bench_peers --model DIR [--count 1000] [--rounds 3]

The plain script, `Dataset.map` and Ray Data's `map_batches` over the same function, the bare loop
(plain_script.py, bare_loop.py). Speed is that of the posts beside a run on one, which is the
start-up; processor time and memory are those of the process and all below it, sampled. Then each
once with a broken image among the posts, and once killed half-way and started again: which rows
are missing, which are there twice, and what share of the processor time was spent again.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow.dataset as ds

from tests.benchmarks.many_posts import Originals, read_posts, write_posts
from tests.benchmarks.processes import drf_annotate, heading, in_turns, ratio, resident, table

_MODULES = "tests.benchmarks.peers"


@dataclass(frozen=True)
class Measure:
    """Posts per second and processor ms per post, without start-up; seconds; peak in MB."""

    rate: float
    cpu: float
    startup: float
    peak: float


Command = Callable[[Path, Path], Sequence[str]]


def commands(model: str) -> dict[str, Command]:
    """Arguments of Python by name, from posts and output; the bare loop writes nothing."""

    def script(engine: str, posts: Path, output: Path) -> Sequence[str]:
        return ("-m", f"{_MODULES}.plain_script", "--model", model, "--posts", str(posts),
                "--engine", engine, "--output", str(output))  # fmt: skip

    def bare(posts: Path, output: Path) -> Sequence[str]:
        return ("-m", f"{_MODULES}.bare_loop", "--model", model, "--posts", str(posts))

    return {
        "drf annotate": partial(drf_annotate, model),
        "bare loop": bare,
        "plain script": partial(script, "plain"),
        "datasets.map": partial(script, "datasets"),
        "Ray Data": partial(script, "ray"),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a checkpoint folder")
    parser.add_argument("--posts", help="originals: a file or folder; default: the real nights")
    parser.add_argument("--count", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="names of those to measure; default: all")
    arguments = parser.parse_args(argv)
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        originals = Originals(arguments.posts, root)
        one, many = (originals.write(root / str(n), n) for n in (1, arguments.count))
        print(heading(arguments.count, originals.name, arguments.model))
        asked = {
            name: command
            for name, command in commands(arguments.model).items()
            if not arguments.only or name in arguments.only
        }
        # Encoders are converted once.
        sampled(drf_annotate(arguments.model, one, root / "first"))
        measures = in_turns(
            arguments.rounds,
            {name: partial(measure, c, one, many, arguments.count) for name, c in asked.items()},
        )
        show_speed(measures)
        broken = root / "broken"
        broken.mkdir()
        posts = [{**p, "post_id": f"p{n}"} for n, p in enumerate(read_posts(many))]
        posts[len(posts) // 2] |= {"text": "a fine day", "image": b"<html>"}
        write_posts(broken / "posts.parquet", iter(posts))
        rows: list[list[object]] = [["", "lost of a broken image", "missing", "twice", "again"]]
        for name, command in asked.items():
            if name != "bare loop":
                rows.append([name, *_losses(command, broken, root)])
        print(table(rows))


def measure(command: Command, one: Path, many: Path, count: int) -> Measure:
    """A run on one post, then one on all."""
    with tempfile.TemporaryDirectory() as output:
        first = sampled(command(one, Path(output, "one")))
        whole = sampled(command(many, Path(output, "many")))
    seconds, cpu = (whole[n] - first[n] for n in (0, 1))
    return Measure((count - 1) / seconds, 1000 * cpu / (count - 1), first[0], whole[2])


def sampled(arguments: Sequence[str], most: float | None = None) -> tuple[float, float, float]:
    """Run Python; seconds, processor seconds and peak MB of all its processes.

    most: processor seconds after which it is killed.
    """
    began = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=errors
        )
        used: dict[int, float] = {}
        peak = 0
        while process.returncode is None:
            peak = max(peak, resident(process.pid))
            _count(process.pid, used)
            if most is not None and sum(used.values()) > most:
                process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        if process.returncode and most is None:
            errors.seek(0)
            sys.stderr.write(errors.read().decode(errors="replace"))
            sys.exit(f"{' '.join(arguments)}: exit status {process.returncode}")
    return time.perf_counter() - began, sum(used.values()), peak / (1 << 20)


def _count(process: int, used: dict[int, float]) -> None:
    """Note processor seconds of a process and all below it."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        used[process] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        for task in Path(f"/proc/{process}/task").iterdir():
            for child in (task / "children").read_text().split():
                _count(int(child), used)


def _losses(command: Command, posts: Path, root: Path) -> list[object]:
    """Posts lost of a broken image; and missing, twice and done again after a kill."""
    output = root / "output"
    _, cpu, _ = sampled(command(posts, output))
    lost = sum(_rows(output, posts)[:1])
    shutil.rmtree(output)
    shutil.rmtree(f"{output}.cache", ignore_errors=True)
    _, before, _ = sampled(command(posts, output), most=0.6 * cpu)
    # What it left running ends by itself.
    time.sleep(3)
    _, after, _ = sampled(command(posts, output))
    missing, twice = _rows(output, posts)
    shutil.rmtree(output)
    shutil.rmtree(f"{output}.cache", ignore_errors=True)
    return [lost, missing, twice, f"{(before + after) / cpu - 1:.0%}"]


def _rows(output: Path, posts: Path) -> tuple[int, int]:
    """How many of the posts are in no row of what was written, and how many in several."""
    wanted = {post["post_id"] for post in read_posts(posts)}
    found: Counter[str] = Counter()
    ours = [output / name for name in ("annotations", "dead_letters")]
    for part in filter(Path.is_dir, ours if ours[0].is_dir() else [output]):
        written = ds.dataset(part, format="parquet").to_table(["post_id"])
        found.update(written["post_id"].to_pylist())
    return len(wanted - found.keys()), sum(n > 1 for n in found.values())


def show_speed(measures: dict[str, list[Measure]]) -> None:
    """Print a table of medians, and the first measured against each other."""
    rows: list[list[object]] = [["", "posts/s", "CPU ms/post", "start-up s", "peak MB"]]
    for name, rounds in measures.items():
        rate, cpu, startup, peak = (
            statistics.median(getattr(one, field) for one in rounds)
            for field in ("rate", "cpu", "startup", "peak")
        )
        rows.append([name, f"{rate:.1f}", f"{cpu:.2f}", f"{startup:.1f}", f"{peak:.0f}"])
    print(table(rows))
    first, *others = measures
    for other in others:
        for field, one, two in (("rate", first, other), ("cpu", other, first)):
            values = [[getattr(m, field) for m in measures[name]] for name in (one, two)]
            print(f"{one} / {two}, {field}: {ratio(*values)[1]}")


if __name__ == "__main__":
    main()
