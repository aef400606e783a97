"""A forward on a GPU, captured as a CUDA graph once per shape, with copies beside it.

Launching kernels one by one costs more than small batches compute. Written against the
documentation of torch.cuda.graphs; what needs a GPU has not been run yet.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

_log = logging.getLogger(__name__)

# Of the largest feature: replayed and eager bf16 may take different kernels.
_TOLERANCE = 0.05


def padded_rows(rows: int) -> int:
    """Rows of the captured shape that serves `rows`: few shapes, little waste."""
    return 1 << (rows - 1).bit_length() if rows <= 16 else -(-rows // 16) * 16


def pad_batch(arrays: tuple[np.ndarray, ...], longest: int | None) -> tuple[np.ndarray, ...]:
    """Arrays of n rows, padded to a captured shape by repeating row 0.

    longest: for texts (n, tokens), the most tokens there may be; they are padded with zeros to
    16, 32, … tokens, which the attention mask leaves out. None for images.
    """
    rows = padded_rows(len(arrays[0]))
    made = []
    for array in arrays:
        if longest is not None:
            width = min(-(-array.shape[1] // 16) * 16, longest)
            array = np.pad(array, [(0, 0), (0, max(0, width - array.shape[1]))])
        repeated = np.repeat(array[:1], rows - len(array), axis=0)
        made.append(np.concatenate([array, repeated]) if len(repeated) else array)
    return tuple(made)


def cast_weights(encoder: nn.Module) -> None:
    """Matrix and convolution weights to bf16, once instead of in every autocast forward."""
    for module in encoder.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            module.to(torch.bfloat16)


class CapturedForward:
    """Calls `forward` under bf16 autocast, by replaying graphs; safe from any thread.

    forward: tensors on the device -> features (n, size). longest: see `pad_batch`. before:
    what is done to each tensor first, outside of the graph (which may copy nothing from the
    host). Where a graph cannot be captured or gives other features, forwards run one kernel at
    a time.
    """

    def __init__(
        self,
        forward: Callable[..., Tensor],
        device: torch.device,
        longest: int | None,
        before: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self._forward = forward
        self._before = before
        self._device = device
        self._longest = longest
        self._copies = torch.cuda.Stream(device)
        self._lock = threading.Lock()
        # By shapes: the graph, the tensors it reads and the one it writes.
        self._graphs: dict[
            tuple[torch.Size, ...], tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]
        ] = {}
        self._capturing = True

    def __call__(self, *arrays: np.ndarray) -> Tensor:
        """Features (n, size) float32 of the arrays' n rows; does not wait for the GPU."""
        rows = len(arrays[0])
        inputs = [self._copy(array) for array in pad_batch(arrays, self._longest)]
        if self._before is not None:
            inputs = [self._before(tensor) for tensor in inputs]
        with self._lock:
            return self._run(inputs)[:rows].float()

    def _copy(self, array: np.ndarray) -> Tensor:
        # On a stream of its own: images travel while texts are encoded.
        with torch.cuda.stream(self._copies):
            pinned = torch.from_numpy(array).pin_memory()
            tensor = pinned.to(self._device, non_blocking=True)
        current = torch.cuda.current_stream(self._device)
        current.wait_stream(self._copies)
        tensor.record_stream(current)
        return tensor

    def _run(self, inputs: list[Tensor]) -> Tensor:
        key = tuple(tensor.shape for tensor in inputs)
        if key not in self._graphs:
            found = self._eager(inputs)
            if self._capturing:
                self._capture(key, inputs, found)
            return found
        graph, static, output = self._graphs[key]
        for place, tensor in zip(static, inputs, strict=True):
            place.copy_(tensor)
        graph.replay()
        return output.clone()

    def _eager(self, inputs: list[Tensor]) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16, cache_enabled=False):
            return self._forward(*inputs)

    def _capture(self, key: tuple[torch.Size, ...], inputs: list[Tensor], expected: Tensor) -> None:
        static = [tensor.clone() for tensor in inputs]
        graph = torch.cuda.CUDAGraph()
        try:
            # Libraries initialise themselves in the first forwards, which a graph cannot hold.
            warming = torch.cuda.Stream(self._device)
            warming.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(warming):
                for _ in range(2):
                    self._eager(static)
            torch.cuda.current_stream(self._device).wait_stream(warming)
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                output = self._eager(static)
            graph.replay()
            off = (output - expected).abs().max() / expected.abs().max().clamp_min(1e-9)
            if not float(off) <= _TOLERANCE:
                raise RuntimeError(f"replayed features differ by {float(off):.1%}")
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._capturing = False
            _log.warning(
                "an encoder's forward is not captured as a CUDA graph (%s); it runs slower",
                (str(error).splitlines() or [""])[0],
            )
            return
        self._graphs[key] = graph, static, output
