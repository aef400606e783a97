"""`drf train`: labelled posts in, a checkpoint that annotates out."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.torch import load_file

from pipelines.cli import main

WORDS = {
    "negative": ["awful", "sad", "angry", "broken", "lost"],
    "positive": ["lovely", "happy", "great", "sunny", "won"],
}
FILLER = ["the", "day", "in", "town", "with", "my", "team", "and", "a", "dog"]
CONFIG = {
    "model": {"queue_length": 64, "projection_size": 32, "reference_length": 64},
    "small": {
        "text": {"vocabulary": 400, "hidden": 32, "layers": 1, "heads": 2},
        "image": {"widths": [8, 16, 16, 32], "side": 32},
    },
    "training": {"epochs": 3, "batch_size": 16, "encoder_learning_rate": 3e-3, "image_views": 2},
    "distillation": {"text_epochs": 1, "image_epochs": 1},
}


def write_labelled(path: Path, count: int, seed: int, without_image: int = 0) -> Path:
    """Posts whose label shows in words and in colour."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        label = ("negative", "positive")[number % 2]
        words = [*rng.choice(WORDS[label], 3), *rng.choice(FILLER, 5)]
        rng.shuffle(words)
        colour = (200, 60, 60) if label == "negative" else (60, 200, 60)
        pixels = np.clip(rng.normal(colour, 40, (40, 40, 3)), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG")
        image = None if number < without_image else buffer.getvalue()
        rows.append(
            {"post_id": f"{seed}-{number}", "text": " ".join(words), "image": image, "label": label}
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    write_labelled(folder / "train.parquet", 160, 0, without_image=16)
    write_labelled(folder / "dev.parquet", 60, 1)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def arguments(corpus: Path, output: Path, *more: str) -> list[str]:
    return [
        "train", "--posts", str(corpus / "train.parquet"),
        "--validation", str(corpus / "dev.parquet"), "--text-encoder", "small",
        "--image-encoder", "small", "--output", str(output), "--device", "cpu", "--threads", "1",
        "--config", str(corpus / "config.json"), *more,
    ]  # fmt: skip


@dataclass(frozen=True)
class Result:
    returncode: int
    stderr: str


def drf_train(corpus: Path, output: Path, *more: str) -> Result:
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main(arguments(corpus, output, *more))
    return Result(code, said.getvalue())


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "checkpoint"
    result = drf_train(corpus, output)
    assert result.returncode == 0, result.stderr
    return output


def test_a_checkpoint_learns_and_annotates(trained: Path) -> None:
    from drf_core.annotator import Annotator

    annotator = Annotator.from_pretrained(str(trained), device="cpu", threads=1)
    assert annotator.labels == ("negative", "positive")
    [good, bad] = annotator.predict(
        [
            annotator.prepare("lovely happy sunny day", None),
            annotator.prepare("awful sad broken day", None),
        ]
    )
    assert (good.label, bad.label) == ("positive", "negative")


def test_the_checkpoint_is_self_contained_and_safe(trained: Path) -> None:
    names = {path.name for path in trained.iterdir() if path.is_file()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "preprocessor_config.json",
        "README.md",
    } <= names
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)
    queue = load_file(trained / "model.safetensors")["undisrupted_queue.text"]
    assert queue.abs().sum() > 0


def test_the_card_holds_figures_and_the_command(trained: Path) -> None:
    card = (trained / "README.md").read_text()
    assert "| clean |" in card and "| image discard |" in card
    assert "drf train --posts" in card


def test_a_training_that_was_stopped_goes_on_from_its_last_epoch(
    corpus: Path, trained: Path, tmp_path: Path
) -> None:
    program = (
        "import sys, pipelines.cli as cli, drf_core.training as t\n"
        "save = t.Trainer.save\n"
        "def die(self, path):\n"
        "    save(self, path)\n"
        "    if self.epoch == 1: import os; os.kill(os.getpid(), 9)\n"
        "t.Trainer.save = die\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", program, *arguments(corpus, tmp_path)],
        check=False,
        capture_output=True,
    )
    assert killed.returncode == -9
    again = drf_train(corpus, tmp_path)
    assert again.returncode == 0, again.stderr
    assert "resuming after epoch 1" in again.stderr
    assert "epoch 1:" not in again.stderr and "epoch 3:" in again.stderr
    whole, resumed = (load_file(f / "model.safetensors") for f in (trained, tmp_path))
    for name in whole:
        assert abs(whole[name].float() - resumed[name].float()).max() < 1e-3, name


def test_a_small_model_learns_from_a_teacher_and_unlabelled_posts(
    corpus: Path, trained: Path, tmp_path: Path
) -> None:
    write_labelled(tmp_path / "more.parquet", 40, 7, without_image=40)
    table = pq.read_table(tmp_path / "more.parquet").drop_columns(["label", "image"])
    pq.write_table(table, tmp_path / "more.parquet")
    result = drf_train(
        corpus,
        tmp_path / "student",
        "--teacher",
        str(trained),
        "--unlabelled",
        str(tmp_path / "more.parquet"),
    )
    assert result.returncode == 0, result.stderr
    assert "200 posts to train on (160 labelled)" in result.stderr
    assert "text encoder distilled from 200 texts" in result.stderr
    assert (tmp_path / "student" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--label-column", "mood"], "column 'mood': found no such column"),
        (["--text-encoder", "./nowhere"], "--text-encoder ./nowhere: cannot be loaded"),
        (["--posts", "./nowhere.parquet"], "nowhere.parquet"),
        (["--config", "./nowhere.json"], "--config ./nowhere.json: no such file"),
        (["--unlabelled", "./x.parquet"], "--unlabelled: needs --teacher"),
        (["--teacher", "./nowhere"], "no such folder"),
    ],
)
def test_a_mistake_gets_one_clear_line(
    corpus: Path, tmp_path: Path, options: list[str], line: str
) -> None:
    result = drf_train(corpus, tmp_path / "out", *options)
    assert result.returncode in (2, 4)
    last = result.stderr.strip().splitlines()[-1]
    assert line in last and last.startswith("drf: error:")
    assert "Traceback" not in result.stderr


def test_an_unknown_setting_is_refused(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.json").write_text('{"training": {"epoch": 3}}')
    result = drf_train(corpus, tmp_path / "out", "--config", str(tmp_path / "bad.json"))
    assert result.returncode == 2
    assert "unknown value training.epoch" in result.stderr


def test_a_validation_label_that_training_does_not_know_is_refused(
    corpus: Path, tmp_path: Path
) -> None:
    table = pq.read_table(corpus / "dev.parquet").to_pylist()
    table[3]["label"] = "furious"
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "dev.parquet")
    result = drf_train(corpus, tmp_path / "out", "--validation", str(tmp_path / "dev.parquet"))
    assert result.returncode == 2
    assert "label 'furious' is not among the labels negative, positive" in result.stderr
