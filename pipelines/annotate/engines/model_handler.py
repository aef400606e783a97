"""The model behind a Beam ModelHandler, for RunInference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from apache_beam.ml.inference.base import ModelHandler

from drf_core.annotator import Annotator, Prediction, PreparedPost
from pipelines.annotate.work.model import ModelFailure, ModelOptions, load_model, predict


class DRFModelHandler(ModelHandler[PreparedPost, Prediction | ModelFailure, Annotator]):
    """Annotates prepared posts with a DRF checkpoint.

    batch_size: posts per forward; the annotator halves a batch on out-of-memory.
    """

    def __init__(self, options: ModelOptions, batch_size: int = 64) -> None:
        super().__init__()
        self._options = options
        self._batch_size = batch_size

    def load_model(self) -> Annotator:
        """See `pipelines.annotate.work.model.load_model`."""
        return load_model(self._options)

    def run_inference(
        self,
        batch: Sequence[PreparedPost],
        model: Annotator,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterable[Prediction | ModelFailure]:
        """See `pipelines.annotate.work.model.predict`."""
        return predict(model, batch)

    def get_num_bytes(self, batch: Sequence[PreparedPost]) -> int:
        """A count instead of Beam's default, which pickles every batch to measure it."""
        return len(batch)

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        """Full batches: what a forward costs is known, nothing has to be searched for."""
        return {"min_batch_size": self._batch_size, "max_batch_size": self._batch_size}

    def get_metrics_namespace(self) -> str:
        """Where Beam counts this handler's inferences."""
        return "DRFModelHandler"
