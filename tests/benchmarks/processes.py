"""Measuring processes: time, peak memory of a process and its children, medians and ratios.

BENCH_LOCK names a file that is locked while a process is measured, where a machine is shared
by several benchmarks.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

_MB = 1 << 20
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")

Result = TypeVar("Result")


@dataclass(frozen=True)
class Finished:
    """A process that ended well.

    seconds: from start to end. cpu: processor seconds, of all threads and children. peak: most
    resident memory in MB, of it and its children together. memory: (seconds since start, MB) as
    sampled. out: standard output.
    """

    seconds: float
    cpu: float
    peak: float
    memory: tuple[tuple[float, float], ...]
    out: str


def run(
    *arguments: str, environment: Mapping[str, str] | None = None, every: float = 0.1
) -> Finished:
    """Run Python with `arguments`, sampling memory `every` so many seconds; it must succeed."""
    with _lock(), tempfile.TemporaryFile("w+") as out:
        environment = {**os.environ, **(environment or {})}
        began, before = time.perf_counter(), _processor_seconds()
        status, memory = spawn(arguments, environment, out, every)
        seconds, cpu = time.perf_counter() - began, _processor_seconds() - before
        out.seek(0)
        if status:
            sys.exit(f"{' '.join(arguments)}: exit status {status}")
        return Finished(seconds, cpu, max(held for _, held in memory), tuple(memory), out.read())


def spawn(
    arguments: Sequence[str], environment: Mapping[str, str], out: IO[str], every: float
) -> tuple[int, list[tuple[float, float]]]:
    """Run Python to its end; exit status, and (seconds, MB) as sampled."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=out, env=environment)
    memory: list[tuple[float, float]] = []
    try:
        while process.returncode is None:
            memory.append((time.perf_counter() - began, resident(process.pid) / _MB))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(every)
        return process.returncode, memory
    finally:
        if process.poll() is None:
            process.kill()


def drf_annotate(model: str, posts: object, output: object, *options: str) -> tuple[str, ...]:
    """The arguments of a `drf annotate` that no dead letter stops."""
    return (
        *("-m", "pipelines.cli", "annotate", "--json", "--input", str(posts), "--model", model),
        *("--output", str(output), "--max-dead-letter-share", "1", *options),
    )


def annotate(
    model: str, posts: object, *options: str, environment: Mapping[str, str] | None = None
) -> Finished:
    """One `drf annotate` into an output of its own."""
    with tempfile.TemporaryDirectory() as output:
        return run(*drf_annotate(model, posts, output, *options), environment=environment)


def resident(process: int) -> int:
    """Bytes of resident memory of a process and all its children, as far as they still run."""
    total = 0
    with contextlib.suppress(OSError):
        total = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        total *= os.sysconf("SC_PAGE_SIZE")
        for task in Path(f"/proc/{process}/task").iterdir():
            for child in (task / "children").read_text().split():
                total += resident(int(child))
    return total


def in_turns(rounds: int, measures: Mapping[str, Callable[[], Result]]) -> dict[str, list[Result]]:
    """Measure everything `rounds` times, every second time in the opposite order."""
    results: dict[str, list[Result]] = {name: [] for name in measures}
    for number in range(rounds):
        for name in list(measures)[:: -1 if number % 2 else 1]:
            results[name].append(measures[name]())
            # A run that is stopped has said what it found so far.
            print(f"{number + 1}, {name}: {results[name][-1]!r:.200}", file=sys.stderr, flush=True)
    return results


def ratio(one: Sequence[float], other: Sequence[float]) -> tuple[float, str]:
    """The median of the rounds' ratios, each round with itself; and shown with their range."""
    ratios = sorted(a / b for a, b in zip(one, other, strict=True))
    middle = statistics.median(ratios)
    return middle, f"{middle:.2f} (rounds {ratios[0]:.2f} to {ratios[-1]:.2f})"


def aim(name: str, found: float, target: float, *, most: bool = False) -> str:
    """A line that says whether `found` is at least (at most) the target."""
    reached = found <= target if most else found >= target
    bound = "at most" if most else "at least"
    return f"{name}: {found:,.2f}, to be {bound} {target:g}: {'yes' if reached else 'NO'}"


def table(rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table; the first row is its head."""
    lines = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def machine() -> str:
    """Cores and what they can do, since that decides which figures can be compared."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("flags"):
                flags = set(line.split())
                features = [name for name in _FEATURES if name in flags]
                break
        else:
            features = []
        native = "native bf16" if native_bf16() else "no native bf16"
        return f"{cores()} cores, {', '.join(features)}; {native}"
    return f"{cores()} cores"


def heading(count: int, posts: str, model: str, *more: object) -> str:
    """What a page of figures is about: the machine, how many posts of what, which checkpoint."""
    return "; ".join([machine(), f"{count:,} posts ({posts})", Path(model).name, *map(str, more)])


def native_bf16() -> bool:
    """Whether the processor computes bf16 products itself."""
    with contextlib.suppress(OSError):
        flags = Path("/proc/cpuinfo").read_text().split()
        return "avx512_bf16" in flags or "amx_bf16" in flags
    return False


def per_post(one: Finished, many: Finished, posts: int) -> tuple[float, float]:
    """Posts per second and processor milliseconds per post, without the start-up of `one`.

    one, many: runs of the same on few posts and on `posts` more.
    """
    return posts / (many.seconds - one.seconds), 1000 * (many.cpu - one.cpu) / posts


def cores() -> int:
    """Cores this process may run on."""
    return len(os.sched_getaffinity(0))


def _processor_seconds() -> float:
    """Of this process and all children that have ended."""
    return sum(os.times()[:4])


@contextlib.contextmanager
def _lock() -> Iterator[None]:
    name = os.environ.get("BENCH_LOCK")
    if not name:
        yield
        return
    with open(name, "a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
