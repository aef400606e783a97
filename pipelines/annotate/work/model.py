"""The model of a worker: loaded once per process, shared by its threads."""

from __future__ import annotations

import math
import sys
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakValueDictionary

from drf_core.annotator import Annotator, Prediction, PreparedPost
from pipelines.annotate.job import JobOptions
from pipelines.annotate.work.check_worker import ModelError, check_checkpoint, check_package
from pipelines.annotate.work.heap import keep_large_buffers_out, share_one_heap, trim_heap
from pipelines.storage.local import cache_folder

# Everything in a process draws on these, so that nothing loads a second copy of a model. Those of
# the last two are kept for who asks next.
_MODELS: WeakValueDictionary[ModelOptions, Annotator] = WeakValueDictionary()
_LAST: deque[Annotator] = deque(maxlen=2)
_LOADING = threading.Lock()

# That one text or image may take; the usual one takes milliseconds.
DECODE_SECONDS = 10.0
_SWITCH_SECONDS = 0.001

# From this many posts on, a batch in which not one post can be predicted on its own says
# that the model or its device is broken, not the posts.
_BROKEN_MODEL_POSTS = 8


@dataclass(frozen=True)
class ModelFailure:
    """A post the model raised on, alone in its batch; error: the exception's type name.

    The exception's message stays out: it may quote the post.
    """

    error: str


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and how a worker runs it.

    model: "default", a folder, a hub id or an fsspec URL that workers can reach. revision,
    package_version: what the plan was made with; a worker that finds another raises ModelError
    instead of annotating. None: not checked. device: auto, cpu or cuda. runtime: what encodes, one
    of drf_core.runtimes.choice.RUNTIMES. threads: per process, 0 for all cores. prior: share of
    each label, where it is not the checkpoint's.
    """

    model: str
    revision: str | None = None
    package_version: str | None = None
    device: str = "auto"
    runtime: str = "auto"
    threads: int = 0
    prior: tuple[tuple[str, float], ...] = ()


def model_options(options: JobOptions) -> ModelOptions:
    """Those of one run, pinned to the revision and version of its plan."""
    return ModelOptions(
        options.model,
        options.model_revision,
        options.package_version,
        options.device,
        options.runtime,
        options.threads,
        options.rows.prior,
    )


def load_model(options: ModelOptions) -> Annotator:
    """The process's annotator, loaded by whoever asks first.

    Raises ModelError where the checkpoint or the package is not the planned one,
    CheckpointError where there is none, DeviceError for a device or runtime that is asked
    for and absent.
    """
    with _LOADING:
        if (annotator := _MODELS.get(options)) is None:
            annotator = _MODELS[options] = _load(options)
            _LAST.append(annotator)
        return annotator


def _load(options: ModelOptions) -> Annotator:
    check_package(options.package_version)
    # Threads that talk to decoders need the lock of the interpreter for microseconds, and wait a
    # whole interval for it each time while another computes.
    sys.setswitchinterval(_SWITCH_SECONDS)
    share_one_heap()
    annotator = Annotator.from_pretrained(
        check_checkpoint(options.model, options.revision),
        options.device,
        options.threads,
        options.runtime,
        cache_folder("encoders"),
        DECODE_SECONDS,
    )
    if annotator.runtime.make == "openvino":
        keep_large_buffers_out()
    if options.prior:
        shares = dict(options.prior)
        annotator.prior = tuple(shares[label] for label in annotator.labels)
    return annotator


def predict(annotator: Annotator, posts: Sequence[PreparedPost]) -> list[Prediction | ModelFailure]:
    """One result per post, in order.

    A batch that fails is bisected, so that a post the model cannot take costs only
    itself. Raises ModelError where a whole batch fails post by post.
    """
    results = [_if_finite(result) for result in _predict_each(annotator, posts)]
    if annotator.runtime.make == "openvino":
        trim_heap()
    failures = [result for result in results if isinstance(result, ModelFailure)]
    if len(failures) == len(results) >= _BROKEN_MODEL_POSTS:
        raise ModelError(
            f"the model fails on every post of a batch ({failures[0].error}): "
            "check the device, its memory and the checkpoint"
        )
    return results


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
