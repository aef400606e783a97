"""A checkpoint ready to serve: its model, and the runtime that encodes for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from drf_core.checkpoint import read_checkpoint
from drf_core.model.modeling_drf import DRFModel
from drf_core.model.processing_drf import DRFProcessor
from drf_core.model.weights import drop_encoders, load_model, load_without_encoders
from drf_core.runtimes.choice import DeviceError, choose_runtime
from drf_core.runtimes.graph_cache import cached_graphs, graph_key
from drf_core.runtimes.interface import Encoders
from drf_core.runtimes.openvino_encoders import OpenVINOEncoders
from drf_core.runtimes.openvino_graphs import (
    IMAGE,
    TEXT,
    ConversionError,
    image_graph,
    text_graph,
)
from drf_core.runtimes.torch_encoders import TorchEncoders

# Raised whenever the conversion changes, so that older cache entries are not used.
_GRAPHS_VERSION = "1"


def serve(
    folder: str, processor: DRFProcessor, runtime: str, device: str, threads: int, cache: str | None
) -> tuple[DRFModel, Encoders]:
    """Load the checkpoint in folder for a runtime; the model has encoders for torch only.

    runtime, device: see `choose_runtime`. threads: of this process. cache: folder that keeps
    converted encoders, None for none. Raises DeviceError for what is asked for and not
    possible on this worker, CheckpointError for weights that cannot be used.
    """
    chosen = choose_runtime(runtime, device)
    if chosen.make == "torch":
        model = load_model(folder).to(chosen.device).eval()
        return model, TorchEncoders(model, processor, for_serving=True)
    loaded: list[DRFModel] = []

    def convert() -> Mapping[str, Any]:
        loaded.append(load_model(folder).eval())
        return {TEXT: text_graph(loaded[0]), IMAGE: image_graph(loaded[0], processor)}

    try:
        graphs = _graphs(folder, cache, convert)
    except ConversionError as error:
        if runtime != "auto":
            raise DeviceError(f"--runtime {runtime}: {error}; use --runtime torch") from error
        encoders = TorchEncoders(loaded[0], processor)
        note = f"{error}; torch runs it, several times slower"
        encoders.runtime = dataclasses.replace(encoders.runtime, note=note)
        return loaded[0], encoders
    if loaded:
        [model] = loaded
        drop_encoders(model)
    else:
        model = load_without_encoders(folder)
    pad = processor.tokenizer.pad_token_id or 0
    return model, OpenVINOEncoders(graphs, pad, chosen, threads)


def _graphs(
    folder: str, cache: str | None, convert: Callable[[], Mapping[str, Any]]
) -> Mapping[str, Any]:
    if cache is None:
        return convert()
    packages = (f"{name} {version(name)}" for name in ("openvino", "torch", "transformers"))
    key = graph_key(_GRAPHS_VERSION, read_checkpoint(folder).revision, *packages)
    return cached_graphs(Path(cache), key, convert)
