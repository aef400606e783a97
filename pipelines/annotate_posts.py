"""AnnotatePosts: the model as a transform for any Beam pipeline, over RunInference."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.ml.inference.base import KeyedModelHandler, RunInference
from apache_beam.transforms.window import BoundedWindow
from apache_beam.utils.timestamp import Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from drf_core.annotator import Prediction
from drf_core.checkpoint import read_checkpoint
from pipelines.annotate.engines.model_handler import DRFModelHandler
from pipelines.annotate.fetch.arrivals import Arrivals
from pipelines.annotate.fetch.fetcher import CONCURRENCY, PER_HOST, Fetched, shared_fetcher
from pipelines.annotate.job import RowOptions
from pipelines.annotate.work.model import ModelFailure, ModelOptions
from pipelines.annotate.work.prepare import model_failed, plain_image, plain_value, prepare_post
from pipelines.annotate.work.rows import DeadLetter, no_post_id, prediction_fields
from pipelines.console.version import package_version
from pipelines.storage.checkpoints import DEFAULT_MODEL, resolve_model
from pipelines.storage.redaction import redact
from schemas.annotations import ANNOTATIONS_SCHEMA_VERSION, check_kept_names
from schemas.image_columns import decode_text, holds_image

Row = dict[str, Any]
_DEAD_LETTERS = "dead_letters"

# A prepared post, or a dead letter, as Beam takes it from a DoFn.
_Prepared = Any

# Images of a bundle that are asked for ahead of what is prepared.
_FETCH_AHEAD = 256


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

    A post is a mapping with post_id (str or int), text (str), image (bytes, or as a text
    holds it: base64, a data: URI) and, instead of image, image_uri; any but post_id may be None
    or absent. `posts | AnnotatePosts()` gives
    AnnotatedPosts.

    model: "default" (the checkpoint in the package), a folder, a hub id or an fsspec URL
        that workers can reach.
    keep: fields of the post that travel through untouched.
    image_uri_prefixes: an image_uri under none of them is never fetched.
    device: auto, cpu or cuda. runtime: what encodes, one of drf_core.runtimes.choice.RUNTIMES.
    threads: per process, 0 for all cores.
    batch_size: posts per forward.
    fetch_concurrency, fetch_per_host: images that a process fetches at a time, and from one host.

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
        fetch_concurrency: int = CONCURRENCY,
        fetch_per_host: int = PER_HOST,
    ) -> None:
        super().__init__()
        check_kept_names(keep)
        checkpoint = read_checkpoint(resolve_model(model))
        self._keep = tuple(keep)
        self._options = RowOptions(keep=self._keep, image_uri_prefixes=tuple(image_uri_prefixes))
        self._fetcher = (
            tuple(image_uri_prefixes),
            self._options.max_image_bytes,
            fetch_concurrency,
            fetch_per_host,
        )
        self._labels = checkpoint.labels
        self._columns = {
            "model_id": redact(model),
            "model_revision": checkpoint.revision,
            "schema_version": ANNOTATIONS_SCHEMA_VERSION,
        }
        options = ModelOptions(
            os.path.abspath(model) if os.path.isdir(model) else model,
            checkpoint.revision,
            package_version(),
            device,
            runtime,
            threads,
        )
        self._handler = DRFModelHandler(options, batch_size)

    def expand(self, posts: beam.PCollection[Mapping[str, Any]]) -> AnnotatedPosts:
        """Check and decode before batching, so that a broken post never costs its batch."""
        prepared = posts | "Prepare" >> beam.ParDo(
            _Prepare(self._handler, self._options, self._fetcher)
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


class _Waiting(NamedTuple):
    """A post that waits for its image."""

    post: Mapping[str, Any]
    timestamp: Timestamp
    window: BoundedWindow


class _Prepare(beam.DoFn):
    """A post -> ({post_id and kept fields}, PreparedPost), or a dead letter.

    fetcher: the arguments of shared_fetcher.
    """

    def __init__(
        self, handler: DRFModelHandler, options: RowOptions, fetcher: tuple[Any, ...]
    ) -> None:
        self._handler = handler
        self._options = options
        self._fetcher = fetcher

    def setup(self) -> None:
        self._annotator = self._handler.load_model()

    def start_bundle(self) -> None:
        self._arrivals: Arrivals[_Waiting] = Arrivals(shared_fetcher(*self._fetcher))

    def process(
        self,
        post: Mapping[str, Any],
        timestamp: Any = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> Iterator[_Prepared]:
        post = _plain(post)
        uri = post["image_uri"]
        if uri and not post["image"] and post["post_id"] is not None:
            self._arrivals.add(uri, _Waiting(post, timestamp, window))
            yield from self._arrived(self._arrivals.take())
            while len(self._arrivals) > _FETCH_AHEAD:
                yield from self._arrived(self._arrivals.take(wait=True))
        else:
            yield self._prepare(post, post["image"], None, lambda value: value)

    def finish_bundle(self) -> Iterator[_Prepared]:
        for came in self._arrivals.rest():
            yield from self._arrived(came)

    def _arrived(self, came: Sequence[tuple[_Waiting, Fetched]]) -> Iterator[_Prepared]:
        for (post, timestamp, window), fetched in came:

            def at_its_time(value: Any, at: Any = (timestamp, (window,))) -> WindowedValue:
                return WindowedValue(value, *at)

            yield self._prepare(post, fetched.content, fetched.reason, at_its_time)

    def _prepare(
        self,
        post: Mapping[str, Any],
        image: bytes | None,
        image_reason: str | None,
        placed: Callable[[Any], Any],
    ) -> _Prepared:
        """placed: puts a value into the window and at the time that its post has."""
        row = {"post_id": post["post_id"]}
        result = no_post_id(post["post_id"]) or prepare_post(
            self._annotator, self._options, post["text"], image, image_reason
        )
        if isinstance(result, DeadLetter):
            return beam.pvalue.TaggedOutput(_DEAD_LETTERS, placed(_dead_letter(row, result)))
        return placed((row | {name: post.get(name) for name in self._options.keep}, result))


def _plain(post: Mapping[str, Any]) -> dict[str, Any]:
    """A post whose values are what the job works on, whatever a table put in their place."""
    post = post if isinstance(post, Mapping) else {}
    image, path = plain_image(post.get("image"))
    post_id, text = post.get("post_id"), post.get("text")
    if isinstance(post_id, float) and post_id.is_integer() and abs(post_id) < 2**53:
        # As pandas has ids of which one is missing.
        post_id = int(post_id)
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    uri = plain_value(post.get("image_uri"), (str,)) or path
    if uri and holds_image(uri):
        held, uri = decode_text(uri)
        image = image or held
    return {
        **post,
        "post_id": plain_value(post_id, (str,)),
        "text": plain_value(text, (str,)),
        "image": image,
        "image_uri": uri,
    }


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
            letter = _dead_letter(row, model_failed(prediction.error))
            yield beam.pvalue.TaggedOutput(_DEAD_LETTERS, letter)
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


def _dead_letter(row: Row, letter: DeadLetter) -> Row:
    return {
        "post_id": row["post_id"],
        "stage": letter.stage,
        "reason": letter.reason,
        "message": letter.message,
    }
