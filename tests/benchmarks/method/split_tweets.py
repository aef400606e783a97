"""Set aside tweets that a checkpoint is judged by, and those that its qualities are ranked among.

    python -m tests.benchmarks.method.split_tweets TWEETS.parquet TEXTS.parquet OUTPUT

writes OUTPUT/train.parquet and OUTPUT/held_out.parquet: every seventh post of twitter-2016test-A,
by a hash of its id; and of TEXTS, tweets without labels, all but every fiftieth as
OUTPUT/unlabelled.parquet. OUTPUT/reference.parquet are 200 of the former's held-out ones, and every
fiftieth of the latter: they are of all lengths, as SemEval's are not.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq


def every(count: int, post_ids: pa.ChunkedArray) -> pa.Array:
    """Whether each id is drawn, one in count, by its hash."""
    return pa.array([zlib.crc32(post_id.encode()) % count == 0 for post_id in post_ids.to_pylist()])


def main(tweets: str, texts: str, output: str) -> None:
    """Write the files and say how many posts each has."""
    labelled, plain = pq.read_table(tweets), pq.read_table(texts)
    of_test = pa.compute.equal(labelled["source"], "twitter-2016test-A")
    held_out = pa.compute.and_(of_test, every(7, labelled["post_id"]))
    drawn = every(50, plain["post_id"])
    columns = ["post_id", "text"]
    reference = [
        labelled.filter(held_out)[:200].select(columns),
        plain.filter(drawn).select(columns),
    ]
    Path(output).mkdir(parents=True, exist_ok=True)
    for name, rows in (
        ("train", labelled.filter(pa.compute.invert(held_out))),
        ("held_out", labelled.filter(held_out)),
        ("unlabelled", plain.filter(pa.compute.invert(drawn))),
        ("reference", pa.concat_tables(reference)),
    ):
        pq.write_table(rows, Path(output, f"{name}.parquet"))
        print(f"{name}: {rows.num_rows} posts")


if __name__ == "__main__":
    main(*sys.argv[1:])
