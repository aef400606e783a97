"""OpenVINO without its telemetry: graphs by name, compiled for this processor."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Sequence
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
TOKENS_AT_ONCE = 512
IMAGES_AT_ONCE = 8
POSTS_AT_ONCE = 64

# Records that a thread keeps of each kind of what it made ready for shapes. Left to itself it keeps
# 5,000, which batches of texts fill for hours and hardly use again.
_RECORDS = 64


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
) -> Callable[[Sequence[Sequence[np.ndarray]]], list[list[np.ndarray]]]:
    """A function from batches of a graph's inputs to its outputs of each; safe for many threads.

    As many batches at once as there are threads, one on each: threads that share a batch wait for
    each other at every layer, which took a quarter of the processor time on two cores. lock:
    shared by functions of which one at a time is to run.
    """
    hints = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": threads,
    }
    core = load_openvino().Core()
    try:
        # OpenVINO does not promise to keep this name.
        model = core.compile_model(graph, "CPU", {**hints, "CPU_RUNTIME_CACHE_CAPACITY": _RECORDS})
    except RuntimeError:
        model = core.compile_model(graph, "CPU", hints)
    requests: list[Any] = []
    held = lock or threading.Lock()

    def infer(batches: Sequence[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
        # More functions at once would have more threads than there are cores.
        with held:
            requests.extend(model.create_infer_request() for _ in batches[len(requests) :])
            begun = []
            try:
                for request, batch in zip(requests, batches, strict=False):
                    request.start_async(list(batch), share_inputs=True)
                    begun.append(request)
                return [_outputs(request) for request in begun]
            finally:
                # Also where one failed: what is still at work can be given nothing.
                for request in begun:
                    with contextlib.suppress(RuntimeError):
                        request.wait()

    return infer


def joined(found: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """The outputs of batches, each over all of them, in their order."""
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def _outputs(request: Any) -> list[np.ndarray]:
    """Of a request, when it is done."""
    request.wait()
    return [tensor.data.copy() for tensor in request.output_tensors]
