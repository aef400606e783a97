"""What each stage of annotating costs alone, on one thread: posts per second, share of the sum.

    python -m tests.benchmarks.speed.bench_stages --model DIR [--count 512]

All in one process, stage by stage in turns, in processor time, on posts that are in memory
already (but for reading). Posts per second count all posts, those too that lack what the stage
works on.
"""

from __future__ import annotations

import argparse
import datetime
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from drf_core.annotator import Annotator, PreparedPost
from pipelines.annotate.output.part_writer import CountingPartWriter
from pipelines.annotate.work.rows import DeadLetter, Result, RunColumns, build_rows
from pipelines.storage.files import open_store
from schemas.annotations import annotations_schema
from schemas.posts import PostColumns, check_posts_schema, coerce_posts, kept_columns
from tests.benchmarks.many_posts import Originals
from tests.benchmarks.processes import heading, in_turns, table

BATCH = 64
_NOTHING = DeadLetter("check", "no_usable_modality", "")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a checkpoint folder")
    parser.add_argument("--posts", help="originals: a file or folder; default: the real nights")
    parser.add_argument("--count", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runtime", default="auto", help="as of drf annotate")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        originals = Originals(arguments.posts, Path(folder))
        posts = originals.write(Path(folder) / "posts", arguments.count)
        annotator = Annotator.from_pretrained(arguments.model, threads=1, runtime=arguments.runtime)
        stages = Stages(annotator, posts, Path(folder) / "output")
        seconds = in_turns(
            arguments.rounds,
            {name: partial(_seconds, stage) for name, stage in stages.all().items()},
        )
    medians = {name: statistics.median(rounds) for name, rounds in seconds.items()}
    total = sum(medians.values())
    given = (annotator.runtime, "one thread")
    print(heading(arguments.count, originals.name, arguments.model, *given))
    rows: list[list[object]] = [["stage", "posts/s", "share"]]
    for name, median in medians.items():
        rows.append([name, f"{arguments.count / median:,.0f}", f"{100 * median / total:.1f} %"])
    print(table([*rows, ["sum", f"{arguments.count / total:,.0f}", ""]]))


def _seconds(stage: Callable[[], None]) -> float:
    began = time.process_time()
    stage()
    return time.process_time() - began


class Stages:
    """The stages of annotating the posts of one folder, each to be run alone."""

    def __init__(self, annotator: Annotator, posts: Path, scratch: Path) -> None:
        self._annotator = annotator
        self._posts = posts
        self._scratch = scratch
        self._run = RunColumns(annotator.labels, "model", "revision", "run")
        rows = [row for batch in self._batches() for row in batch.to_pylist()]
        self._texts = [row["text"] for row in rows]
        self._images = [row["image"] for row in rows]
        prepared = [annotator.prepare(row["text"], row["image"]) for row in rows]
        self._prepared = [post for post in prepared if post.usable]
        predictions = iter(annotator.predict(self._prepared))
        self._results: list[Result] = [
            next(predictions) if post.usable else _NOTHING for post in prepared
        ]
        self._features = [annotator.encode(batch) for batch in self._prepared_batches()]

    def all(self) -> dict[str, Callable[[], None]]:
        """Every stage by its name, in order."""
        return {
            "read": self.read,
            "decode and resize": self.decode,
            "tokenise": self.tokenise,
            "encode texts": self.encode_texts,
            "encode images": self.encode_images,
            "head": self.head,
            "build and write rows": self.write,
        }

    def read(self) -> None:
        for batch in self._batches():
            batch.to_pylist()

    def decode(self) -> None:
        for image in self._images:
            self._annotator.prepare(None, image)

    def tokenise(self) -> None:
        for text in self._texts:
            self._annotator.prepare(text, None)

    def encode_texts(self) -> None:
        for batch in self._prepared_batches():
            self._annotator.encode_texts([p.token_ids for p in batch if p.token_ids is not None])

    def encode_images(self) -> None:
        for batch in self._prepared_batches():
            self._annotator.encode_images([p.pixels for p in batch if p.pixels is not None])

    def head(self) -> None:
        for batch, features in zip(self._prepared_batches(), self._features, strict=True):
            self._annotator.conclude(batch, *features)

    def write(self) -> None:
        schema = annotations_schema(self._run.labels)
        writer = CountingPartWriter(open_store(str(self._scratch)), "part.parquet", schema)
        now = datetime.datetime.now(datetime.timezone.utc)
        for start in range(0, len(self._results), BATCH):
            results = self._results[start : start + BATCH]
            ids = [f"{start + row}" for row in range(len(results))]
            kept = self._kept.slice(0, len(results))
            rows, _ = build_rows(self._run, "file", start, ids, results, kept, now)
            writer.add(rows)
        writer.close()
        writer.discard()

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for path in sorted(self._posts.iterdir()):
            file = pq.ParquetFile(path)
            layout = check_posts_schema(file.schema_arrow, PostColumns(), (), path.name)
            for batch in file.iter_batches(BATCH, use_threads=False):
                posts = coerce_posts(batch, layout)
                self._kept = kept_columns(posts, layout)
                yield posts

    def _prepared_batches(self) -> list[list[PreparedPost]]:
        size = self._annotator.batch_size
        return [
            self._prepared[start : start + size] for start in range(0, len(self._prepared), size)
        ]


if __name__ == "__main__":
    main()
