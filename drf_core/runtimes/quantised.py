"""Encoders in int8: calibrated on posts once, kept in the checkpoint's folder."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from drf_core.checkpoint import INT8_FOLDER, read_checkpoint
from drf_core.model.modeling_drf import DRFModel
from drf_core.model.processing_drf import DRFProcessor
from drf_core.runtimes.choice import DeviceError
from drf_core.runtimes.graph_cache import read_graphs, write_graphs
from drf_core.runtimes.openvino_graphs import IMAGE, TEXT, image_graph, text_graph
from drf_core.runtimes.openvino_library import load_openvino

_FACTS = "int8.json"


def quantise(
    model: DRFModel,
    processor: DRFProcessor,
    token_ids: Sequence[list[int]],
    pixels: Sequence[np.ndarray],
) -> dict[str, Any]:
    """Both encoders as int8 graphs, with ranges calibrated on these texts and images.

    token_ids, pixels: as `Annotator.prepare` makes them, at least one each; a few hundred are
    enough. Needs the package nncf (ImportError). Raises ConversionError.
    """
    # Before nncf, which reports to a web service as OpenVINO does.
    load_openvino()
    import nncf

    # Its progress in lines of its own; the command says what it does.
    logging.getLogger("nncf").setLevel(logging.ERROR)
    texts = nncf.Dataset(list(token_ids), _text_inputs)
    images = nncf.Dataset(list(pixels), lambda image: image[None])
    cpu = nncf.TargetDevice.CPU
    return {
        TEXT: nncf.quantize(
            text_graph(model),
            texts,
            target_device=cpu,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(token_ids),
        ),
        IMAGE: nncf.quantize(
            image_graph(model, processor), images, target_device=cpu, subset_size=len(pixels)
        ),
    }


def _text_inputs(ids: list[int]) -> dict[str, np.ndarray]:
    row = np.array([ids], np.int64)
    return {"input_ids": row, "attention_mask": np.ones_like(row)}


def save_quantised(folder: str, graphs: Mapping[str, Any], texts: int, images: int) -> None:
    """Put int8 graphs into a checkpoint's folder, in place of earlier ones.

    texts, images: how many they were calibrated on. Raises OSError.
    """
    facts = {
        "revision": read_checkpoint(folder).revision,
        "texts": texts,
        "images": images,
        "versions": {name: version(name) for name in ("openvino", "nncf")},
    }
    work = Path(tempfile.mkdtemp(prefix=f"{INT8_FOLDER}-unfinished-", dir=folder))
    try:
        # As readable as the rest of the checkpoint: mkdtemp makes folders for one user only.
        work.chmod(0o755)
        write_graphs(work, graphs)
        (work / _FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        kept = Path(folder) / INT8_FOLDER
        shutil.rmtree(kept, ignore_errors=True)
        os.replace(work, kept)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def read_quantised(folder: str) -> Mapping[str, Any]:
    """The int8 graphs of a checkpoint.

    Raises DeviceError where it has none, they are damaged, or they were made of other weights.
    """
    kept = Path(folder) / INT8_FOLDER
    way_out = "make them with `drf quantize --model DIR --posts PATH`"
    if not kept.is_dir():
        raise DeviceError(
            f"--runtime openvino-int8: {folder} holds no int8 encoders; {way_out}, "
            "or use another --runtime"
        )
    graphs = read_graphs(kept)
    try:
        made_of = json.loads((kept / _FACTS).read_text(encoding="utf-8"))["revision"]
    except (OSError, ValueError, KeyError, TypeError):
        graphs = made_of = None
    if graphs is None or set(graphs) != {TEXT, IMAGE}:
        raise DeviceError(f"--runtime openvino-int8: {kept} is damaged; {way_out} again")
    if made_of != read_checkpoint(folder).revision:
        raise DeviceError(
            f"--runtime openvino-int8: the int8 encoders in {kept} were made of another "
            f"revision of the checkpoint; {way_out} again"
        )
    return graphs
