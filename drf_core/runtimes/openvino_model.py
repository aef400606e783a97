"""A model that OpenVINO runs on a CPU, compiled for its processor.

Only what must convert imports torch and transformers, which take longer than all else that a
later start does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from drf_core.checkpoint import read_checkpoint
from drf_core.decoding import PREPARATION_VERSION
from drf_core.decoding.child_messages import Buffer, Link
from drf_core.decoding.children import ChildLostError, Children, Limits, TaskRaisedError
from drf_core.decoding.preparation import from_fields, light_preparer
from drf_core.runtimes.graph_cache import cached_graphs, graph_key, read_graphs, write_graphs
from drf_core.runtimes.interface import (
    Runtime,
    Said,
    Served,
    Traits,
    UnservableError,
    traits_of,
)
from drf_core.runtimes.openvino_library import (
    HEAD,
    IMAGE,
    IMAGE_STATISTICS,
    IMAGES_AT_ONCE,
    POSTS_AT_ONCE,
    TEXT,
    TEXT_STATISTICS,
    TEXTS_AT_ONCE,
    TOKENS_AT_ONCE,
    compiled,
    joined,
)
from drf_core.runtimes.text_batches import text_batches
from schemas.annotations import MODALITIES

_FACTS = "facts"
_CONVERT = "drf_core.runtimes.openvino_model:convert_in_child"
# Nothing of a stranger's is read there: only what hangs is ended.
_CONVERT_LIMITS = Limits(seconds=1800.0, memory=1 << 46)
# What graphs are made by: those of another version of it are not used.
_MAKERS = ("model/*.py", "runtimes/openvino_*.py", "decoding/resizing.py")


def serve(folder: str, runtime: Runtime, threads: int, cache: str | None) -> Served:
    """The checkpoint in folder as graphs, from the cache where it has them.

    Raises UnservableError where they cannot be made.
    """

    def convert() -> Mapping[str, Any]:
        apart = None if "torch" in sys.modules else _converted_apart(folder, threads)
        return apart or _converted(folder, threads)

    found = convert() if cache is None else cached_graphs(Path(cache), _key(folder), convert)
    facts = json.loads(found[_FACTS])
    graphs = {name: graph for name, graph in found.items() if name != _FACTS}
    preparation = from_fields({**facts["preparation"], "folder": folder})
    # JSON knows no tuples.
    traits = Traits(**{**facts["traits"], "labels": tuple(facts["traits"]["labels"])})
    processor: Any = light_preparer(preparation)
    if processor is None:
        from drf_core.model.processing_drf import DRFProcessor

        processor = DRFProcessor.from_pretrained(folder, local_files_only=True)
    model = OpenVINOModel(graphs, facts["pad"], traits, runtime, threads)
    return Served(model, processor, preparation)


def _converted(folder: str, threads: int) -> dict[str, Any]:
    from drf_core.runtimes.openvino_graphs import model_graphs
    from drf_core.runtimes.torch_model import load

    model, processor = load(folder, threads)
    preparation = processor.preparation(folder, model.config.max_text_tokens)
    facts = {
        "pad": processor.tokenizer.pad_token_id or 0,
        "preparation": dataclasses.asdict(preparation),
        "traits": dataclasses.asdict(traits_of(model.config)),
    }
    return {**model_graphs(model, processor), _FACTS: json.dumps(facts)}


def _converted_apart(folder: str, threads: int) -> Mapping[str, Any] | None:
    """What a child process converts, which takes torch and what it holds along when it ends.

    None where the child fails, which says less than the same in this process. Raises
    UnservableError.
    """
    children = Children()
    try:
        with tempfile.TemporaryDirectory() as work, children.borrow() as child:
            message = {"folder": os.path.abspath(folder), "threads": threads, "work": work}
            child.ask(_CONVERT, message, limits=_CONVERT_LIMITS)
            child.answer()
            return read_graphs(Path(work))
    except TaskRaisedError as error:
        if error.type == UnservableError.__name__:
            raise UnservableError(error.text) from error
        return None
    except (ChildLostError, OSError, MemoryError):
        return None
    finally:
        children.stop()


def convert_in_child(message: dict[str, Any], buffers: Sequence[Buffer], link: Link) -> None:
    """Convert the checkpoint in message's folder, by its threads, into the folder work."""
    write_graphs(Path(message["work"]), _converted(message["folder"], message["threads"]))
    link.send({})


def _key(folder: str) -> str:
    packages = (f"{name} {version(name)}" for name in ("openvino", "torch", "transformers"))
    package = Path(__file__).parent.parent
    sources = sorted(path for pattern in _MAKERS for path in package.glob(pattern))
    made_by = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    revision = read_checkpoint(folder).revision
    return graph_key(str(PREPARATION_VERSION), made_by, revision, *packages)


class OpenVINOModel:
    """A model as compiled graphs, by name.

    pad: the tokenizer's padding id. threads: of each inference, of which one runs at a time.
    """

    def __init__(
        self, graphs: Mapping[str, Any], pad: int, traits: Traits, runtime: Runtime, threads: int
    ) -> None:
        self.runtime = runtime
        self.traits = traits
        # Of so many, texts are as long as others, and every thread has batches of both modalities.
        self.batch_size = max(128, 32 * threads)
        self._pad = pad
        lock = threading.Lock()
        # Qualities are ranks among scores that were computed in full precision.
        precisions = {TEXT: runtime.precision}
        # Reduced features are sums of many that nearly cancel: in bf16 they cost 1.3 % of labels.
        precisions[IMAGE] = "f32" if traits.images_reduced else runtime.precision
        self._run = {
            name: compiled(graph, precisions.get(name, "f32"), threads, lock)
            for name, graph in graphs.items()
        }

    def encode_texts(self, token_ids: Sequence[list[int]]) -> np.ndarray:
        """Raw features of texts in their order; (texts, raw text size) float32."""
        # The longest first: who ends last, ends with little.
        batches = [*text_batches(token_ids, self._pad, TEXTS_AT_ONCE, TOKENS_AT_ONCE)][::-1]
        features = np.empty((len(token_ids), self.traits.raw_sizes["text"]), np.float32)
        places = np.concatenate([rows for rows, *_ in batches])
        features[places] = self._both(TEXT, TEXT_STATISTICS, [batch for _, *batch in batches])
        return features

    def encode_images(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Raw features of images, each uint8 (3, h, w); (images, raw image size) float32."""
        starts = range(0, len(pixels), IMAGES_AT_ONCE)
        batches = [[np.stack(pixels[start : start + IMAGES_AT_ONCE])] for start in starts]
        return self._both(IMAGE, IMAGE_STATISTICS, batches)

    def conclude(
        self, text: np.ndarray | None, image: np.ndarray | None, present: np.ndarray
    ) -> Said:
        """Quality, recovery and fusion; see `ReadyModel`."""
        features = []
        for column, (m, given) in enumerate(zip(MODALITIES, (text, image), strict=True)):
            of_all = np.zeros((len(present), self.traits.raw_sizes[m]), np.float32)
            if given is not None:
                of_all[present[:, column]] = given
            features.append(of_all)
        starts = range(0, len(present), POSTS_AT_ONCE)
        batches = [[one[n : n + POSTS_AT_ONCE] for one in (*features, present)] for n in starts]
        return Said(*joined(self._run[HEAD](batches)))

    def _both(
        self, encoder: str, statistics: str, batches: Sequence[Sequence[np.ndarray]]
    ) -> np.ndarray:
        found = [joined(self._run[name](batches)) for name in (encoder, statistics)]
        return np.concatenate([features for (features,) in found], 1)
