"""A checkpoint ready to serve, on the runtime that was chosen."""

from __future__ import annotations

import dataclasses
from importlib import import_module

from drf_core.runtimes.choice import DeviceError, choose_runtime
from drf_core.runtimes.interface import Runtime, Served, UnservableError


def serve(folder: str, runtime: str, device: str, threads: int, cache: str | None) -> Served:
    """Load the checkpoint in folder for a runtime.

    runtime, device: see `choose_runtime`. threads: of this process. cache: folder that keeps
    converted models, None for none. Raises DeviceError for what is asked for and not
    possible on this worker, CheckpointError for weights that cannot be used.
    """
    chosen = choose_runtime(runtime, device)
    try:
        return _serve(folder, chosen, threads, cache)
    except UnservableError as error:
        if runtime != "auto":
            raise DeviceError(f"--runtime {runtime}: {error}; use --runtime torch") from error
        note = f"{error}; torch runs it, several times slower"
    served = _serve(folder, Runtime("torch", "f32", "cpu"), threads, cache)
    served.model.runtime = dataclasses.replace(served.model.runtime, note=note)
    return served


def _serve(folder: str, chosen: Runtime, threads: int, cache: str | None) -> Served:
    """By the runtime's own module, of which only the chosen one is imported."""
    module = import_module(f"drf_core.runtimes.{chosen.make}_model")
    served: Served = module.serve(folder, chosen, threads, cache)
    return served
