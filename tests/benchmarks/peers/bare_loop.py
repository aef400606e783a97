"""A loop without Beam over the annotator, as good as one would write it for one machine.

Threads read, decode and tokenise ahead while the encoders run; a window of posts goes to the
annotator at once. Nothing is checked, committed or written: the labels are counted. Prints
start-up and loop in seconds, the loop's processor time, and the labels, as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow.parquet as pq

if TYPE_CHECKING:
    from drf_core.annotator import Annotator, PreparedPost

# Large enough that texts about equally long are found for a batch.
WINDOW = 256
AHEAD = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--posts", required=True, help="a folder")
    parser.add_argument("--runtime", default="auto")
    arguments = parser.parse_args()
    began = time.perf_counter()
    # As `drf annotate` has it: threads that wait do not take a core from those that decode.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

    from transformers.utils import logging

    from drf_core.annotator import Annotator
    from pipelines.storage.local import cache_folder

    logging.disable_progress_bar()
    annotator = Annotator.from_pretrained(
        arguments.model, runtime=arguments.runtime, cache=cache_folder("encoders")
    )
    loaded, before = time.perf_counter(), time.process_time()
    labels = count_labels(annotator, Path(arguments.posts))
    ended, cpu = time.perf_counter(), time.process_time() - before
    times = {"startup": loaded - began, "loop": ended - loaded, "cpu": cpu}
    print(json.dumps({**times, "labels": labels, "runtime": str(annotator.runtime)}))


def count_labels(annotator: Annotator, posts: Path) -> Counter[str]:
    """Annotate all posts that have something to annotate from."""
    from drf_core.runtimes.choice import available_cores

    labels: Counter[str] = Counter()
    with ThreadPoolExecutor(available_cores()) as pool:
        for window in _windows(annotator, posts, pool):
            prepared = [future.result() for future in window]
            usable = [post for post in prepared if post.usable]
            labels.update(prediction.label for prediction in annotator.predict(usable))
    return labels


def _windows(
    annotator: Annotator, posts: Path, pool: ThreadPoolExecutor
) -> Iterator[list[Future[PreparedPost]]]:
    waiting: deque[list[Future[PreparedPost]]] = deque()
    for path in sorted(posts.rglob("*.parquet")):
        for batch in pq.ParquetFile(path).iter_batches(WINDOW, columns=["text", "image"]):
            rows = zip(*(column.to_pylist() for column in batch.columns), strict=True)
            waiting.append([pool.submit(annotator.prepare, text, image) for text, image in rows])
            if len(waiting) > AHEAD:
                yield waiting.popleft()
    yield from waiting


if __name__ == "__main__":
    main()
