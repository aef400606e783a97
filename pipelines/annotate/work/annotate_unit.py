"""One work unit, whole, on one worker: read, check, decode, predict, stage, commit."""

from __future__ import annotations

import dataclasses
import datetime
import threading
import time
from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor

from drf_core.annotator import PreparedPost
from drf_core.decoding.children import ChildrenStoppedError
from drf_core.runtimes.choice import available_cores
from pipelines.annotate.fetch.arrivals import Arrivals
from pipelines.annotate.fetch.fetcher import shared_fetcher
from pipelines.annotate.job import JobOptions, Shard, ShardOutcome, WorkUnit
from pipelines.annotate.output.attempts import Attempt, past_attempts
from pipelines.annotate.output.commit_records import find_commit
from pipelines.annotate.output.staged_shard import StagedShard
from pipelines.annotate.work.beam_metrics import count_batch, count_results
from pipelines.annotate.work.earlier_rows import EarlierRows, read_earlier
from pipelines.annotate.work.feature_cache import FeatureCache, open_cache
from pipelines.annotate.work.model import ModelFailure, load_model, model_options, predict
from pipelines.annotate.work.prepare import model_failed, prepare_post
from pipelines.annotate.work.rows import AS_BEFORE, DeadLetter, RunColumns, build_rows
from pipelines.annotate.work.stream import (
    Answer,
    Arrival,
    Chunk,
    Image,
    Posts,
    Prepared,
    ShardEnd,
    Waiting,
    look_ahead_cost,
    read_shards,
    stream_posts,
)
from pipelines.posts.column_types import from_text
from pipelines.storage.files import Store, in_parallel, open_store
from pipelines.threads import look_ahead
from schemas.errors import DRFError
from schemas.posts import PostsLayout

# A shard that took its worker down this often is not tried again; nor is a text or image that
# was in work when the job was interrupted this often, each time for so long.
MAX_ATTEMPTS = 3
_SUSPICIOUS_SECONDS = 1.0

# Bytes of rows that wait for a batch to be full.
_MOST_HELD = 256 << 20

# Of all threads of a process one at a time works on a shard that may take the process down: what
# died with it is not held against the others.
_ALONE = threading.Lock()


def annotate_unit(unit: WorkUnit, options: JobOptions) -> Iterator[ShardOutcome]:
    """Annotate the shards of `unit` that have no commit record yet; one outcome per shard.

    Shards with an attempt on record that never ended come last, each alone: whichever of
    them kills its worker does not take others' work, or attempts, with it. So do those with a
    post that was in work for long when the job was interrupted; it is put aside in the end.
    """
    store = open_store(options.output)
    together: list[Shard] = []
    alone: list[Shard] = []
    records = in_parallel(lambda shard: find_commit(store, shard.key), unit.shards)
    open_shards = [s for s, record in zip(unit.shards, records, strict=True) if record is None]
    stale, suspects = past_attempts(store, [shard.key for shard in open_shards])
    suspected = {key for key, _, _ in suspects}
    aside: defaultdict[tuple[str, int], set[str]] = defaultdict(set)
    for (key, row, kind), times in suspects.items():
        if times >= MAX_ATTEMPTS:
            aside[key, row].add(kind)
    for shard, record in zip(unit.shards, records, strict=True):
        if record is not None:
            yield _outcome(shard)
        elif stale[shard.key] >= MAX_ATTEMPTS:
            failed = _outcome(shard, failure=_killed(shard, stale[shard.key]))
            yield dataclasses.replace(failed, killed=stale[shard.key])
        elif stale[shard.key] or shard.key in suspected:
            alone.append(shard)
        else:
            together.append(shard)
    if together:
        yield from _Annotation(together, store, options, aside).run()
    for shard in alone:
        with _ALONE:
            outcomes = [*_Annotation([shard], store, options, aside).run()]
        yield from (dataclasses.replace(one, killed=stale[shard.key]) for one in outcomes)


class _Annotation:
    """Shards whose posts share batches, from the first read to the last commit."""

    def __init__(
        self,
        shards: Sequence[Shard],
        store: Store,
        options: JobOptions,
        aside: Mapping[tuple[str, int], Set[str]],
    ) -> None:
        self._shards = shards
        self._aside = {place: frozenset(kinds) for place, kinds in aside.items()}
        self._ending = False
        self._store = store
        self._options = options
        self._model = load_model(model_options(options))
        self._cache = open_cache(options, self._model)
        self._arrivals: Arrivals[Waiting] = Arrivals(
            shared_fetcher(
                options.rows.image_uri_prefixes,
                options.rows.max_image_bytes,
                options.fetch_concurrency,
                options.fetch_per_host,
            )
        )
        self._run = RunColumns(
            options.labels, options.model_id, options.model_revision, options.run_id
        )
        self._kept = None if options.kept is None else from_text(options.kept)
        self._attempts: dict[str, Attempt] = {}
        self._earlier: dict[str, EarlierRows] = {}
        self._staged: dict[str, StagedShard] = {}
        # Rows and dead letters written, by shard key.
        self._rows: Counter[str] = Counter()
        self._computed: Counter[str] = Counter()
        self._dead_letters: Counter[str] = Counter()
        self._waiting: deque[Chunk | ShardEnd] = deque()
        self._held = 0
        self._batch: list[tuple[Answer, PreparedPost]] = []

    def run(self) -> Iterator[ShardOutcome]:
        threads = available_cores()
        pool = ThreadPoolExecutor(threads, "decode")
        posts = stream_posts(
            self._shards,
            self._begin,
            self._read,
            self._prepare,
            self._arrivals,
            pool,
            threads,
            self._options.labels,
            self._kept,
            self._wanted,
        )
        ahead = look_ahead(posts, look_ahead_cost)
        try:
            for item in ahead:
                if not isinstance(item, Arrival):
                    self._waiting.append(item)
                    self._held += item.held
                if not isinstance(item, ShardEnd):
                    self._collect(item.prepared)
                yield from self._settle()
                if self._held > _MOST_HELD:
                    # Posts of one content fill no batch, however many wait for its answer.
                    self._predict()
                    yield from self._settle()
                # A copy: the reading thread begins attempts meanwhile.
                for key, attempt in list(self._attempts.items()):
                    attempt.touch(self._rows[key], self._dead_letters[key])
            self._predict()
            if self._cache is not None:
                self._cache.flush()
            yield from self._settle()
        finally:
            self._ending = True
            self._arrivals.close()
            ahead.close()
            pool.shutdown(cancel_futures=True)
            for staged in self._staged.values():
                staged.discard()
            for attempt in self._attempts.values():
                attempt.end()

    def _begin(self, shard: Shard) -> None:
        self._attempts[shard.key] = Attempt(self._store, shard.key, self._options.run_id)
        if (earlier := read_earlier(self._store, shard)) is not None:
            self._earlier[shard.key] = earlier

    def _wanted(self, shard: Shard) -> Collection[int] | None:
        return self._earlier[shard.key].wanted if shard.key in self._earlier else None

    def _read(self, shards: Sequence[Shard]) -> Posts:
        return read_shards(shards, self._options.rows, self._kept)

    def _prepare(
        self, answer: Answer, text: str | None, image: Image, image_reason: str | None
    ) -> PreparedPost | DeadLetter:
        if self._ending:
            raise ChildrenStoppedError
        aside = self._aside.get((answer.key, answer.row), frozenset())
        rows, cache = self._options.rows, self._cache
        try:
            return prepare_post(self._model, rows, text, image, image_reason, cache, aside)
        except ChildrenStoppedError as error:
            attempt = self._attempts.get(answer.key)
            if error.seconds > _SUSPICIOUS_SECONDS and attempt is not None:
                attempt.suspect(answer.row, error.kind)
            raise

    def _collect(self, futures: Prepared) -> None:
        """Put what the model must see into the batch; the rest has its answer already."""
        for future in futures:
            for answer, prepared in future.result():
                if isinstance(prepared, DeadLetter):
                    answer.result = prepared
                    continue
                self._batch.append((answer, prepared))
                if len(self._batch) >= (self._options.batch_size or self._model.batch_size):
                    self._predict()
        futures.clear()

    def _predict(self) -> None:
        """Predict the batch, however full it is."""
        if not self._batch:
            return
        posts = [post for _, post in self._batch]
        if self._cache is not None:
            posts = self._encoded(self._cache, posts)
        began = time.monotonic()
        results = predict(self._model, posts)
        count_batch(len(posts), time.monotonic() - began)
        for (answer, _), result in zip(self._batch, results, strict=True):
            answer.result = (
                model_failed(result.error) if isinstance(result, ModelFailure) else result
            )
        self._batch.clear()

    def _encoded(self, cache: FeatureCache, posts: list[PreparedPost]) -> list[PreparedPost]:
        try:
            return cache.encode(self._model, posts)
        except DRFError:
            raise
        except Exception:
            # Inference finds out which post it was, or halves what does not fit.
            return posts

    def _settle(self) -> Iterator[ShardOutcome]:
        """Write what is complete, in source order; commit or give up the shards that end."""
        while self._waiting:
            item = self._waiting[0]
            if isinstance(item, ShardEnd):
                self._waiting.popleft()
                yield self._end(item)
            elif item.complete:
                self._waiting.popleft()
                self._held -= item.held
                self._write(item)
            else:
                return

    def _write(self, chunk: Chunk) -> None:
        key = chunk.shard.key
        results = [answer.result for answer in chunk.answers if answer.result is not None]
        count_results(results)
        now = datetime.datetime.now(datetime.timezone.utc)
        annotations, dead_letters = build_rows(
            self._run,
            chunk.shard.source_file,
            chunk.first_row,
            chunk.post_ids,
            results,
            chunk.kept,
            now,
        )
        lost = [why for one in results if isinstance(one, DeadLetter) for why in one.lost]
        if (earlier := self._earlier.get(key)) is not None:
            annotations, dead_letters, before = earlier.completed(
                chunk.first_row, len(results), annotations, dead_letters
            )
            lost += before
        staged = self._staged_shard(chunk.shard, chunk.layout)
        staged.add_annotations(annotations)
        staged.add_dead_letters(dead_letters, lost)
        self._rows[key] += len(results)
        self._computed[key] += sum(result is not AS_BEFORE for result in results)
        self._dead_letters[key] += dead_letters.num_rows

    def _staged_shard(self, shard: Shard, layout: PostsLayout) -> StagedShard:
        if shard.key not in self._staged:
            keep = layout.keep if self._kept is None else self._kept
            attempt = self._attempts[shard.key]
            self._staged[shard.key] = StagedShard(self._store, self._options, shard, attempt, keep)
        return self._staged[shard.key]

    def _end(self, end: ShardEnd) -> ShardOutcome:
        shard = end.shard
        if end.layout is None:
            outcome = _outcome(shard, failure=end.failure)
        else:
            self._staged_shard(shard, end.layout).commit()
            runtime = self._model.runtime
            outcome = dataclasses.replace(
                _outcome(shard, computed=self._computed[shard.key]),
                runtime=str(runtime),
                note=runtime.note,
                began=self._attempts[shard.key].began,
                ended=time.time(),
            )
        if staged := self._staged.pop(shard.key, None):
            staged.discard()
        self._earlier.pop(shard.key, None)
        if attempt := self._attempts.pop(shard.key, None):
            attempt.end()
        cached = (0, 0) if self._cache is None else self._cache.take_counts()
        return dataclasses.replace(outcome, fetched=self._arrivals.take_counts(), cached=cached)


def _outcome(shard: Shard, *, computed: int = 0, failure: str | None = None) -> ShardOutcome:
    return ShardOutcome(
        shard.key, shard.source_file, shard.partition, shard.rows, computed, failure
    )


def _killed(shard: Shard, attempts: int) -> str:
    last = shard.first_row + shard.rows - 1
    return (
        f"rows {shard.first_row} to {last} of {shard.source_file} killed their worker {attempts} "
        "times within 24 hours; the next run tries them again, so take the post that does it "
        "out of the file, unless the runs were stopped from outside"
    )
