"""Which runtime a worker takes, by what was asked for and what its processor has."""

from __future__ import annotations

import os

import torch

from drf_core.runtimes.interface import Runtime
from drf_core.runtimes.openvino_library import load_openvino
from schemas.errors import UsageError


class DeviceError(UsageError):
    """A device or runtime that was asked for and that this worker does not have."""


def choose_runtime(runtime: str, device: str) -> Runtime:
    """The runtime that encodes on this worker.

    runtime: one of `drf_core.runtimes.names.RUNTIMES`; device: auto, cpu or cuda. auto takes
    torch with bf16 on a GPU, and on a CPU OpenVINO, with bf16 where the processor has it (where
    it is emulated it is far slower than f32). Raises DeviceError for what is not there.
    """
    make, _, precision = runtime.partition("-")
    if make == "openvino":
        if device == "cuda":
            raise DeviceError(
                f"--runtime {runtime}: OpenVINO runs on the CPU here; use --device cpu or auto, "
                "or --runtime torch for the GPU"
            )
        if precision == "bf16" and not _native_bf16():
            raise DeviceError(
                "--runtime openvino-bf16: this worker's processor has no bf16 arithmetic and "
                "would emulate it, slower than f32; use --runtime openvino-f32 or auto"
            )
        return Runtime("openvino", precision, "cpu")
    chosen = choose_device(device).type
    if chosen == "cuda":
        return Runtime("torch", "bf16", chosen)
    if runtime == "torch":
        return Runtime("torch", "f32", chosen)
    return Runtime("openvino", "bf16" if _native_bf16() else "f32", chosen)


def choose_device(device: str) -> torch.device:
    """The torch device for auto, cpu or cuda; raises DeviceError where cuda is absent."""
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "--device cuda: this worker has no usable GPU; use --device auto or cpu, "
            "or check its driver"
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def available_cores() -> int:
    """Cores this process may run on (a container's share, not the machine's)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _native_bf16() -> bool:
    core = load_openvino().Core()
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
