"""OpenVINO without its telemetry: graphs by name, compiled for this processor."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

# The graphs that a model is made of: encoders, statistics of their inputs, and what is done with
# both (see `openvino_graphs`).
TEXT, IMAGE, HEAD = "text", "image", "head"
TEXT_STATISTICS, IMAGE_STATISTICS = "text_statistics", "image_statistics"

# Per inference: few enough that little padding is computed and that activations stay in the
# processor's caches, enough to fill its arithmetic.
TEXTS_AT_ONCE = 16
IMAGES_AT_ONCE = 16


def load_openvino() -> ModuleType:
    """Import openvino so that it reports to nobody.

    Left to itself it tells a web service of every import and conversion, without asking and
    from a child process of its own; where its telemetry package is absent, it uses a stub.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def compiled(
    graph: Any, precision: str, threads: int, lock: threading.Lock | None = None
) -> Callable[..., list[np.ndarray]]:
    """A function from a graph's inputs to its outputs, safe to call from any thread.

    lock: shared by functions of which one at a time is to run.
    """
    hints = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = load_openvino().Core().compile_model(graph, "CPU", hints).create_infer_request()
    held = lock or threading.Lock()

    def infer(*inputs: np.ndarray) -> list[np.ndarray]:
        # One request fills all threads, so two of them would only wait for each other.
        with held:
            found = request.infer(list(inputs), share_inputs=True)
            return [found[n].copy() for n in range(len(found))]

    return infer
