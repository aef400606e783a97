"""What a worker sets up before it loads a model."""

from __future__ import annotations

import subprocess
import sys

_ALLOCATE = """
import ctypes, threading
from pipelines.annotate.work.model import keep_one_heap
{first}
libc = ctypes.CDLL(None)
together = threading.Barrier(4)
def allocate():
    together.wait()
    libc.free(ctypes.c_void_p(libc.malloc(100)))
    together.wait()
libc.malloc.restype = ctypes.c_void_p
threads = [threading.Thread(target=allocate) for _ in range(4)]
for one in threads: one.start()
for one in threads: one.join()
libc.malloc_stats()
"""


def test_threads_allocate_from_one_heap() -> None:
    def heaps(first: str) -> int:
        ran = subprocess.run(
            [sys.executable, "-c", _ALLOCATE.format(first=first)],
            capture_output=True,
            text=True,
            check=True,
        )
        return ran.stderr.count("Arena ")

    assert heaps("keep_one_heap()") < heaps("")
