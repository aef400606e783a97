"""`drf train` as tests call it: in this process, with encoders of a few thousand parameters."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.cli import main
from tests.data.labelled_posts import write_labelled

CONFIG: dict[str, Any] = {
    "model": {"queue_length": 64, "projection_size": 32, "reference_length": 64},
    "small": {
        "text": {"vocabulary": 400, "hidden": 32, "layers": 1, "heads": 2},
        "image": {"widths": [8, 16, 16, 32], "side": 32},
    },
    "training": {
        "epochs": 3,
        "batch_size": 16,
        "encoder_learning_rate": 3e-3,
        "views_per_kind": 1,
        "text_kinds": ["corrupt", "typos"],
        "image_kinds": ["corrupt", "blur"],
    },
    "distillation": {"text_epochs": 1, "image_epochs": 1},
}


def write_training_corpus(folder: Path) -> Path:
    """train.parquet, dev.parquet and a config.json of tiny encoders."""
    write_labelled(folder / "train.parquet", 160, 0, without_image=16)
    write_labelled(folder / "dev.parquet", 60, 1)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def arguments(corpus: Path, output: Path, *more: str, validation: bool = True) -> list[str]:
    """Of `drf train` on the corpus, or on the --posts among more."""
    given = ["--validation", str(corpus / "dev.parquet")] if validation else []
    posts = [] if "--posts" in more else ["--posts", str(corpus / "train.parquet")]
    return [
        "train", *posts, *given, "--text-encoder", "small",
        "--image-encoder", "small", "--output", str(output), "--device", "cpu", "--threads", "1",
        "--config", str(corpus / "config.json"), *more,
    ]  # fmt: skip


@dataclass(frozen=True)
class Result:
    returncode: int
    stderr: str


def drf_train(corpus: Path, output: Path, *more: str, validation: bool = True) -> Result:
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main(arguments(corpus, output, *more, validation=validation))
    return Result(code, said.getvalue())


def one_epoch(folder: Path, **sections: dict[str, Any]) -> tuple[str, str]:
    """The option that gives a configuration of one epoch and these sections."""
    training = {**CONFIG["training"], "epochs": 1, **sections.pop("training", {})}
    model = {**CONFIG["model"], **sections.pop("model", {})}
    path = folder / "one_epoch.json"
    path.write_text(json.dumps({**CONFIG, "model": model, "training": training, **sections}))
    return "--config", str(path)


def killed_after_an_epoch(arguments: list[str]) -> subprocess.CompletedProcess[bytes]:
    """Run `drf` in a process that is killed when its first epoch is saved."""
    program = (
        "import sys, pipelines.cli as cli, drf_core.training.trainer as t\n"
        "save = t.Trainer.save\n"
        "def die(self, path):\n"
        "    save(self, path)\n"
        "    if self.epoch == 1: import os; os.kill(os.getpid(), 9)\n"
        "t.Trainer.save = die\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], check=False, capture_output=True
    )
