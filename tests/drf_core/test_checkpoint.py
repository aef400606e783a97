"""A checkpoint is identified and refused without loading torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from drf_core.checkpoint import CheckpointError, read_checkpoint


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
