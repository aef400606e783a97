"""A checkpoint is found by name: a folder, a store's URL, a hub id."""

from __future__ import annotations

from pathlib import Path

import pytest

from drf_core.checkpoint import CheckpointError, read_checkpoint
from pipelines.storage.checkpoints import resolve_model


def test_a_checkpoint_is_fetched_from_a_store(tiny_checkpoint: Path) -> None:
    import fsspec

    fs = fsspec.filesystem("memory")
    for file in tiny_checkpoint.iterdir():
        fs.pipe_file(f"/models/tiny/{file.name}", file.read_bytes())
    folder = resolve_model("memory://models/tiny")
    assert read_checkpoint(folder).revision == read_checkpoint(str(tiny_checkpoint)).revision


@pytest.mark.parametrize("name", ["./nowhere", "no such folder", "a/b/c"])
def test_a_folder_that_is_not_there_is_refused(name: str) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        resolve_model(name)


def test_a_hub_model_that_cannot_be_had_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="neither a folder nor a model that the hub gave"):
        resolve_model("nobody/no-such-model")
