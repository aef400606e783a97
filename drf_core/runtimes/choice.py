"""Which runtime a worker takes, by what was asked for and what its processor has."""

from __future__ import annotations

import contextlib
import math
import os
from glob import glob
from pathlib import Path
from typing import TYPE_CHECKING

from drf_core.runtimes.interface import Runtime
from drf_core.runtimes.openvino_library import load_openvino
from schemas.errors import UsageError

if TYPE_CHECKING:
    import torch

# What --runtime takes: NAME or NAME-PRECISION, of a module NAME_model.py with a function `serve`.
# torch: bf16 on a GPU, f32 on a CPU.
RUNTIMES = ("auto", "torch", "openvino-f32", "openvino-bf16")

# Where the drivers of NVIDIA's and AMD's GPUs show them, under Linux and its Windows subsystem.
_GPUS = ("/dev/nvidia*", "/dev/nvmap", "/dev/kfd", "/dev/dxg")


class DeviceError(UsageError):
    """A device or runtime that was asked for and that this worker does not have."""


def choose_runtime(runtime: str, device: str) -> Runtime:
    """The runtime that encodes on this worker.

    runtime: one of `RUNTIMES`; device: auto, cpu or cuda. auto takes
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
    if device == "cuda" or (device == "auto" and _may_have_gpu()):
        device = choose_device(device).type
    chosen = "cpu" if device == "auto" else device
    if chosen == "cuda":
        return Runtime("torch", "bf16", chosen)
    if runtime == "torch":
        return Runtime("torch", "f32", chosen)
    return Runtime("openvino", "bf16" if _native_bf16() else "f32", chosen)


def _may_have_gpu() -> bool:
    """False where torch, which takes seconds to import, need not be asked."""
    return os.name != "posix" or any(map(glob, _GPUS))


def choose_device(device: str) -> torch.device:
    """The torch device for auto, cpu or cuda; raises DeviceError where cuda is absent."""
    import torch

    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "--device cuda: this worker has no usable GPU; use --device auto or cpu, "
            "or check its driver"
        )
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(device)


def available_cores() -> int:
    """Cores this process may use: those it may run on, and no more than its container's quota."""
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, math.ceil(min(cores, quota_cores())))


def quota_cores(root: str = "/sys/fs/cgroup", own: str = "/proc/self/cgroup") -> float:
    """Cores that the control groups of this process grant it, infinity where they set no limit.

    root: where they are mounted. own: names this process's own. Version 2 sets cpu.max in any of
    the groups above it, version 1 a quota and a period.
    """
    folders = [root, f"{root}/cpu"]
    with contextlib.suppress(OSError, ValueError), open(own, encoding="ascii") as file:
        for line in file:
            number, controllers, path = line.rstrip("\n").split(":", 2)
            if number == "0" or "cpu" in controllers.split(","):
                parts = [part for part in path.split("/") if part not in ("", "..")]
                base = root if number == "0" else f"{root}/cpu"
                folders += ["/".join([base, *parts[: i + 1]]) for i in range(len(parts))]
    return min((_quota_of(folder) for folder in folders), default=math.inf)


def _quota_of(folder: str) -> float:
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path(folder, "cpu.max").read_text(encoding="ascii").split()
        return math.inf if quota == "max" else int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        quota, period = (
            Path(folder, f"cpu.cfs_{name}_us").read_text(encoding="ascii")
            for name in ("quota", "period")
        )
        return math.inf if int(quota) <= 0 else int(quota) / int(period)
    return math.inf


def _native_bf16() -> bool:
    core = load_openvino().Core()
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
