"""Posts whose images are behind addresses: `drf annotate` beside img2dataset and a script.

    pip install -r tests/benchmarks/peers/requirements.txt        # in an environment of its own
    python -m tests.benchmarks.peers.bench_downloads --model DIR [--count 2000] [--rounds 3]

A server of this machine answers each request after --latency seconds, as ten hosts. The same
posts with the bytes inside, with addresses, fetched by img2dataset alone, and by it with the plain
script after. Speed is that of the posts beside a run on one, which is the start-up.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.benchmarks.many_posts import Originals, read_posts
from tests.benchmarks.peers.bench_peers import Command, measure, sampled, show_speed
from tests.benchmarks.processes import drf_annotate, heading, in_turns
from tests.benchmarks.speed.bench_addresses import HOSTS, serve

_SCRIPT = ("-m", "tests.benchmarks.peers.download_then_script")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="a checkpoint folder")
    parser.add_argument("--posts", help="originals: a file or folder; default: the real nights")
    parser.add_argument("--count", type=int, default=2_000)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", help="names of those to measure; default: all")
    arguments = parser.parse_args(argv)
    os.environ["no_proxy"] = "*"
    model = arguments.model
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        originals = Originals(arguments.posts, root)
        # Only what is served as it is: an image that is no image is retried by some and not others.
        originals.posts = [p for p in originals.posts if (p["image"] or b"")[:2] == b"\xff\xd8"]
        ports: multiprocessing.Queue[int] = multiprocessing.Queue()
        sources = {n: originals.write(root / str(n), n) for n in (1, arguments.count)}
        images = [post["image"] for post in read_posts(sources[arguments.count])]
        server = multiprocessing.Process(
            target=serve, args=(images, arguments.latency, ports), daemon=True
        )
        server.start()
        port = ports.get()
        behind = {n: _with_addresses(f, root / f"addresses-{n}", port) for n, f in sources.items()}
        prefixes = [
            word
            for host in range(HOSTS)
            for word in ("--image-uri-prefix", f"http://127.0.0.{host + 2}:{port}/")
        ]

        def ours(posts: Path, output: Path) -> Sequence[str]:
            return drf_annotate(model, posts, output, *prefixes)

        def fetched(posts: Path, output: Path) -> Sequence[str]:
            return (*_SCRIPT, "--posts", str(posts), "--output", str(output))

        def fetched_then_labelled(posts: Path, output: Path) -> Sequence[str]:
            return (*fetched(posts, output), "--model", model)

        commands: dict[str, tuple[Command, dict[int, Path]]] = {
            "drf annotate, addresses": (ours, behind),
            "drf annotate, bytes": (partial(drf_annotate, model), sources),
            "img2dataset alone": (fetched, behind),
            "img2dataset, then the plain script": (fetched_then_labelled, behind),
        }
        # Encoders are converted once.
        sampled(ours(behind[1], root / "first"))
        print(heading(arguments.count, originals.name, model, f"{arguments.latency} s a request"))
        show_speed(
            in_turns(
                arguments.rounds,
                {
                    name: partial(measure, c, of[1], of[arguments.count], arguments.count)
                    for name, (c, of) in commands.items()
                    if not arguments.only or name in arguments.only
                },
            )
        )
        server.terminate()


def _with_addresses(posts: Path, folder: Path, port: int) -> Path:
    """The same posts, with an address each in place of the bytes."""
    folder.mkdir()
    for path in sorted(posts.iterdir()):
        table = pq.read_table(path)
        numbers = range(table.num_rows)
        addresses = [f"http://127.0.0.{n % HOSTS + 2}:{port}/{n}.jpg" for n in numbers]
        table = table.drop_columns(["image"]).append_column("image_uri", pa.array(addresses))
        pq.write_table(table, folder / path.name)
    return folder


if __name__ == "__main__":
    main()
