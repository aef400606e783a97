"""The posts of a work unit: read, checked and handed to a pool that prepares them, in order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass

import pyarrow as pa

from drf_core.annotator import PreparedPost
from pipelines.annotation_rows import Result
from pipelines.plan import Shard
from pipelines.preparing import DeadLetter, no_post_id
from pipelines.reading import CorruptInputError
from schemas.errors import DRFError, SchemaError
from schemas.posts import PostsLayout, kept_columns

# What a worker reads and prepares while the model runs: enough to keep it fed, and the bound
# on what it holds, whatever the size of its work unit.
LOOK_AHEAD_POSTS = 128
LOOK_AHEAD_BYTES = 64 << 20

_CONTENT = ("text", "image", "image_uri")

Posts = tuple[PostsLayout, Iterable[tuple[Shard, int, pa.RecordBatch]]]
Prepare = Callable[[str | None, bytes | None, str | None], PreparedPost | DeadLetter]


class InputChangedError(DRFError):
    """An input file is no longer the one that was planned."""

    exit_code = 4


LASTING_ERRORS = (InputChangedError, CorruptInputError, SchemaError)


@dataclass
class Chunk:
    """Consecutive rows of one shard on their way from the file to the part.

    prepared: per row, a future or a dead letter of the check. results: by row of the chunk,
    as far as they are known. kept: the columns named with --keep. bytes: of the rows as read.
    """

    shard: Shard
    layout: PostsLayout
    first_row: int
    post_ids: list[str | None]
    prepared: list[Future[PreparedPost | DeadLetter] | DeadLetter]
    results: dict[int, Result]
    kept: pa.RecordBatch
    bytes: int


@dataclass(frozen=True)
class ShardEnd:
    """All rows of a shard were read; or, where there is a failure (one line), never will be."""

    shard: Shard
    layout: PostsLayout | None = None
    failure: str | None = None


def stream_posts(
    shards: Sequence[Shard],
    begin: Callable[[Shard], None],
    read: Callable[[Sequence[Shard]], Posts],
    prepare: Prepare,
    pool: Executor,
) -> Iterator[Chunk | ShardEnd]:
    """Yield each shard's rows as chunks, then its end; a shard that fails ends early.

    begin: called before a shard's rows are read.
    read: opens one file for its shards, in row order; gives the layout and the coerced posts
        with their shard and first source row. Raises a lasting error where it can never be
        read as planned, anything else where the fault may pass.
    prepare: text, image, image_uri -> what the model takes; runs on `pool`.
    """
    for _, of_file in itertools.groupby(shards, key=lambda shard: shard.path):
        waiting = list(of_file)
        begin(waiting[0])
        try:
            layout, batches = read(tuple(waiting))
            for shard, first_row, posts in batches:
                yield _chunk(shard, layout, first_row, posts, prepare, pool)
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


def _chunk(
    shard: Shard,
    layout: PostsLayout,
    first_row: int,
    posts: pa.RecordBatch,
    prepare: Prepare,
    pool: Executor,
) -> Chunk:
    def prepare_row(row: int) -> PreparedPost | DeadLetter:
        # Values leave Arrow here, on the pool, so that few images are held twice at a time.
        text, image, uri = (posts.column(name)[row].as_py() for name in _CONTENT)
        return prepare(text, image, uri)

    post_ids = posts.column("post_id").to_pylist()
    return Chunk(
        shard=shard,
        layout=layout,
        first_row=first_row,
        post_ids=post_ids,
        prepared=[
            no_post_id(post_id) or pool.submit(prepare_row, row)
            for row, post_id in enumerate(post_ids)
        ],
        results={},
        kept=kept_columns(posts, layout),
        bytes=posts.nbytes,
    )


def look_ahead_cost(item: Chunk | ShardEnd) -> float:
    """The share of a worker's look-ahead that an item takes, by its posts and their bytes."""
    if isinstance(item, ShardEnd):
        return 0.0
    return len(item.post_ids) / LOOK_AHEAD_POSTS + item.bytes / LOOK_AHEAD_BYTES
