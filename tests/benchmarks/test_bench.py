"""Every benchmark runs from corpus to table, at toy size; what they measure with is sound."""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

import pyarrow.parquet as pq
import pytest

from drf_core.decoding.images import decode_image
from pipelines.annotate.fetch import fetcher
from pipelines.sample.command import make_sample
from tests.benchmarks import processes
from tests.benchmarks.many_posts import Originals, changed_image, read_posts
from tests.benchmarks.peers import bench_downloads, bench_peers
from tests.benchmarks.speed import (
    bench_addresses,
    bench_corpus,
    bench_decoders,
    bench_feeding,
    bench_gpu,
    bench_gpu_runs,
    bench_memory,
    bench_overhead,
    bench_stages,
    bench_startup,
    bench_ways,
)

Bench = Callable[..., str]


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "posts"
    make_sample(folder)
    return folder


@pytest.fixture
def bench(
    sample: Path,
    tiny_checkpoint: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Bench:
    """Runs a benchmark on the sample posts; what it starts, starts in this process."""
    monkeypatch.setattr(processes, "spawn", in_this_process)

    def call(main: Callable[[Sequence[str]], None], *options: str, model: bool = True) -> str:
        given = ["--model", str(tiny_checkpoint)] if model else []
        main([*given, *options])
        return capsys.readouterr().out

    return call


def in_this_process(
    arguments: Sequence[str], environment: Mapping[str, str], out: IO[str], every: float
) -> tuple[int, list[tuple[float, float]]]:
    """Like `spawn`, but torch and Beam are imported already."""
    assert arguments[0] == "-m"
    # Beam's workers in processes of their own would import both anew.
    arguments = [a for a in arguments if not a.startswith("--direct_running_mode")]
    before, given = dict(os.environ), sys.argv
    status = 0
    with contextlib.redirect_stdout(out), warnings.catch_warnings():
        os.environ.update(environment)
        sys.argv = list(arguments[1:])
        try:
            # It is imported here, too, under its own name.
            warnings.simplefilter("ignore", RuntimeWarning)
            runpy.run_module(arguments[1], run_name="__main__")
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            sys.argv = given
            os.environ.clear()
            os.environ.update(before)
    return status, [(0.0, 1.0), (1.0, 2.0)]


def figures(page: str) -> dict[str, list[float]]:
    """The rows of a page's tables: name -> its numbers."""
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| ")]
    return {
        name.strip(): [float(n.replace(",", "")) for n in re.findall(r"\d[\d.,]*", " ".join(row))]
        for name, *row in rows
        if name.strip()
    }


@pytest.fixture
def sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured beside each other runs in this process."""

    def here(arguments: Sequence[str], most: float | None = None) -> tuple[float, float, float]:
        began, used = time.perf_counter(), time.process_time()
        with Path(os.devnull).open("w") as nowhere:
            status, _ = in_this_process(arguments, {}, nowhere, 0.1)
        assert not status
        return time.perf_counter() - began, time.process_time() - used, 1.0

    monkeypatch.setattr(bench_peers, "sampled", here)
    monkeypatch.setattr(bench_downloads, "sampled", here)


def test_the_job_stands_beside_what_one_would_use_instead(
    bench: Bench, sample: Path, sampled: None
) -> None:
    names = ("drf annotate", "bare loop", "plain script")
    page = bench(
        bench_peers.main, "--posts", str(sample), *("--count", "90", "--rounds", "1"),
        *("--only", *names),
    )  # fmt: skip
    speed, losses = page.split("posts/s")[1], page.split("lost of a broken image")[1]
    assert [len(row) for row in figures(speed).values()][:3] == [4, 4, 4]
    assert all(f"drf annotate / {name}, rate: " in page for name in names[1:])
    # What is done already is not done again, but by the script.
    assert figures(losses)["drf annotate"][:3] == figures(losses)["plain script"][:3] == [0, 0, 0]


def test_posts_behind_addresses_stand_beside_the_same_with_bytes(
    bench: Bench, sample: Path, sampled: None
) -> None:
    names = ("drf annotate, addresses", "drf annotate, bytes")
    page = bench(
        bench_downloads.main, "--posts", str(sample), *("--count", "40", "--rounds", "1"),
        *("--latency", "0.01", "--only", *names),
    )  # fmt: skip
    assert [len(row) for row in figures(page).values()] == [4, 4]
    assert f"{names[0]} / {names[1]}, rate: " in page


def test_every_stage_is_measured_and_has_its_share(bench: Bench, sample: Path) -> None:
    page = bench(bench_stages.main, "--posts", str(sample), "--count", "70", "--rounds", "1")
    found = figures(page)
    total = found.pop("sum")[0]
    stages = {name: row for name, row in found.items() if len(row) == 2}
    assert len(stages) == 7
    assert sum(share for _, share in stages.values()) == pytest.approx(100, abs=1)
    assert all(rate >= total for rate, _ in stages.values())


def test_what_was_tried_to_feed_the_encoders_is_measured(bench: Bench, sample: Path) -> None:
    found = figures(
        bench(bench_feeding.main, "--posts", str(sample), "--count", "30", "--rounds", "1")
    )
    assert found["full decoding, image processor"][1:] == [100, 100]
    whole = found["full decoding, resized whole in Pillow"]
    assert whole[1:] == [100, 100]
    assert {"2 decoding threads", "feature cache, full", "tokenise (what is done)"} <= set(found)


def test_the_job_is_measured_without_a_model(bench: Bench) -> None:
    page = bench(bench_overhead.main, "--count", "50", "--kilobytes", "2", "--rounds", "1")
    assert {"drf annotate, no-op model", "bare loop"} <= set(figures(page))


def test_memory_is_measured_by_size(bench: Bench, sample: Path) -> None:
    page = bench(bench_memory.main, "--posts", str(sample), "--sizes", "20", "40")
    assert figures(page)["40"][1:3] == [2, 1]  # the stand-in for memory: 2 MB both times


def test_training_and_evaluation_are_measured_by_size(bench: Bench, sample: Path) -> None:
    page = bench(bench_corpus.main, "--posts", str(sample), "--sizes", "120", model=False)
    assert figures(page)["`drf train`"][0] == figures(page)["`drf evaluate`"][0] == 120


def test_starts_are_measured(bench: Bench, sample: Path) -> None:
    page = bench(bench_startup.main, "--posts", str(sample), "--shards", "50", "--rounds", "1")
    assert list(figures(page)) == [
        "drf --help",
        "one post, first start",
        "one post, later start",
        "nothing to do, 50 shards in 50 files",
        "nothing to do, 50 shards in 1 files",
    ]


def test_missing_modalities_are_measured_by_share(bench: Bench, sample: Path) -> None:
    page = bench(
        bench_ways.main, "missing", "--posts", str(sample), *("--count", "30", "--shares", "0", "1")
    )
    names = {"as they come", "100% of images missing", "100% of texts missing"}
    assert names <= set(figures(page))


def test_processes_are_compared(bench: Bench, sample: Path) -> None:
    page = bench(
        bench_ways.main, "processes", "--posts", str(sample), *("--count", "30", "--rounds", "1"),
    )  # fmt: skip
    assert {"one process", "2 processes"} <= set(figures(page))


def test_commits_are_compared(bench: Bench, sample: Path, tiny_checkpoint: Path) -> None:
    page = bench(
        bench_ways.main, "commits", "--posts", str(sample), *("--count", "30", "--shares", "0"),
        *("--before", str(Path(__file__).parents[2]), "--before-model", str(tiny_checkpoint)),
    )  # fmt: skip
    assert {"before", "now"} <= set(figures(page))


def test_addresses_are_fetched_from_a_server_of_its_own(
    sample: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fetcher, "_SILENT_SECONDS", 1.0)
    monkeypatch.setattr(fetcher, "_PROBE_SECONDS", 1.0)
    monkeypatch.setenv("no_proxy", "*")
    bench_addresses.main(["--posts", str(sample), "--count", "90", "--latency", "0.01"])
    rates = figures(capsys.readouterr().out)
    assert [rates[name][-1] for name in rates if name.startswith("drf")] == [90, 90, 3]


def test_the_gpu_scripts_run_on_a_cpu(
    bench: Bench, sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = bench(
        bench_gpu.main, "--device", "cpu", "--posts", str(sample), *("--layers", "1"),
        *("--matrix", "64", "--batch-size", "2", "--measured", "2", "--rounds", "1"),
        *("--ways", "served", "captured"), model=False,
    )  # fmt: skip
    lines = [line for line in page.splitlines() if line.startswith(("| large", "| small"))]
    assert len(lines) == 4
    # Without a GPU nothing can be captured, which is told in its place.
    assert [line.count("|") for line in lines] == [12, 5, 12, 5]
    bench_gpu_runs.main(["--device", "cpu", "--posts", str(sample), "--count", "9", "--models"])
    page = capsys.readouterr().out
    assert "torch f32 on cpu beside torch f32 on cpu" in page
    assert page.count("| 100.00 % | 100.00 % |") == 4


def test_decoders_are_measured_beside_nothing_and_a_busy_thread(
    capsys: pytest.CaptureFixture[str],
) -> None:
    bench_decoders.main(["--count", "16"])
    lines = capsys.readouterr().out.splitlines()[3:]
    assert [line.split(" | ")[0] for line in lines] == ["| nothing"] * 2 + ["| a busy thread"] * 2


def test_no_two_copies_are_alike_and_all_decode_as_their_originals(sample: Path) -> None:
    originals = Originals(str(sample), sample)
    count = len(originals.posts)
    seen, full = set(), 0
    for number in range(5 * count):
        original, copy = originals.posts[number % count], originals.copy(number)
        assert (copy["text"] is None, copy["image"] is None) == (
            original["text"] is None,
            original["image"] is None,
        )
        if copy["image"] or (copy["text"] or "").strip():
            seen.add((copy["text"], copy["image"]))
            full += 1
        reasons = [
            decode_image(post["image"], max_pixels=10**7, max_bytes=10**7)[1]
            for post in (original, copy)
        ]
        assert reasons[0] == reasons[1]
    assert len(seen) == full


def test_the_pixels_of_a_changed_jpeg_move_a_little() -> None:
    from tests.data.corpora import image_bytes

    data = image_bytes(3, size=(64, 64), quality=80)
    pictures = [
        decode_image(changed, max_pixels=10**6, max_bytes=10**6)[0].tobytes()
        for changed in (data, changed_image(data, 1), changed_image(data, 2))
    ]
    assert len(set(pictures)) == 3
    assert all(
        sum(abs(a - b) for a, b in zip(pictures[0], other, strict=True)) / len(other) < 4
        for other in pictures[1:]
    )


def test_a_corpus_has_as_many_posts_as_asked_for(sample: Path, tmp_path: Path) -> None:
    folder = Originals(str(sample), tmp_path).write(tmp_path / "many", 250, rows_per_file=100)
    assert [pq.ParquetFile(path).metadata.num_rows for path in sorted(folder.iterdir())] == [
        *(100, 100, 50)
    ]
    ids = [post["post_id"] for post in read_posts(folder) if post["post_id"]]
    assert len(ids) == len(set(ids)) + _repeated(sample, 250)


def _repeated(sample: Path, count: int) -> int:
    """How many ids repeat another one, in so many posts of the sample's copies."""
    ids = [post["post_id"] for post in read_posts(sample)]
    turns = [ids[: count - start] for start in range(0, count, len(ids))]
    return sum(len([i for i in turn if i]) - len({i for i in turn if i}) for turn in turns)


def test_peak_memory_counts_children_too() -> None:
    held = "import time; kept = bytearray(80 << 20); time.sleep(0.6)"
    alone = processes.run("-c", held, every=0.05)
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {held!r}]); print(1)"
    child = processes.run("-c", nested, every=0.05)
    assert 80 < alone.peak < child.peak < 400
    assert child.out == "1\n" and child.seconds >= 0.6
    assert len(child.memory) > 5


def test_processor_time_counts_children_too_and_no_sleep() -> None:
    busy = "import time\nwhile time.process_time() < 0.5: pass"
    nested = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    assert processes.run("-c", nested).cpu >= 0.5
    assert processes.run("-c", "import time; time.sleep(0.6)").cpu < 0.5


def test_a_process_that_fails_ends_the_benchmark() -> None:
    with pytest.raises(SystemExit, match="exit status 3"):
        processes.run("-c", "raise SystemExit(3)")


def test_rounds_are_compared_each_with_itself() -> None:
    assert processes.ratio([2, 30, 4], [1, 10, 1]) == (3, "3.00 (rounds 2.00 to 4.00)")


def test_turns_alternate() -> None:
    order: list[str] = []
    measures = {name: lambda name=name: order.append(name) for name in "abc"}
    processes.in_turns(2, measures)
    assert "".join(order) == "abccba"
