"""Encoders that OpenVINO runs on a CPU, compiled for its processor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from drf_core.runtimes.interface import Runtime
from drf_core.runtimes.openvino_graphs import IMAGE, TEXT
from drf_core.runtimes.openvino_library import load_openvino
from drf_core.runtimes.text_batches import text_batches

# Per inference: few enough that little padding is computed and that activations stay in the
# processor's caches, enough to fill its arithmetic.
_TEXTS_AT_ONCE = 16
IMAGES_AT_ONCE = 16


class OpenVINOEncoders:
    """Both encoders of a checkpoint as compiled graphs.

    graphs: by modality (see `openvino_graphs`). pad: the tokenizer's padding id. threads: of
    each inference; the two never run at once.
    """

    def __init__(self, graphs: Mapping[str, Any], pad: int, runtime: Runtime, threads: int) -> None:
        self.runtime = runtime
        self._pad = pad
        lock = threading.Lock()
        self._text = compiled(graphs[TEXT], runtime.precision, threads, lock)
        self._image = compiled(graphs[IMAGE], runtime.precision, threads, lock)

    def encode_texts(self, token_ids: Sequence[list[int]]) -> Tensor:
        """Raw features of texts in their order; (texts, text size) float32."""
        batches = list(text_batches(token_ids, self._pad, _TEXTS_AT_ONCE))
        encoded = [self._text(ids, mask) for _, ids, mask in batches]
        features = np.empty((len(token_ids), encoded[0].shape[1]), np.float32)
        for (rows, _, _), found in zip(batches, encoded, strict=True):
            features[rows] = found
        return torch.from_numpy(features)

    def encode_images(self, pixels: Sequence[np.ndarray]) -> Tensor:
        """Raw features of images, each uint8 (3, h, w); (images, image size) float32."""
        starts = range(0, len(pixels), IMAGES_AT_ONCE)
        encoded = [
            self._image(np.stack(pixels[start : start + IMAGES_AT_ONCE])) for start in starts
        ]
        return torch.from_numpy(np.concatenate(encoded))


def compiled(
    graph: Any, precision: str, threads: int, lock: threading.Lock | None = None
) -> Callable[..., np.ndarray]:
    """A function from a graph's inputs to its one output, safe to call from any thread.

    lock: shared by functions of which one at a time is to run.
    """
    hints = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    request = load_openvino().Core().compile_model(graph, "CPU", hints).create_infer_request()
    held = lock or threading.Lock()

    def infer(*inputs: np.ndarray) -> np.ndarray:
        # One request fills all threads, so two of them would only wait for each other.
        with held:
            return request.infer(list(inputs), share_inputs=True)[0].copy()

    return infer
