"""Where a training's figures go beside the terminal: TensorBoard or MLflow, where asked for."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from schemas.errors import UsageError

if TYPE_CHECKING:
    from drf_core.training.settings import Track

TRACKERS = ("tensorboard", "mlflow")


@contextlib.contextmanager
def tracking(
    tracker: str | None, output: Path, state: Path, facts: Mapping[str, Any]
) -> Iterator[Track]:
    """Give a function that tells tracker (one of TRACKERS, None for none) figures.

    output: folder of the checkpoint, which names the run. state: folder in which a training that
    is stopped finds its run again. facts: what the training was given. Raises UsageError where
    the tracker's package is not installed; it is imported only where asked for.
    """
    if tracker is None:
        yield lambda figures, step: None
        return
    opened = _tensorboard if tracker == "tensorboard" else _mlflow
    with opened(output, state, facts) as log:
        # MLflow takes these and no other characters in a name.
        yield lambda figures, step: log(
            {re.sub(r"[^\w./ -]", " ", name): value for name, value in figures.items()}, step
        )


@contextlib.contextmanager
def _tensorboard(output: Path, state: Path, facts: Mapping[str, Any]) -> Iterator[Track]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise _not_installed("tensorboard") from error

    with SummaryWriter(str(output.with_name(f"{output.name}.tensorboard"))) as writer:
        writer.add_text(
            "training", "\n".join(f"- {name}: {value}" for name, value in facts.items())
        )

        def log(figures: Mapping[str, float], step: int) -> None:
            for name, value in figures.items():
                writer.add_scalar(name, value, step)
            writer.flush()

        yield log


@contextlib.contextmanager
def _mlflow(output: Path, state: Path, facts: Mapping[str, Any]) -> Iterator[Track]:
    try:
        import mlflow
    except ImportError as error:
        raise _not_installed("mlflow") from error

    kept = state / "mlflow_run"
    earlier = kept.read_text() if kept.exists() else None
    with mlflow.start_run(run_id=earlier, run_name=output.name) as run:
        if earlier is None:
            mlflow.log_params(dict(facts))
            kept.write_text(run.info.run_id)

        def log(figures: Mapping[str, float], step: int) -> None:
            mlflow.log_metrics(dict(figures), step=step)

        yield log


def _not_installed(tracker: str) -> UsageError:
    return UsageError(
        f"--track {tracker}: is not installed: pip install -c deploy/constraints.txt '.[{tracker}]'"
    )
