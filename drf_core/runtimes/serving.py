"""A checkpoint ready to serve: its model, and the runtime that encodes for it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from drf_core.checkpoint import read_checkpoint
from drf_core.decoding import PREPARATION_VERSION
from drf_core.decoding.preparation import (
    LightPreparer,
    Preparation,
    from_fields,
    light_preparer,
)
from drf_core.model.head import DRFHead
from drf_core.model.weights import load_head, load_model
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

if TYPE_CHECKING:
    from drf_core.model.modeling_drf import DRFModel
    from drf_core.model.processing_drf import DRFProcessor

# Raised whenever the conversion changes, so that older cache entries are not used.
_GRAPHS_VERSION = "2"
_PREPARATION = "preparation"


@dataclass(frozen=True)
class Served:
    """What annotates: model (with encoders for torch only), encoders, and what prepares posts.

    processor: tokenizers and Pillow alone where that does and the encoders were in the cache:
    transformers' own takes seconds to import.
    """

    model: DRFModel | DRFHead
    encoders: Encoders
    processor: DRFProcessor | LightPreparer
    preparation: Preparation


def serve(folder: str, runtime: str, device: str, threads: int, cache: str | None) -> Served:
    """Load the checkpoint in folder for a runtime.

    runtime, device: see `choose_runtime`. threads: of this process. cache: folder that keeps
    converted encoders, None for none. Raises DeviceError for what is asked for and not
    possible on this worker, CheckpointError for weights that cannot be used.
    """
    chosen = choose_runtime(runtime, device)
    if chosen.make == "torch":
        model, processor, preparation = _load(folder)
        model = model.to(chosen.device)
        encoders = TorchEncoders(model, processor, for_serving=True)
        return Served(model, encoders, processor, preparation)
    loaded: list[tuple[DRFModel, DRFProcessor, Preparation]] = []

    def convert() -> Mapping[str, Any]:
        loaded.append(_load(folder))
        model, processor, preparation = loaded[0]
        facts = {"pad": processor.tokenizer.pad_token_id or 0, **dataclasses.asdict(preparation)}
        return {
            TEXT: text_graph(model),
            IMAGE: image_graph(model, processor),
            _PREPARATION: json.dumps(facts),
        }

    try:
        converted = _converted(folder, cache, convert)
    except ConversionError as error:
        if runtime != "auto":
            raise DeviceError(f"--runtime {runtime}: {error}; use --runtime torch") from error
        model, processor, preparation = loaded[0]
        encoders = TorchEncoders(model, processor)
        note = f"{error}; torch runs it, several times slower"
        encoders.runtime = dataclasses.replace(encoders.runtime, note=note)
        return Served(model, encoders, processor, preparation)
    facts = json.loads(converted[_PREPARATION])
    pad = facts.pop("pad")
    preparation = from_fields({**facts, "folder": folder})
    if loaded:
        of_posts: DRFProcessor | LightPreparer = loaded.pop()[1]
    else:
        of_posts = light_preparer(preparation) or _processor(folder)
    encoders_compiled = OpenVINOEncoders(converted, pad, chosen, threads)
    return Served(load_head(folder), encoders_compiled, of_posts, preparation)


def _load(folder: str) -> tuple[DRFModel, DRFProcessor, Preparation]:
    processor = _processor(folder)
    model = load_model(folder).eval()
    return model, processor, processor.preparation(folder, model.config.max_text_tokens)


def _processor(folder: str) -> DRFProcessor:
    from drf_core.model.processing_drf import DRFProcessor

    return DRFProcessor.from_pretrained(folder, local_files_only=True)


def _converted(
    folder: str, cache: str | None, convert: Callable[[], Mapping[str, Any]]
) -> Mapping[str, Any]:
    if cache is None:
        return convert()
    packages = (f"{name} {version(name)}" for name in ("openvino", "torch", "transformers"))
    revision = read_checkpoint(folder).revision
    key = graph_key(_GRAPHS_VERSION, str(PREPARATION_VERSION), revision, *packages)
    return cached_graphs(Path(cache), key, convert)
