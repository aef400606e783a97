"""Set aside part of SemEval 2016's test from the labelled tweets, to be judged by.

    python -m tests.benchmarks.method.split_tweets TWEETS.parquet OUTPUT

writes OUTPUT/train.parquet and OUTPUT/held_out.parquet: every seventh post of twitter-2016test-A,
by a hash of its id; and OUTPUT/reference.parquet, the first 200 of these, to rank qualities among.
"""

from __future__ import annotations

import sys
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq


def is_held_out(post_id: str, source: str) -> bool:
    """Whether a tweet is judged by, and not learned from."""
    return source == "twitter-2016test-A" and zlib.crc32(post_id.encode()) % 7 == 0


def main(tweets: str, output: str) -> None:
    """Write both files and say how many posts each has."""
    table = pq.read_table(tweets)
    pairs = zip(table["post_id"].to_pylist(), table["source"].to_pylist(), strict=True)
    held_out = pa.array([is_held_out(post, source) for post, source in pairs])
    Path(output).mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", table.filter(pa.compute.invert(held_out))),
                       ("held_out", table.filter(held_out)),
                       ("reference", table.filter(held_out)[:200])):  # fmt: skip
        pq.write_table(rows, Path(output, f"{name}.parquet"))
        print(f"{name}: {rows.num_rows} posts")


if __name__ == "__main__":
    main(*sys.argv[1:])
