"""img2dataset fetches the images of posts into files, and the plain script annotates those.

    python -m tests.benchmarks.peers.download_then_script --posts DIR --output DIR [--model DIR]

Without --model the images are only fetched. --posts: post_id, text and image_uri.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.peers.plain_script import plain

# As its documentation recommends for a machine of few cores.
_THREADS = 256


def main() -> None:
    """Fetch, and annotate."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--posts", required=True)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--model")
    arguments = parser.parse_args()
    from img2dataset import download

    fetched = arguments.output / "fetched"
    download(
        url_list=arguments.posts,
        input_format="parquet",
        url_col="image_uri",
        save_additional_columns=["post_id", "text"],
        output_folder=str(fetched),
        output_format="parquet",
        processes_count=1,
        thread_count=_THREADS,
        resize_mode="no",
        number_sample_per_shard=1000,
        disallowed_header_directives=[],
    )
    if arguments.model is None:
        return
    posts = arguments.output / "posts"
    posts.mkdir()
    shards = [pq.read_table(path) for path in sorted(fetched.glob("*.parquet"))]
    table = pa.concat_tables(shards, promote_options="permissive").select(
        ["post_id", "text", "jpg"]
    )
    pq.write_table(table.rename_columns(["post_id", "text", "image"]), posts / "posts.parquet")
    plain(arguments.model, str(posts), arguments.output / "labels")


if __name__ == "__main__":
    main()
