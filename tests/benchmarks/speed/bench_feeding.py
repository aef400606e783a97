"""What feeds the encoders, and what was tried to feed them better: processor time per post.

    python -m tests.benchmarks.speed.bench_feeding --model DIR [--count 256]

Ways to decode and resize, with the share of labels that stay those of full decoding and the image
processor's own resizing (posts with both modalities; images alone); ways to tokenise and to hash;
threads that decode beside the encoder; and a second run with the feature cache. In processor time,
which other load on the machine hardly changes; whole runs also by the clock, which it does.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
from PIL import Image
from xxhash import xxh3_128_digest

from drf_core.annotator import Annotator, PreparedPost
from drf_core.decoding.images import decode_image
from drf_core.decoding.resizing import Resizing, whole_pixels
from drf_core.model.processing_drf import DRFProcessor
from drf_core.runtimes.choice import available_cores
from pipelines.annotate.work import annotate_unit
from pipelines.cli import main as drf
from schemas.posts import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS
from tests.benchmarks.many_posts import Originals
from tests.benchmarks.processes import drf_annotate, in_turns, machine, table

_LIMITS = {"max_pixels": MAX_IMAGE_PIXELS, "max_bytes": MAX_IMAGE_BYTES}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="default", help="a checkpoint folder")
    parser.add_argument("--posts", help="originals: a file or folder; default: the real nights")
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        originals = Originals(arguments.posts, Path(folder))
        posts = [originals.copy(number) for number in range(arguments.count)]
        annotator = Annotator.from_pretrained(arguments.model, threads=1, runtime="auto")
        print(f"{machine()}; {arguments.count} posts; {annotator.runtime}\n")
        processor = DRFProcessor.from_pretrained(arguments.model)
        print(images(annotator, processor, posts, arguments.rounds), flush=True)
        print(texts_and_hashes(processor, posts, arguments.rounds), flush=True)
        print(runs(arguments.model, originals, Path(folder), arguments.count, arguments.rounds))


def milliseconds(work: Callable[[], object], count: int) -> float:
    """Processor milliseconds per post, of all threads."""
    began = time.process_time()
    work()
    return 1000 * (time.process_time() - began) / count


def medians(measures: dict[str, Callable[[], object]], rounds: int, count: int) -> dict[str, float]:
    """Median processor milliseconds per post of each."""
    found = in_turns(
        rounds, {name: partial(milliseconds, work, count) for name, work in measures.items()}
    )
    return {name: statistics.median(each) for name, each in found.items()}


def images(
    annotator: Annotator, processor: DRFProcessor, posts: Sequence[dict[str, Any]], rounds: int
) -> str:
    """Ways to make pixels of an image file, beside what they do to the labels."""
    resize = processor._resize
    if resize is None or processor.target is None:
        return "this checkpoint's image processor resizes in a way of its own\n"
    usable = [post for post in posts if decode_image(post["image"], **_LIMITS)[0] is not None]
    target = processor.target
    shorter = min(resize.crop or (target, target))
    ways: dict[str, tuple[int | None, Callable[[Image.Image], np.ndarray]]] = {
        "full decoding, image processor": (None, partial(whole_pixels, processor.image_processor)),
        "full decoding, resized whole in Pillow": (None, partial(resized_whole, resize)),
        "full decoding, only what stays resized": (None, resize),
        f"draft to {target} (what is done)": (target, resize),
        f"draft to {shorter}, resized up": (shorter, resize),
        f"draft to {shorter * 3 // 4}, resized up": (shorter * 3 // 4, resize),
    }

    def pixels(way: str) -> list[np.ndarray]:
        draft, resizing = ways[way]
        decoded = (decode_image(post["image"], target=draft, **_LIMITS)[0] for post in usable)
        return [resizing(image) for image in decoded if image is not None]

    costs = medians({way: partial(pixels, way) for way in ways}, rounds, len(usable))
    said = {way: labels(annotator, usable, pixels(way)) for way in ways}
    first = said[next(iter(ways))]
    rows: list[list[object]] = [["decode and resize", "ms per image", "same label", "image alone"]]
    for way, cost in costs.items():
        same = [100 * np.mean(np.equal(a, b)) for a, b in zip(said[way], first, strict=True)]
        rows.append([way, f"{cost:.2f}", *(f"{share:.1f} %" for share in same)])
    return table(rows) + "\n"


def resized_whole(resize: Resizing, image: Image.Image) -> np.ndarray:
    """The whole image resized, and the middle cut out of it."""
    height, width = resize._resized(image)
    rows, columns = resize.crop or (height, width)
    top, left = (height - rows) // 2, (width - columns) // 2
    image = image.resize((width, height), resize.resample)
    image = image.crop((left, top, left + columns, top + rows))
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def labels(
    annotator: Annotator, posts: Sequence[dict[str, Any]], pixels: Sequence[np.ndarray]
) -> tuple[list[str], list[str]]:
    """Labels of the posts with these pixels, and of the pixels alone."""
    prepared = [
        dataclasses.replace(annotator.prepare(post["text"], None), pixels=image, image_reason=None)
        for post, image in zip(posts, pixels, strict=True)
    ]
    alone = [PreparedPost(None, image, "missing", None) for image in pixels]
    both, images = annotator.predict(prepared), annotator.predict(alone)
    return [one.label for one in both], [one.label for one in images]


def texts_and_hashes(
    processor: DRFProcessor, posts: Sequence[dict[str, Any]], rounds: int, most: int = 64
) -> str:
    """Ways to tokenise a text and to hash a post's content."""
    texts = [post["text"] for post in posts if post["text"]]
    files = [post["image"] for post in posts if post["image"]]
    costs = medians(
        {
            "tokenizer's own call": lambda: [
                processor.tokenizer(text, truncation=True, max_length=most) for text in texts
            ],
            "tokenise (what is done)": lambda: [processor.token_ids(t, most) for t in texts],
            "sha256 of the image (feature cache)": lambda: [
                hashlib.sha256(file).digest() for file in files
            ],
            "keyed xxh3 of the image (work unit)": lambda: [
                xxh3_128_digest(file, 1) for file in files
            ],
        },
        rounds,
        len(posts),
    )
    rows: list[list[object]] = [["text or content", "ms per post"]]
    return table([*rows, *([name, f"{cost:.3f}"] for name, cost in costs.items())]) + "\n"


def runs(model: str, originals: Originals, folder: Path, count: int, rounds: int) -> str:
    """Whole runs in this process: threads that decode, and the feature cache, empty and full."""
    many, one = (originals.write(folder / f"posts-{n}", n) for n in (count, 1))
    cache = ("--feature-cache", str(folder / "cache"))
    numbers = iter(range(10_000))

    def annotate(posts: Path, *options: str, threads: int = available_cores()) -> Cost:
        arguments = drf_annotate(model, posts, folder / f"output-{next(numbers)}", *options)[2:]
        began = Cost(time.perf_counter(), time.process_time())
        with (
            contextlib.redirect_stdout(io.StringIO()),
            patch.object(annotate_unit, "available_cores", lambda: threads),
        ):
            if drf(arguments):
                sys.exit("drf annotate failed")
        return Cost(time.perf_counter() - began.wall, time.process_time() - began.cpu)

    annotate(one)
    empty = annotate(many, *cache)
    found = in_turns(
        rounds,
        {
            "start-up": partial(annotate, one),
            "1 decoding thread": partial(annotate, many, threads=1),
            "2 decoding threads": partial(annotate, many, threads=2),
            "4 decoding threads": partial(annotate, many, threads=4),
            "feature cache, full": partial(annotate, many, *cache),
        },
    )
    found["feature cache, empty"] = [empty]
    costs = {
        name: Cost(*(1000 * statistics.median(column) for column in zip(*each, strict=True)))
        for name, each in found.items()
    }
    start = costs.pop("start-up")
    rows: list[list[object]] = [["whole run, without start-up", "ms per post", "by the clock"]]
    for name, cost in costs.items():
        per_post = [
            (a - b) / count for a, b in zip((cost.cpu, cost.wall), start[::-1], strict=True)
        ]
        rows.append([name, *(f"{value:.2f}" for value in per_post)])
    return table(rows)


class Cost(NamedTuple):
    """Seconds by the clock, and of processors."""

    wall: float
    cpu: float


if __name__ == "__main__":
    main()
