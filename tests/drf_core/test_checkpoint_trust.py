"""A checkpoint from a stranger runs no code, reads nothing outside its folder, and is its files."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from drf_core.checkpoint import CheckpointError, read_checkpoint
from drf_core.model.processing_drf import DRFProcessor
from drf_core.training.building import EncoderError, build_model


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint"))


def change(path: Path, **settings: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def test_a_tokenizer_of_its_own_code_is_never_run(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    marker = tmp_path / "ran"
    (checkpoint / "own.py").write_text(f"open({str(marker)!r}, 'w')\nclass Own: pass\n")
    change(
        checkpoint / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["own.Own", "own.Own"]},
        tokenizer_class="Own",
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    with pytest.raises((ValueError, EncoderError)):
        DRFProcessor.from_pretrained(str(checkpoint))
    with pytest.raises(EncoderError):
        build_model(str(checkpoint), "small", ["a", "b"], ["a"])
    assert not marker.exists()


@pytest.mark.parametrize(
    "name", ["../other.safetensors", "/etc/passwd", "pytorch_model.bin", "absent.safetensors", 3]
)
def test_weights_lie_in_the_folder(checkpoint: Path, name: object) -> None:
    index = {"weight_map": {"a": name}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"no \*\.safetensors file of this folder"):
        read_checkpoint(str(checkpoint))


def test_absurd_sizes_are_refused_before_anything_is_built(checkpoint: Path) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    for sizes in ({"num_hidden_layers": 10**7}, {"hidden_size": 10**6}, {"vocab_size": 10**12}):
        changed = {**config, "text_config": {**config["text_config"], **sizes}}
        (checkpoint / "config.json").write_text(json.dumps(changed))
        with pytest.raises(CheckpointError, match="cannot be"):
            read_checkpoint(str(checkpoint))


@pytest.mark.parametrize("kind", ["fifo", "device"])
def test_what_never_ends_is_no_file_of_a_checkpoint(checkpoint: Path, kind: str) -> None:
    path = checkpoint / "tokenizer.json"
    path.unlink()
    if kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(CheckpointError, match="no regular file"):
        read_checkpoint(str(checkpoint))


def test_every_file_that_is_loaded_is_in_the_revision(checkpoint: Path) -> None:
    before = read_checkpoint(str(checkpoint)).revision
    (checkpoint / "README.md").write_text("a card")
    assert read_checkpoint(str(checkpoint)).revision == before
    (checkpoint / "chat_template.jinja").write_text("x")
    assert read_checkpoint(str(checkpoint)).revision != before
