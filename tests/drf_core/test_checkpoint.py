"""A checkpoint is found, identified and refused without loading torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from drf_core.checkpoint import CheckpointError, read_checkpoint, resolve_model


def test_labels_threshold_and_revision_are_read(tiny_checkpoint: Path) -> None:
    info = read_checkpoint(str(tiny_checkpoint))
    assert info.labels == ("negative", "neutral", "positive")
    assert info.quality_threshold == 0.05
    assert len(info.revision) == 16


def test_the_revision_follows_the_content_not_the_card(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_checkpoint, copy)
    before = read_checkpoint(str(tiny_checkpoint)).revision
    (copy / "README.md").write_text("another card")
    assert read_checkpoint(str(copy)).revision == before
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert read_checkpoint(str(copy)).revision != before


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


def test_pickle_weights_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((tiny_checkpoint / "config.json").read_bytes())
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(CheckpointError, match=r"pickle weights .pytorch_model.bin.*safetensors"):
        read_checkpoint(str(tmp_path))


def test_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"is a 'bert' model.*drf train"):
        read_checkpoint(str(tmp_path))


def test_a_damaged_configuration_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        read_checkpoint(str(tmp_path))


def test_reading_a_checkpoint_imports_no_torch(tiny_checkpoint: Path) -> None:
    program = (
        "import sys; from drf_core.checkpoint import read_checkpoint; "
        f"read_checkpoint({str(tiny_checkpoint)!r}); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
