"""What `drf train`, `drf evaluate` and an annotator do on a GPU, as far as a CPU can tell."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from drf_core.annotator import Annotator, PreparedPost
from pipelines.cli import main
from tests.data.labelled_posts import write_labelled
from tests.support.pretend_gpu import OnPretendGpu, pretend_gpu
from tests.support.training_runs import one_epoch


@pytest.fixture
def posts(tmp_path: Path) -> Path:
    return write_labelled(tmp_path / "posts.parquet", 40, 1, without_image=4)


def test_what_is_on_it_and_what_is_not_do_not_mix_nor_is_it_read_as_an_array() -> None:
    with pretend_gpu():
        there, here = torch.ones(2, 2, device="cuda"), torch.ones(2, 2)
        assert isinstance(there @ there, OnPretendGpu)
        assert (there + 1).cpu().numpy().tolist() == [[2, 2], [2, 2]]
        with pytest.raises(RuntimeError, match="tensors on the GPU and tensors on the CPU"):
            there + here
        with pytest.raises(RuntimeError, match="indices on the GPU"):
            here[there.bool()]
        with pytest.raises((RuntimeError, TypeError)):
            there.numpy()


def test_a_training_runs_there_and_one_that_learns_from_it(posts: Path, tmp_path: Path) -> None:
    texts = write_labelled(tmp_path / "texts.parquet", 16, 7, without_image=16)
    others = write_labelled(tmp_path / "others.parquet", 20, 2)
    common = [
        *("train", "--posts", str(posts), "--validation", str(others), "--device", "cuda"),
        *("--text-encoder", "small", "--image-encoder", "small", "--threads", "1"),
    ]
    frozen = one_epoch(tmp_path, training={"train_text_encoder": False})
    expert = {"batch_size": 8, "tasks": {"sentiment": {"passes": 1}}}
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    with pretend_gpu():
        assert main([*common, *frozen, "--output", str(teacher)]) == 0
        learns = one_epoch(tmp_path, text_expert=expert)
        more = ("--teacher", str(teacher), "--posts", str(texts), "--output", str(student))
        assert main([*common, *learns, *more]) == 0
    assert (student / "model.safetensors").exists()


def test_an_evaluation_runs_there(
    posts: Path, tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipelines.evaluate.command.RESAMPLES", 20)
    arguments = [
        *("evaluate", "--posts", str(posts), "--model", str(tiny_checkpoint)),
        *("--output", str(tmp_path / "figures"), "--device", "cuda", "--threads", "1"),
    ]
    with pretend_gpu():
        assert main(arguments) == 0
    assert json.loads((tmp_path / "figures" / "results.json").read_text())


def test_an_annotator_says_there_what_it_says_on_a_cpu(tiny_checkpoint: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), np.uint8)
    posts = [PreparedPost([2, *range(5, 7 + n), 3], pictures[n], None, None) for n in range(5)]
    posts.append(PreparedPost(None, pictures[0], "missing", None))
    posts.append(PreparedPost([2, 9, 3], None, None, "missing"))
    plain = Annotator.from_pretrained(str(tiny_checkpoint), "cpu", 1).predict(posts)
    with pretend_gpu():
        there = Annotator.from_pretrained(str(tiny_checkpoint), "cuda", 1)
        assert str(there.runtime) == "torch bf16 on cuda" and there.batch_size == 256
        told = there.predict(posts)
    for one, other in zip(plain, told, strict=True):
        assert np.allclose(one.probabilities, other.probabilities, atol=0.05)
