"""Converted graphs kept in a folder, so that only the first start of a checkpoint converts."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from drf_core.runtimes.openvino_library import load_openvino

# What no start has used for so long is removed when something is added.
_KEPT_SECONDS = 60 * 86_400
_SUMS = "sums.json"

_log = logging.getLogger(__name__)


def graph_key(*facts: str) -> str:
    """The name of a cache entry: a hash of everything that its graphs depend on."""
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:32]


def read_graphs(folder: Path) -> dict[str, Any] | None:
    """A folder's graphs and texts by name; None where it is absent, incomplete or damaged."""
    try:
        sums = json.loads((folder / _SUMS).read_text(encoding="utf-8"))
        for name, expected in sums.items():
            with open(folder / name, "rb") as file:
                if hashlib.sha256(file.read()).hexdigest() != expected:
                    return None
        core = load_openvino().Core()
        graphs = {
            Path(name).stem: core.read_model(folder / name) for name in sums if ".xml" in name
        }
        texts = {
            Path(name).stem: (folder / name).read_text("utf-8") for name in sums if ".txt" in name
        }
        return {**graphs, **texts}
    except (OSError, ValueError, AttributeError, RuntimeError):
        return None


def write_graphs(folder: Path, graphs: Mapping[str, Any]) -> None:
    """Write graphs (and texts) into an existing folder, in full precision, with their hashes."""
    for name, graph in graphs.items():
        if isinstance(graph, str):
            (folder / f"{name}.txt").write_text(graph, encoding="utf-8")
        else:
            load_openvino().save_model(graph, folder / f"{name}.xml", compress_to_fp16=False)
    files = sorted(path for path in folder.iterdir() if path.suffix in (".xml", ".bin", ".txt"))
    sums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    (folder / _SUMS).write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")


def cached_graphs(
    cache: Path, key: str, make: Callable[[], Mapping[str, Any]]
) -> Mapping[str, Any]:
    """The graphs and texts of an entry; made and added where it is absent or damaged.

    Several processes may do so at once: an entry appears whole or not at all. Where the cache
    cannot be written, the graphs are made all the same.
    """
    entry = cache / key
    if (found := read_graphs(entry)) is not None:
        with contextlib.suppress(OSError):
            os.utime(entry)
        return found
    made = make()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        _remove_unused(cache)
        work = Path(tempfile.mkdtemp(prefix="unfinished-", dir=cache))
        try:
            write_graphs(work, made)
            if read_graphs(entry) is None:
                # Damaged, or left half deleted: nobody else can use it.
                shutil.rmtree(entry, ignore_errors=True)
                os.replace(work, entry)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except (OSError, RuntimeError) as error:
        # OpenVINO raises RuntimeError where a disk is full. Or another process has put the same
        # entry there meanwhile.
        if read_graphs(entry) is None:
            _log.warning(
                "%s cannot be written (%s): every start converts the encoders anew",
                cache,
                getattr(error, "strerror", None) or type(error).__name__,
            )
    # From the files, so that the weights are not held in memory twice.
    return read_graphs(entry) or made


def _remove_unused(cache: Path) -> None:
    oldest = time.time() - _KEPT_SECONDS
    for entry in cache.iterdir():
        with contextlib.suppress(OSError):
            if entry.stat().st_mtime < oldest:
                shutil.rmtree(entry, ignore_errors=True)
