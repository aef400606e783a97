"""Posts that threads hand to decoding children while another thread computes in Python.

    python -m tests.benchmarks.speed.bench_decoders [--threads 2]

Tiny posts, so that what counts is the talk with the children, each word of which gives the
interpreter's lock away and waits for it; the interval in which who holds it is asked to hand it
over is Python's own, and that of workers. The file runs in a clone of another commit, too.
"""

from __future__ import annotations

import argparse
import io
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from drf_core.annotator import Annotator
from drf_core.checkpoint import DEFAULT_FOLDER
from tests.benchmarks.processes import machine, table

_TOGETHER = 8


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--count", type=int, default=480)
    arguments = parser.parse_args(argv)
    annotator = Annotator.from_pretrained(str(DEFAULT_FOLDER), threads=1, decode_seconds=10.0)
    rows: list[list[object]] = [["beside", "interval, ms", "posts/s"]]
    before = sys.getswitchinterval()
    try:
        for busy in (False, True):
            for interval in (0.005, 0.001):
                sys.setswitchinterval(interval)
                rate = prepared(annotator, arguments.threads, arguments.count, busy)
                name = "a busy thread" if busy else "nothing"
                rows.append([name, f"{1000 * interval:g}", f"{rate:,.0f}"])
    finally:
        sys.setswitchinterval(before)
    print(f"{machine()}; {arguments.threads} threads, {arguments.count} posts")
    print(table(rows))


def prepared(annotator: Annotator, threads: int, count: int, busy: bool) -> float:
    """Posts per second."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (24, 24, 3), np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    ended = threading.Event()

    def some(_: int) -> None:
        for _ in range(_TOGETHER):
            annotator.prepare("so nice today", buffer.getvalue())

    def compute() -> None:
        while not ended.is_set():
            sum(range(100))

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(some, range(threads)))
        other = threading.Thread(target=compute)
        if busy:
            other.start()
        began = time.perf_counter()
        list(pool.map(some, range(count // _TOGETHER)))
        seconds = time.perf_counter() - began
        ended.set()
        if busy:
            other.join()
    return count // _TOGETHER * _TOGETHER / seconds


if __name__ == "__main__":
    main()
