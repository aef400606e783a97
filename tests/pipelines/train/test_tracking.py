"""What `drf train` tells of itself while it runs: its progress, TensorBoard, MLflow."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from drf_core.evaluation.quick import suspicions
from tests.support.training_runs import arguments, drf_train, killed_after_an_epoch, one_epoch


def test_an_epoch_tells_its_loss_and_how_often_one_label_is_said(
    corpus: Path, tmp_path: Path
) -> None:
    result = drf_train(corpus, tmp_path / "out", *one_epoch(tmp_path))
    assert result.returncode == 0, result.stderr
    [line] = [line for line in result.stderr.splitlines() if line.startswith("epoch 1:")]
    told = {name: float(value) for name, value in re.findall(r"([a-z+ ]+) ([0-9.]+)", line[8:])}
    told = {name.strip(): value for name, value in told.items()}
    assert told["loss"] > 0 and 0 < told["clean"] <= 1
    assert told["majority"] <= told["most said"] <= 1 or told["most said"] >= 0.5


def test_a_model_that_learned_nothing_is_warned_of() -> None:
    stuck = {"log_loss": 0.7, "most_said": 1.0}
    assert len(suspicions({"clean": stuck, "text discard": stuck})) == 2
    learned = {"clean": {"log_loss": 0.5, "most_said": 0.6}, "text discard": stuck}
    assert suspicions(learned) == []


def test_tensorboard_is_told_every_epoch(corpus: Path, tmp_path: Path) -> None:
    loader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    output = tmp_path / "out"
    result = drf_train(corpus, output, *one_epoch(tmp_path), "--track", "tensorboard")
    assert result.returncode == 0, result.stderr
    events = loader.EventAccumulator(str(tmp_path / "out.tensorboard"))
    events.Reload()
    assert {"loss", "clean", "majority"} <= set(events.Tags()["scalars"])
    assert [one.step for one in events.Scalars("loss")] == [1]
    assert not list(output.glob("*tfevents*"))


def test_mlflow_is_told_every_epoch_in_one_run_though_the_training_was_stopped(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/runs")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    given = arguments(corpus, tmp_path / "out", "--track", "mlflow")
    assert killed_after_an_epoch(given).returncode == -9
    result = drf_train(corpus, tmp_path / "out", "--track", "mlflow")
    assert result.returncode == 0, result.stderr

    mlflow.set_tracking_uri(f"file:{tmp_path}/runs")
    [run] = mlflow.MlflowClient().search_runs(["0"])
    assert run.info.status == "FINISHED" and run.data.params["epochs"] == "3"
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "image corrupt discard")
    assert [one.step for one in history] == [1, 2, 3]


def test_off_means_that_neither_is_imported(corpus: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from pipelines.cli import main; code = main(sys.argv[1:]); "
        "print(code, *{'mlflow', 'tensorboard'} & sys.modules.keys())"
    )
    given = arguments(corpus, tmp_path / "out", *one_epoch(tmp_path))
    ended = subprocess.run(
        [sys.executable, "-c", script, *given], capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines()[-1] == "0"


def test_a_tracker_that_is_not_installed_is_named_with_the_way_out(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    result = drf_train(corpus, tmp_path / "out", "--track", "mlflow")
    assert result.returncode == 2
    assert "--track mlflow: is not installed: pip install" in result.stderr


def test_what_another_training_left_is_begun_anew(corpus: Path, tmp_path: Path) -> None:
    state = tmp_path / "out.training"
    state.mkdir()
    for name in ("training_state.pt", "fingerprint"):
        (state / name).write_text("of another training")
    assert drf_train(corpus, tmp_path / "out", *one_epoch(tmp_path)).returncode == 2
    result = drf_train(corpus, tmp_path / "out", *one_epoch(tmp_path), "--restart")
    assert result.returncode == 0 and not state.exists()
