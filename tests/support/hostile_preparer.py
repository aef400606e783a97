"""A processor that does to its process what broken libraries do, as a text or an image asks."""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np
from PIL import Image


class _Panic(BaseException):
    """As tokenizers raise it: no Exception."""


_Panic.__name__ = "PanicException"


class HostilePreparer:
    def read_text(self, text: str, max_tokens: int, windows: int) -> tuple[list[int], float]:
        if text == "panic":
            raise _Panic
        if text == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if text == "exit":
            sys.exit(1)
        if text == "for ever":
            end = time.process_time() + 60
            while time.process_time() < end:
                pass
        if text == "asleep":
            time.sleep(60)
        if text == "memory":
            bytearray(8 << 30)
        if text == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if text == "more than beside others":
            return [len(bytearray(400 << 20)) & 0xFF], 1.0
        if text == "environment":
            return [int("SECRET" in name) for name in os.environ], 1.0
        if text == "noise":
            os.write(2, b"\x1b]0;a library warns\x07")
        return [len(text)], 1.0

    def pixels(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image.resize((2, 2))).transpose(2, 0, 1)


def make(folder: str) -> HostilePreparer:
    return HostilePreparer()
