"""How fast images behind addresses are fetched.

    python -m tests.benchmarks.speed.bench_addresses

A server of this machine, a process of its own, answers each request after --latency seconds;
the hosts are addresses of the loopback device. One host in ten is silent in the second row,
and thirty posts share an address in the third.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pipelines.annotate.fetch.arrivals import Arrivals
from pipelines.annotate.fetch.fetcher import ImageFetcher
from tests.benchmarks.many_posts import Originals
from tests.benchmarks.processes import table

HOSTS = 10


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2_000)
    parser.add_argument("--latency", type=float, default=0.2)
    parser.add_argument("--posts", help="whose images are served; default: the real nights")
    arguments = parser.parse_args(argv)
    os.environ["no_proxy"] = "*"
    with tempfile.TemporaryDirectory() as folder:
        originals = Originals(arguments.posts, Path(folder))
    images = [post["image"] for post in originals.posts if post["image"]]
    ports: multiprocessing.Queue[int] = multiprocessing.Queue()
    server = multiprocessing.Process(
        target=serve, args=(images, arguments.latency, ports), daemon=True
    )
    server.start()
    port = ports.get()
    hosts = [f"http://127.0.0.{host + 2}:{port}" for host in range(HOSTS)]
    silent = f"http://127.0.0.{HOSTS + 2}:{port}"
    plain = [f"{hosts[i % HOSTS]}/{i}.jpg" for i in range(arguments.count)]
    some_silent = [f"{silent}/{i}" if i % 10 == 0 else url for i, url in enumerate(plain)]
    retweets = [plain[i // 30] for i in range(arguments.count)]
    rows: list[list[object]] = [["", "images/s", "CPU ms/image", "seconds", "requests"]]
    for name, urls in (
        ("drf", plain),
        ("drf, one host of ten silent", some_silent),
        ("drf, 30 retweets of each", retweets),
    ):
        seconds, cpu, images_had, requests = fetch([*hosts, silent], urls)
        rows.append(
            [name, f"{images_had / seconds:.0f}", f"{1e3 * cpu / images_had:.2f}", f"{seconds:.1f}",
             requests]
        )  # fmt: skip
    server.terminate()
    print(table(rows))


def fetch(prefixes: Sequence[str], urls: Sequence[str]) -> tuple[float, float, int, int]:
    """Seconds, processor seconds, posts with an image, and addresses asked."""
    fetcher = ImageFetcher(prefixes, 20_000_000)
    began, used = time.perf_counter(), time.process_time()
    arrivals: Arrivals[int] = Arrivals(fetcher)
    had = 0
    for number, url in enumerate(urls):
        arrivals.add(url, number)
        while len(arrivals) > 1024:
            had += sum(got.content is not None for _, got in arrivals.take(wait=True))
    for came in arrivals.rest():
        had += sum(got.content is not None for _, got in came)
    seconds, cpu = time.perf_counter() - began, time.process_time() - used
    requests = sum(number for _, _, number in arrivals.take_counts())
    fetcher.close()
    return seconds, cpu, had, requests


def serve(images: list[bytes], latency: float, ports: multiprocessing.Queue[int]) -> None:
    """Answers any path with an image after a while; the host after the last one never does."""
    from aiohttp import web

    async def answer(request: web.Request) -> web.Response:
        silent = request.host.startswith(f"127.0.0.{HOSTS + 2}:")
        await asyncio.sleep(3600 if silent else latency)
        number = int(request.path.strip("/").partition(".")[0])
        return web.Response(body=images[number % len(images)], content_type="image/jpeg")

    async def run() -> None:
        application = web.Application()
        application.router.add_get("/{name}", answer)
        runner = web.AppRunner(application, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "0.0.0.0", 0, backlog=1024)
        await site.start()
        ports.put(runner.addresses[0][1])
        await asyncio.sleep(3600)

    # The parent may end first.
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    asyncio.run(run())


if __name__ == "__main__":
    sys.exit(main())
