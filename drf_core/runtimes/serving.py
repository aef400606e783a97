"""A checkpoint ready to serve: its model on a runtime, and what prepares posts for it.

Only what must convert, or is to run in torch, imports torch and transformers, which take longer
than all else that a later start does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
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
from drf_core.runtimes.choice import DeviceError, choose_device, choose_runtime
from drf_core.runtimes.graph_cache import cached_graphs, graph_key
from drf_core.runtimes.interface import ReadyModel, Traits, traits_of
from drf_core.runtimes.openvino_model import OpenVINOModel

if TYPE_CHECKING:
    from drf_core.model.modeling_drf import DRFModel
    from drf_core.model.processing_drf import DRFProcessor

_FACTS = "facts"
# What graphs are made by: those of another version of it are not used.
_MAKERS = ("model/*.py", "runtimes/openvino_*.py")


@dataclass(frozen=True)
class Served:
    """What annotates: a model, and what prepares posts for it.

    processor: tokenizers and Pillow alone where that does and the graphs were in the cache.
    """

    model: ReadyModel
    processor: DRFProcessor | LightPreparer
    preparation: Preparation


class _UnconvertedError(Exception):
    """No graphs; note: why."""

    def __init__(self, note: str, loaded: tuple[DRFModel, DRFProcessor]) -> None:
        super().__init__(note)
        self.loaded = loaded


def serve(folder: str, runtime: str, device: str, threads: int, cache: str | None) -> Served:
    """Load the checkpoint in folder for a runtime.

    runtime, device: see `choose_runtime`. threads: of this process. cache: folder that keeps
    converted models, None for none. Raises DeviceError for what is asked for and not
    possible on this worker, CheckpointError for weights that cannot be used.
    """
    chosen = choose_runtime(runtime, device)
    if chosen.make == "torch":
        return _in_torch(folder, *_load(folder, threads), chosen.device)
    try:
        found = _converted(folder, cache, threads)
    except _UnconvertedError as error:
        if runtime != "auto":
            raise DeviceError(f"--runtime {runtime}: {error}; use --runtime torch") from error
        note = f"{error}; torch runs it, several times slower"
        return _in_torch(folder, *error.loaded, "cpu", note)
    facts = json.loads(found[_FACTS])
    graphs = {name: graph for name, graph in found.items() if name != _FACTS}
    preparation = from_fields({**facts["preparation"], "folder": folder})
    # JSON knows no tuples.
    traits = Traits(**{**facts["traits"], "labels": tuple(facts["traits"]["labels"])})
    model = OpenVINOModel(graphs, facts["pad"], traits, chosen, threads)
    return Served(model, light_preparer(preparation) or _processor(folder), preparation)


def _in_torch(
    folder: str, model: DRFModel, processor: DRFProcessor, device: str, note: str | None = None
) -> Served:
    from drf_core.runtimes.torch_model import TorchModel

    ready = TorchModel(model.to(choose_device(device)), processor, for_serving=True)
    ready.runtime = dataclasses.replace(ready.runtime, note=note)
    preparation = processor.preparation(folder, model.config.max_text_tokens)
    return Served(ready, processor, preparation)


def _load(folder: str, threads: int) -> tuple[DRFModel, DRFProcessor]:
    import torch
    from transformers.utils.logging import disable_progress_bar

    from drf_core.model.weights import load_model

    torch.set_num_threads(threads)
    # One line per weight file and process is noise in a worker's log.
    disable_progress_bar()
    processor = _processor(folder)
    return load_model(folder).eval(), processor


def _processor(folder: str) -> DRFProcessor:
    from drf_core.model.processing_drf import DRFProcessor

    return DRFProcessor.from_pretrained(folder, local_files_only=True)


def _converted(folder: str, cache: str | None, threads: int) -> Mapping[str, Any]:
    """Graphs, and facts about the model. Raises _UnconvertedError, CheckpointError."""

    def convert() -> Mapping[str, Any]:
        from drf_core.runtimes.openvino_graphs import ConversionError, model_graphs

        model, processor = _load(folder, threads)
        preparation = processor.preparation(folder, model.config.max_text_tokens)
        facts = {
            "pad": processor.tokenizer.pad_token_id or 0,
            "preparation": dataclasses.asdict(preparation),
            "traits": dataclasses.asdict(traits_of(model.config)),
        }
        try:
            return {**model_graphs(model, processor), _FACTS: json.dumps(facts)}
        except ConversionError as error:
            raise _UnconvertedError(str(error), (model, processor)) from error

    return convert() if cache is None else cached_graphs(Path(cache), _key(folder), convert)


def _key(folder: str) -> str:
    packages = (f"{name} {version(name)}" for name in ("openvino", "torch", "transformers"))
    package = Path(__file__).parent.parent
    sources = sorted(path for pattern in _MAKERS for path in package.glob(pattern))
    made_by = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    revision = read_checkpoint(folder).revision
    return graph_key(str(PREPARATION_VERSION), made_by, revision, *packages)
