"""Peak memory and speed of `drf train` and `drf evaluate` against the number of posts.

    python -m tests.benchmarks.speed.bench_corpus [--sizes 20000 200000] [--side 32]

Copies of real posts (many_posts.py) with labels in turn, their images made small, which saves
time; one epoch over frozen small encoders, one kind of damage. The evaluation damages in all kinds
and draws 20 resamples, which hold as much at once as 2,000. Resident memory of the process and its
children, among it pages of files that are mapped and that the kernel takes back when it needs
them. The file runs in a clone of another commit, too.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from drf_core.decoding.images import decode_image
from tests.benchmarks.many_posts import Originals
from tests.benchmarks.processes import machine, run, table

_CONFIG = {
    "small": {
        "text": {"hidden": 64, "layers": 1, "vocabulary": 2000},
        "image": {"widths": [8, 16, 64], "side": 32},
    },
    "training": {
        "epochs": 1,
        "train_text_encoder": False,
        "text_kinds": ["corrupt"],
        "image_kinds": ["corrupt"],
    },
}
_SCHEMA = pa.schema([(name, pa.string()) for name in ("post_id", "text", "label")]).append(
    pa.field("image", pa.binary())
)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--posts", help="originals: a file or folder; default: the real nights")
    parser.add_argument("--sizes", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--side", type=int, default=32, help="longer side of the images")
    parser.add_argument("--scratch", help="folder for the posts; default: the system's")
    arguments = parser.parse_args(argv)
    rows: list[list[object]] = [["", "posts", "seconds", "CPU ms/post", "posts/s", "peak MB"]]
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as folder:
        originals = Originals(arguments.posts, Path(folder))
        for post in originals.posts:
            post["image"] = _small(post["image"], arguments.side)
        labels = ("negative", "neutral", "positive")
        config = Path(folder) / "config.json"
        config.write_text(json.dumps(_CONFIG))
        print(machine())
        for size in arguments.sizes:
            root = Path(folder) / str(size)
            _write(root, originals, labels, size)
            given = ("--posts", str(root / "posts.parquet"), "--device", "cpu")
            for name, options in (
                ("train", ("--text-encoder", "small", "--image-encoder", "small",
                           "--config", str(config), "--output", str(root / "model"))),
                ("evaluate", ("--model", str(root / "model"), "--output", str(root / "figures"))),
            ):  # fmt: skip
                done = run("-m", __spec__.name, name, *given, *options)
                rows.append(
                    [f"`drf {name}`", f"{size:,}", f"{done.seconds:.0f}",
                     f"{1000 * done.cpu / size:.2f}", f"{size / done.seconds:.0f}",
                     f"{done.peak:.0f}"]
                )  # fmt: skip
                print(table(rows[:1] + rows[-1:]).splitlines()[-1], flush=True)
            (root / "posts.parquet").unlink()
    print("\n" + table(rows))


def _small(image: bytes | None, side: int) -> bytes | None:
    picture, _ = decode_image(image, max_pixels=10**8, max_bytes=10**8)
    if picture is None:
        return image
    picture.thumbnail((side, side))
    found = io.BytesIO()
    picture.convert("RGB").save(found, "JPEG", quality=85)
    return found.getvalue()


def _write(folder: Path, originals: Originals, labels: Sequence[str], count: int) -> None:
    folder.mkdir()
    with pq.ParquetWriter(folder / "posts.parquet", _SCHEMA, use_dictionary=False) as writer:
        for start in range(0, count, 250):
            posts = _copies(originals, labels, range(start, min(start + 250, count)))
            writer.write_table(pa.Table.from_pylist(list(posts), _SCHEMA))


def _copies(
    originals: Originals, labels: Sequence[str], numbers: range
) -> Iterator[dict[str, Any]]:
    for number in numbers:
        yield {**originals.copy(number), "label": labels[number % len(labels)]}


def _drf(arguments: Sequence[str]) -> int:
    from pipelines.cli import main as drf
    from pipelines.evaluate import command

    command.RESAMPLES = 20
    return drf(list(arguments))


if __name__ == "__main__":
    sys.exit(_drf(sys.argv[1:]) if sys.argv[1] in ("train", "evaluate") else main())
