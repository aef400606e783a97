"""The posts of a work unit: read, checked, their images fetched, and prepared by a pool."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from drf_core.annotator import Prediction, PreparedPost
from drf_core.pooling import pool_pictures
from pipelines.annotate.fetch.arrivals import Arrivals
from pipelines.annotate.fetch.fetcher import Fetched
from pipelines.annotate.job import RowOptions, Shard
from pipelines.annotate.work.content_keys import Content, contents_of, views
from pipelines.annotate.work.rows import AS_BEFORE, DeadLetter, Result, broken_record, no_post_id
from pipelines.posts.column_types import conform
from pipelines.posts.input_files import CorruptInputError, InputChangedError
from pipelines.posts.inputs import read_footer
from pipelines.posts.reading import read_unit_rows
from pipelines.posts.record_files import is_records_file
from pipelines.storage.backends import open_url
from schemas.errors import SchemaError
from schemas.posts import BROKEN, ROLES, PostsLayout, check_posts_schema, kept_columns, media_of

# What a worker reads and prepares while the model runs: enough to keep it fed, and the bound
# on what it holds, whatever the size of its work unit.
LOOK_AHEAD_POSTS = 256
LOOK_AHEAD_BYTES = 64 << 20

# Addresses that are asked for ahead of what is prepared: enough to keep every connection busy.
FETCH_AHEAD = 1024

# Posts that a thread prepares at a time: waking it for each would cost more than some posts do.
# Few enough that all threads have their share of what is ahead.
_LEAST_AT_ONCE = 8
_TURNS_AHEAD = 4

# Of a row that waits for its result: its id and places in lists.
_ROW_BYTES = 300

# Answers that are kept for posts of the same content: about a kilobyte each.
_MOST_ANSWERS = 8192

Posts = tuple[PostsLayout, Iterable[tuple[Shard, int, pa.RecordBatch]]]
Image = bytes | memoryview | None


def read_shards(
    shards: Sequence[Shard], rows: RowOptions, kept: Sequence[pa.Field] | None = None
) -> Posts:
    """Open the shards' file, if it still is what was planned, and read them in one pass.

    kept: fields of the kept columns that the output has; what is text there, records are read as.
    """
    first = shards[0]
    fs, path = open_url(first.path)
    try:
        footer = read_footer(fs, path, columns=rows.columns)
    except FileNotFoundError as error:
        raise InputChangedError(f"{first.source_file} is gone since the run began") from error
    if footer.identity != first.identity:
        raise InputChangedError(
            f"{first.source_file} changed since the run began; the next run annotates it anew"
        )
    if footer.rows == 0:
        return PostsLayout((), rows.columns), ()
    schema = footer.schema
    if is_records_file(path):
        roles = [getattr(rows.columns, role) for role in ROLES]
        texts = [f.name for f in kept or () if pa.types.is_string(f.type) and f.name not in roles]
        schema = pa.schema([f.with_type(pa.string()) if f.name in texts else f for f in schema])
    layout = check_posts_schema(schema, rows.columns, rows.keep, first.source_file)
    batches = read_unit_rows(
        fs,
        path,
        shards,
        layout,
        schema=schema,
        identity=first.identity,
        max_image_bytes=rows.max_image_bytes,
    )
    return layout, batches


LASTING_ERRORS = (InputChangedError, CorruptInputError, SchemaError)


@dataclass(eq=False)
class Answer:
    """What posts of one content end in, known once for all of them; None until then.

    key, row: shard and source row of the first of them.
    """

    key: str = ""
    row: int = -1
    result: Result | None = None


# The post's answer, text, image, why there is no image.
Prepare = Callable[[Answer, str | None, Image, str | None], PreparedPost | DeadLetter]


@dataclass(frozen=True)
class PooledAnswer:
    """What a post of several pictures ends in, once each of them has its answer."""

    of_pictures: tuple[Answer, ...]
    labels: Sequence[str]

    @property
    def result(self) -> Result | None:
        """None until all are known."""
        results = [answer.result for answer in self.of_pictures]
        if None in results:
            return None
        predictions = [result for result in results if isinstance(result, Prediction)]
        return pool_pictures(predictions, self.labels) if predictions else results[0]


# A post that waits for its image: its answer and its text.
Waiting = tuple[Answer, str | None]

# What the model must see, as futures of a few posts each.
Prepared = list[Future[list[tuple[Answer, PreparedPost | DeadLetter]]]]


@dataclass
class Chunk:
    """Consecutive rows of one shard on their way from the file to the part.

    answers: per row. prepared: of those that are not known yet and wait for no image. kept: the
    columns named with --keep. bytes: of the rows as read.
    """

    shard: Shard
    layout: PostsLayout
    first_row: int
    post_ids: list[str | None]
    answers: list[Answer | PooledAnswer]
    prepared: Prepared
    kept: pa.RecordBatch
    bytes: int

    @property
    def held(self) -> int:
        """Bytes that it holds, about, until every row has its result."""
        # Kept columns lie in one buffer with all that was read beside them.
        return self.bytes if self.kept.num_columns else _ROW_BYTES * len(self.post_ids)

    @property
    def complete(self) -> bool:
        """Whether every row has its result."""
        return all(answer.result is not None for answer in self.answers)


@dataclass(frozen=True)
class Arrival:
    """Posts of earlier chunks whose images have come. bytes: of the images."""

    prepared: Prepared
    posts: int
    bytes: int


@dataclass(frozen=True)
class ShardEnd:
    """All rows of a shard were read; or, where there is a failure (one line), never will be."""

    shard: Shard
    layout: PostsLayout | None = None
    failure: str | None = None
    held = 0


def stream_posts(
    shards: Sequence[Shard],
    begin: Callable[[Shard], None],
    read: Callable[[Sequence[Shard]], Posts],
    prepare: Prepare,
    arrivals: Arrivals[Waiting],
    pool: Executor,
    threads: int,
    labels: Sequence[str] = (),
    kept: Sequence[pa.Field] | None = None,
    wanted: Callable[[Shard], Collection[int] | None] = lambda shard: None,
) -> Iterator[Chunk | Arrival | ShardEnd]:
    """Yield each shard's rows as chunks, then its end; a shard that fails ends early.

    Posts whose images are behind addresses follow their chunk as the images come.

    begin: called before a shard's rows are read.
    read: opens one file for its shards, in row order; gives the layout and the coerced posts
        with their shard and first source row. Raises a lasting error where it can never be
        read as planned, anything else where the fault may pass.
    prepare: answer, text, image, image_reason -> what the model takes; runs on `pool`, once for
        posts of the same content.
    arrivals: fetches images.
    threads: of the pool. labels: of predictions, to pool those of several pictures. kept: the kept
    columns as the output has them, None for as they are read. wanted: the source rows of a shard
    that are to be prepared, None for all of them.
    """
    answers = _Answers()
    at_once = max(_LEAST_AT_ONCE, LOOK_AHEAD_POSTS // (_TURNS_AHEAD * threads))

    def prepare_some(posts: Sequence[_New]) -> list[tuple[Answer, PreparedPost | DeadLetter]]:
        return [(post.answer, prepare(*post)) for post in posts]

    def submit(posts: Sequence[_New]) -> Prepared:
        starts = range(0, len(posts), at_once)
        return [pool.submit(prepare_some, posts[start : start + at_once]) for start in starts]

    def arrived(came: Sequence[tuple[Waiting, Fetched]]) -> Iterator[Arrival]:
        if came:
            new = [_New(*waited, got.content, got.reason) for waited, got in came]
            size = sum(len(post.image or b"") for post in new)
            yield Arrival(submit(new), posts=len(new), bytes=size)

    for _, of_file in itertools.groupby(shards, key=lambda shard: shard.path):
        waiting = list(of_file)
        begin(waiting[0])
        try:
            layout, batches = read(tuple(waiting))
            for shard, first_row, posts in batches:
                item = posts, kept, wanted(shard)
                yield _chunk(shard, layout, first_row, *item, answers, submit, arrivals, labels)
                yield from arrived(arrivals.take())
                while len(arrivals) > FETCH_AHEAD:
                    yield from arrived(arrivals.take(wait=True))
                if first_row + posts.num_rows == shard.first_row + shard.rows:
                    yield ShardEnd(waiting.pop(0), layout)
                    if waiting:
                        begin(waiting[0])
        except LASTING_ERRORS as error:
            for shard in waiting:
                yield ShardEnd(shard, failure=str(error))
        else:
            for shard in waiting:
                yield ShardEnd(shard, layout)
    for posts in arrivals.rest():
        yield from arrived(posts)


class _New(NamedTuple):
    """A post whose answer is not known yet. image_reason: why it has no image."""

    answer: Answer
    text: str | None
    image: Image
    image_reason: str | None = None


class _Answers:
    """Answers by content: of the last contents that came, so that memory stays bounded."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Content, Answer] = OrderedDict()

    def find(self, content: Content, key: str, row: int) -> tuple[Answer, bool]:
        """Return the content's answer, and whether it is a new one, which a shard's row has."""
        if (answer := self._answers.get(content)) is not None:
            return answer, False
        if len(self._answers) >= _MOST_ANSWERS:
            self._answers.popitem(last=False)
        return self._answers.setdefault(content, Answer(key, row)), True


def _chunk(
    shard: Shard,
    layout: PostsLayout,
    first_row: int,
    posts: pa.RecordBatch,
    kept: Sequence[pa.Field] | None,
    wanted: Collection[int] | None,
    answers: _Answers,
    submit: Callable[[Sequence[_New]], Prepared],
    arrivals: Arrivals[Waiting],
    labels: Sequence[str],
) -> Chunk:
    own = kept_columns(posts, layout)
    if kept is not None:
        own = conform(own, kept, posts.num_rows, shard.source_file)
    columns = (posts.column(name).to_pylist() for name in ("post_id", "text", BROKEN))
    post_ids, texts, broken = columns
    media = [(views(images), uris.to_pylist()) for images, uris in media_of(posts, layout)]
    contents = [contents_of(texts, images, uris) for images, uris in media]
    of_rows: list[Answer | PooledAnswer] = []
    new: list[_New] = []

    def answer_of(row: int, place: int) -> Answer:
        answer, is_new = answers.find(contents[place][row], shard.key, first_row + row)
        images, uris = media[place]
        if is_new and uris[row] and not images[row]:
            arrivals.add(uris[row], (answer, texts[row]))
        elif is_new:
            new.append(_New(answer, texts[row], images[row]))
        return answer

    for row, post_id in enumerate(post_ids):
        if wanted is not None and first_row + row not in wanted:
            of_rows.append(Answer(result=AS_BEFORE))
            continue
        letter = no_post_id(post_id) if broken[row] is None else broken_record(broken[row])
        if letter is not None:
            of_rows.append(Answer(result=letter))
            continue
        held = [n for n, (images, uris) in enumerate(media[1:], 1) if images[row] or uris[row]]
        if not held or media[0][0][row] or media[0][1][row]:
            held.insert(0, 0)
        of_row = tuple(answer_of(row, place) for place in held)
        of_rows.append(of_row[0] if len(of_row) == 1 else PooledAnswer(of_row, labels))
    return Chunk(
        shard=shard,
        layout=layout,
        first_row=first_row,
        post_ids=post_ids,
        answers=of_rows,
        prepared=submit(new),
        kept=own,
        bytes=posts.nbytes,
    )


def look_ahead_cost(item: Chunk | Arrival | ShardEnd) -> float:
    """The share of a worker's look-ahead that an item takes, by its posts and their bytes."""
    if isinstance(item, ShardEnd):
        return 0.0
    posts = item.posts if isinstance(item, Arrival) else len(item.post_ids)
    return posts / LOOK_AHEAD_POSTS + item.bytes / LOOK_AHEAD_BYTES
