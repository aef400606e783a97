"""AnnotatePosts: the model as a transform for any Beam pipeline, over RunInference."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.ml.inference.base import KeyedModelHandler, RunInference

from drf_core.annotator import Prediction, PreparedPost
from drf_core.checkpoint import read_checkpoint
from pipelines.annotate.plan import RowOptions
from pipelines.annotate.work.fetch import ImageFetcher
from pipelines.annotate.work.model import DRFModelHandler, ModelFailure
from pipelines.annotate.work.prepare import DeadLetter, model_failed, no_post_id, prepare_post
from pipelines.annotate.work.rows import prediction_fields
from pipelines.console.version import package_version
from pipelines.storage.checkpoints import DEFAULT_MODEL, resolve_model
from pipelines.storage.redaction import redact
from schemas.annotations import ANNOTATIONS_SCHEMA_VERSION, check_kept_names

Row = dict[str, Any]
_DEAD_LETTERS = "dead_letters"


class AnnotatedPosts(NamedTuple):
    """What AnnotatePosts makes of posts: every post is in exactly one of the two.

    annotations: dicts with the columns of schemas.annotations, but for source_file,
        source_row and run_id, which a pipeline of one's own has no equivalent of.
    dead_letters: dicts with post_id, stage, reason and message.
    """

    annotations: beam.PCollection[Row]
    dead_letters: beam.PCollection[Row]


class AnnotatePosts(beam.PTransform):
    """Annotate a PCollection of posts, wherever they come from.

    A post is a mapping with post_id (str or int), text (str), image (bytes) and, instead of
    image, image_uri; any but post_id may be None or absent. `posts | AnnotatePosts()` gives
    AnnotatedPosts.

    model: "default" (the checkpoint in the package), a folder, a hub id or an fsspec URL
        that workers can reach.
    keep: fields of the post that travel through untouched.
    image_uri_prefixes: an image_uri under none of them is never fetched.
    device: auto, cpu or cuda. runtime: what encodes, one of drf_core.runtimes.names.RUNTIMES.
    threads: per process, 0 for all cores.
    batch_size: posts per forward.

    Raises CheckpointError where there is no such model, UsageError where a kept field has
    the name of an annotation column.
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        keep: Sequence[str] = (),
        image_uri_prefixes: Sequence[str] = (),
        device: str = "auto",
        runtime: str = "auto",
        threads: int = 0,
        batch_size: int = 64,
    ) -> None:
        super().__init__()
        check_kept_names(keep)
        checkpoint = read_checkpoint(resolve_model(model))
        self._keep = tuple(keep)
        self._options = RowOptions(keep=self._keep, image_uri_prefixes=tuple(image_uri_prefixes))
        self._labels = checkpoint.labels
        self._columns = {
            "model_id": redact(model),
            "model_revision": checkpoint.revision,
            "schema_version": ANNOTATIONS_SCHEMA_VERSION,
        }
        self._handler = DRFModelHandler(
            os.path.abspath(model) if os.path.isdir(model) else model,
            revision=checkpoint.revision,
            package_version=package_version(),
            device=device,
            runtime=runtime,
            threads=threads,
            batch_size=batch_size,
        )

    def expand(self, posts: beam.PCollection[Mapping[str, Any]]) -> AnnotatedPosts:
        """Check and decode before batching, so that a broken post never costs its batch."""
        prepared = posts | "Prepare" >> beam.ParDo(
            _Prepare(self._handler, self._options)
        ).with_outputs(_DEAD_LETTERS, main="prepared")
        results = prepared.prepared | "Predict" >> RunInference(KeyedModelHandler(self._handler))
        annotated = results | "ToRows" >> beam.ParDo(
            _ToRows(self._labels, self._columns)
        ).with_outputs(_DEAD_LETTERS, main="annotations")
        dead_letters = (
            prepared[_DEAD_LETTERS],
            annotated[_DEAD_LETTERS],
        ) | "DeadLetters" >> beam.Flatten()
        return AnnotatedPosts(annotated.annotations, dead_letters)


class _Prepare(beam.DoFn):
    """A post -> ({post_id and kept fields}, PreparedPost), or a dead letter."""

    def __init__(self, handler: DRFModelHandler, options: RowOptions) -> None:
        self._handler = handler
        self._options = options

    def setup(self) -> None:
        self._annotator = self._handler.load_model()
        self._fetcher = ImageFetcher(
            self._options.image_uri_prefixes, self._options.max_image_bytes
        )

    def process(
        self, post: Mapping[str, Any]
    ) -> Iterator[tuple[Row, PreparedPost] | beam.pvalue.TaggedOutput]:
        post_id = post.get("post_id")
        row = {"post_id": None if post_id is None else str(post_id)}
        result = no_post_id(row["post_id"]) or prepare_post(
            self._annotator,
            self._fetcher,
            self._options,
            post.get("text"),
            post.get("image"),
            post.get("image_uri"),
        )
        if isinstance(result, DeadLetter):
            yield _dead_letter(row, result)
        else:
            yield row | {name: post.get(name) for name in self._options.keep}, result


class _ToRows(beam.DoFn):
    """A prediction with its post's fields -> an annotation, or a dead letter."""

    def __init__(self, labels: tuple[str, ...], columns: Row) -> None:
        self._labels = labels
        self._columns = columns

    def process(
        self, result: tuple[Row, Prediction | ModelFailure]
    ) -> Iterator[Row | beam.pvalue.TaggedOutput]:
        row, prediction = result
        if isinstance(prediction, ModelFailure):
            yield _dead_letter(row, model_failed(prediction.error))
            return
        annotated_at = datetime.datetime.now(datetime.timezone.utc)
        kept = {name: value for name, value in row.items() if name != "post_id"}
        yield {
            "post_id": row["post_id"],
            **prediction_fields(prediction, self._labels),
            **self._columns,
            "annotated_at": annotated_at,
            **kept,
        }


def _dead_letter(row: Row, letter: DeadLetter) -> beam.pvalue.TaggedOutput:
    return beam.pvalue.TaggedOutput(
        _DEAD_LETTERS,
        {
            "post_id": row["post_id"],
            "stage": letter.stage,
            "reason": letter.reason,
            "message": letter.message,
        },
    )
