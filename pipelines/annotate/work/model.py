"""The model behind a Beam ModelHandler: loaded once per process, shared by its threads."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apache_beam.ml.inference.base import ModelHandler
from apache_beam.utils.shared import Shared
from transformers.utils.logging import disable_progress_bar

from drf_core.annotator import Annotator, Prediction, PreparedPost
from pipelines.annotate.plan import JobOptions
from pipelines.annotate.work.checks import ModelError, check_checkpoint, check_package
from pipelines.storage.local import cache_folder

# Every DoFn and RunInference of a process draws on these, so that none of them loads a second
# copy of a model, and two models in one pipeline do not displace each other.
_MODELS: dict[tuple[object, ...], Shared] = {}
_MODELS_LOCK = threading.Lock()

# That one text or image may take; the usual one takes milliseconds.
DECODE_SECONDS = 10.0

# From this many posts on, a batch in which not one post can be predicted on its own says
# that the model or its device is broken, not the posts.
_BROKEN_MODEL_POSTS = 8


@dataclass(frozen=True)
class ModelFailure:
    """A post the model raised on, alone in its batch; error: the exception's type name.

    The exception's message stays out: it may quote the post.
    """

    error: str


class DRFModelHandler(ModelHandler[PreparedPost, Prediction | ModelFailure, Annotator]):
    """Annotates prepared posts with a DRF checkpoint, for RunInference and for `drf annotate`.

    model: "default", a folder, a hub id or an fsspec URL that workers can reach.
    revision, package_version: what the plan was made with; a worker that finds another
        raises ModelError instead of annotating. None: not checked.
    device: auto, cpu or cuda. runtime: what encodes, one of drf_core.runtimes.names.RUNTIMES.
    threads: per process, 0 for all cores.
    batch_size: posts per forward; the annotator halves a batch on out-of-memory.
    """

    def __init__(
        self,
        model: str = "default",
        *,
        revision: str | None = None,
        package_version: str | None = None,
        device: str = "auto",
        runtime: str = "auto",
        threads: int = 0,
        batch_size: int = 64,
        prior: Sequence[tuple[str, float]] = (),
    ) -> None:
        super().__init__()
        self._prior = tuple(prior)
        self._model = model
        self._revision = revision
        self._package_version = package_version
        self._device = device
        self._runtime = runtime
        self._threads = threads
        self._batch_size = batch_size

    @classmethod
    def from_options(cls, options: JobOptions) -> DRFModelHandler:
        """The handler of one run, pinned to the revision and version of its plan."""
        return cls(
            options.model,
            revision=options.model_revision,
            package_version=options.package_version,
            device=options.device,
            runtime=options.runtime,
            threads=options.threads,
            prior=options.rows.prior,
        )

    def load_model(self) -> Annotator:
        """The process's annotator, loaded by whoever asks first.

        Raises ModelError where the checkpoint or the package is not the planned one,
        CheckpointError where there is none, DeviceError for a device or runtime that is asked
        for and absent.
        """
        tag = (
            self._model,
            self._revision,
            self._package_version,
            self._device,
            self._runtime,
            self._threads,
            self._prior,
        )
        with _MODELS_LOCK:
            shared = _MODELS.setdefault(tag, Shared())
        return shared.acquire(self._load)

    def _load(self) -> Annotator:
        check_package(self._package_version)
        folder = check_checkpoint(self._model, self._revision)
        # One line per weight file and process is noise in a worker's log.
        disable_progress_bar()
        annotator = Annotator.from_pretrained(
            folder,
            self._device,
            self._threads,
            self._runtime,
            cache_folder("encoders"),
            DECODE_SECONDS,
        )
        if self._prior:
            annotator.model.config.prior = dict(self._prior)
        return annotator

    def run_inference(
        self,
        batch: Sequence[PreparedPost],
        model: Annotator,
        inference_args: dict[str, Any] | None = None,
    ) -> Iterable[Prediction | ModelFailure]:
        """One result per post, in order.

        A batch that fails is bisected, so that a post the model cannot take costs only
        itself. Raises ModelError where a whole batch fails post by post.
        """
        results = [_if_finite(result) for result in _predict_each(model, batch)]
        failures = [result for result in results if isinstance(result, ModelFailure)]
        if len(failures) == len(results) >= _BROKEN_MODEL_POSTS:
            raise ModelError(
                f"the model fails on every post of a batch ({failures[0].error}): "
                "check the device, its memory and the checkpoint"
            )
        return results

    def get_num_bytes(self, batch: Sequence[PreparedPost]) -> int:
        """A count instead of Beam's default, which pickles every batch to measure it."""
        return len(batch)

    def batch_elements_kwargs(self) -> Mapping[str, Any]:
        """Full batches: what a forward costs is known, nothing has to be searched for."""
        return {"min_batch_size": self._batch_size, "max_batch_size": self._batch_size}

    def get_metrics_namespace(self) -> str:
        """Where Beam counts this handler's inferences."""
        return "DRFModelHandler"


def _predict_each(
    annotator: Annotator, posts: Sequence[PreparedPost]
) -> list[Prediction | ModelFailure]:
    try:
        return list(annotator.predict(posts))
    except (OSError, MemoryError):
        # The machine's trouble, which may pass, and not what a post has done.
        raise
    except Exception as error:
        if len(posts) == 1:
            return [ModelFailure(type(error).__name__)]
        half = len(posts) // 2
        return _predict_each(annotator, posts[:half]) + _predict_each(annotator, posts[half:])


def _if_finite(result: Prediction | ModelFailure) -> Prediction | ModelFailure:
    if isinstance(result, Prediction) and not math.isfinite(result.confidence):
        return ModelFailure("NotFinite")
    return result
