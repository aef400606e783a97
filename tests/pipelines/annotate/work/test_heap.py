"""The heap of a worker's process stays small, by the figures of glibc and of the system."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only glibc has these settings"
)

_START = """
import ctypes, threading
from pathlib import Path
from pipelines.annotate.work.heap import keep_large_buffers_out, share_one_heap, trim_heap
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
"""
_THREADS = """
{first}
together = threading.Barrier(4)
def allocate():
    together.wait()
    libc.free(libc.malloc(100))
    together.wait()
threads = [threading.Thread(target=allocate) for _ in range(4)]
for one in threads: one.start()
for one in threads: one.join()
libc.malloc_stats()
"""
_LARGE = """
{first}
# glibc keeps buffers of a size on the heap from when one of it was given back.
for _ in range(2):
    libc.free(libc.malloc(2 << 20))
buffer = libc.malloc(2 << 20)
libc.free(buffer)
print(sum(buffer in range(*(int(end, 16) for end in line.split()[0].split("-")))
          for line in Path("/proc/self/maps").read_text().splitlines()))
"""
_GAPS = """
resident = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20
blocks = [libc.malloc(64 << 10) for _ in range(1000)]
for block in blocks: libc.memset(block, 1, 64 << 10)
held = resident()
for block in blocks[::2]: libc.free(block)
kept = resident()
trim_heap(seconds=0.0)
trimmed = resident()
for block in blocks[1:-1:2]: libc.free(block)
before = resident()
trim_heap(seconds=1000.0)
print(held, kept, trimmed, before - resident())
"""


def _run(code: str, first: str = "") -> subprocess.CompletedProcess[str]:
    code = _START + code.replace("{first}", first)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_threads_allocate_from_one_heap() -> None:
    def heaps(first: str) -> int:
        return _run(_THREADS, first).stderr.count("Arena ")

    assert heaps("share_one_heap()") < heaps("")


def test_a_large_buffer_goes_back_to_the_system_with_its_last_user() -> None:
    def still_there(first: str) -> int:
        return int(_run(_LARGE, first).stdout)

    assert still_there("") == 1
    assert still_there("keep_large_buffers_out()") == 0


def test_gaps_of_the_heap_are_given_back_now_and_then() -> None:
    held, kept, trimmed, soon_again = map(int, _run(_GAPS).stdout.split())

    assert held - kept < 10
    assert kept - trimmed > 25
    assert soon_again == 0
