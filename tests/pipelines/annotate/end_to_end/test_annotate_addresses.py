"""Posts whose images are behind addresses: fetched side by side, each address once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.transforms.window import FixedWindows, TimestampedValue

from pipelines.annotate.fetch import fetcher as fetching
from pipelines.annotate_posts import AnnotatePosts
from tests.data.corpora import make_posts, write_posts
from tests.support.running import Output, Run
from tests.support.services.image_server import ImageServer, image_server

Annotate = Callable[..., Run]


@pytest.fixture(autouse=True)
def local(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, and little patience."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr(fetching, "_FIRST_BACK_OFF_SECONDS", 0.01)
    monkeypatch.setattr(fetching, "_SILENT_SECONDS", 4.0)
    monkeypatch.setattr(fetching, "_PROBE_SECONDS", 4.0)


@pytest.fixture
def server() -> Iterator[ImageServer]:
    with image_server() as server:
        yield server


# The runner works in this process, and pickles functions of a module by their name.
_FOUND: list[Any] = []


def collect(found: Any) -> None:
    _FOUND.append(found)


def write_addresses(path: Path, addresses: Sequence[str]) -> Path:
    posts = [
        {"post_id": str(row), "text": f"a sunny day, {row}", "image_uri": address}
        for row, address in enumerate(addresses)
    ]
    types = dict.fromkeys(("post_id", "text", "image_uri"), pa.string())
    return write_posts(path, posts, types=types)


def reasons(output: Output) -> dict[str, str | None]:
    return {row["post_id"]: row["image_reason"] for row in output.annotations}


def test_thirty_retweets_of_a_picture_are_one_request_and_thirty_annotations(
    tmp_path: Path, annotate: Annotate, output: Output, server: ImageServer
):
    source = write_addresses(tmp_path / "posts.parquet", [f"{server.url}/a.jpg"] * 30)

    run = annotate(source, "--image-uri-prefix", server.url)

    assert set(reasons(output).values()) == {None}
    assert len(output.annotations) == 30
    assert server.asked == ["/a.jpg"]
    assert run.manifest["fetched"] == {server.url: {"fetched": 1}}


def test_a_retry_asks_for_the_rows_concerned_and_makes_no_good_row_worse(
    tmp_path: Path, annotate: Annotate, output: Output, server: ImageServer
) -> None:
    # c comes the first time and never again, d and e the second time; f has no text.
    names = ["a.jpg", "b.jpg?status=404", "c.jpg", "d.jpg?status=503&times=1"]
    posts = [
        {"post_id": str(row), "text": f"day {row}", "image_uri": f"{server.url}/{name}"}
        for row, name in enumerate(names)
    ]
    posts.append(
        {"post_id": "e", "text": None, "image_uri": f"{server.url}/e.jpg?status=403&times=1"}
    )
    posts.append({"post_id": None, "text": "t", "image_uri": None})
    types = dict.fromkeys(("post_id", "text", "image_uri"), pa.string())
    source = write_posts(tmp_path / "posts.parquet", posts, types=types)
    options = ("--image-uri-prefix", server.url, "--max-dead-letter-share", "1")
    options += ("--max-fetch-failed-share", "1")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetching, "_TRIES", 1)
        assert annotate(source, *options).code == 0
    before = {row["post_id"]: row for row in output.annotations}
    assert reasons(output) == {"0": None, "1": "gone", "2": None, "3": "busy"}
    assert [row["source_row"] for row in output.dead_letters] == [4, 5]
    asked = len(server.asked)

    retried = annotate(source, *options, "--retry", "fetch_failed")

    assert retried.code == 0
    assert (retried.manifest["computed_rows"], retried.manifest["skipped_rows"]) == (3, 3)
    again = [name for name in server.asked[asked:] if "?" in name]
    assert len(again) == len(server.asked[asked:]) == 3
    assert reasons(output) == {"0": None, "1": "gone", "2": None, "3": None, "e": None}
    after = {row["post_id"]: row for row in output.annotations}
    assert [after[name] for name in "02"] == [before[name] for name in "02"]
    assert [row["source_row"] for row in output.dead_letters] == [5]
    assert output.places() == [("posts.parquet", row) for row in range(6)]


def test_rows_and_summary_tell_why_images_did_not_come(
    tmp_path: Path,
    annotate: Annotate,
    drf: Callable[..., Run],
    output: Output,
    server: ImageServer,
):
    with image_server() as silent:
        silent.speaks.clear()
        addresses = {
            f"{server.url}/images/a.jpg": None,
            f"{server.url}/images/b.jpg?status=503&times=1": None,
            f"{server.url}/images/c.jpg?status=404": "gone",
            f"{server.url}/images/d.jpg?status=403": "refused",
            f"{server.url}/images/e.jpg?status=503": "busy",
            f"{server.url}/images/redirect.jpg?to=/elsewhere.jpg": "not_allowed",
            f"{server.url}/elsewhere.jpg": "not_allowed",
            f"{silent.url}/images/f.jpg": "fetch_timed_out",
            "http://nosuchhost.invalid/images/g.jpg": "dns_failed",
        }
        prefixes = [
            argument
            for host in (server.url, silent.url, "http://nosuchhost.invalid")
            for argument in ("--image-uri-prefix", f"{host}/images")
        ]
        source = write_addresses(tmp_path / "posts.parquet", list(addresses))
        run = annotate(source, *prefixes)

    assert reasons(output) == {str(n): why for n, why in enumerate(addresses.values())}
    assert run.manifest["fetched"][server.url] == {
        "fetched": 2,
        "gone": 1,
        "refused": 1,
        "busy": 1,
        "not_allowed": 1,
    }
    # What asking again may mend is asked again, nothing else, and the summary is for people.
    again = drf(
        *("annotate", "--input", source, "--output", output.root, "--device", "cpu"),
        *("--model", run.manifest["model_id"], *prefixes, "--retry", "fetch_failed"),
    )
    assert "fetched from  http://nosuchhost.invalid  dns_failed 1" in again.out
    assert f"fetched from  {server.url}  busy 1" in again.out


def test_a_silent_host_among_others_costs_a_timeout_not_one_for_each_post(
    tmp_path: Path, annotate: Annotate, output: Output, server: ImageServer
):
    with image_server() as silent:
        silent.speaks.clear()
        source = write_addresses(
            tmp_path / "posts.parquet",
            [f"{(silent if row % 3 == 0 else server).url}/{row}.jpg" for row in range(120)],
        )
        annotate(source, "--image-uri-prefix", server.url, "--image-uri-prefix", silent.url)
        # As many as it may have at once, those that follow the first failures, and the probe.
        assert len(silent.asked) <= 16 + 8
    assert [row for row, why in reasons(output).items() if why == "fetch_timed_out"] == [
        str(row) for row in range(0, 120, 3)
    ]


def test_the_transform_fetches_side_by_side_and_keeps_times_and_windows(
    tiny_checkpoint: Path, server: ImageServer
):
    _FOUND.clear()
    posts = [
        {"post_id": row, "text": "sunny", "image_uri": f"{server.url}/{row}.jpg?wait=0.2"}
        for row in range(40)
    ] + make_posts(2)
    prefixes = (server.url,)
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        annotated = (
            pipeline
            | beam.Create([(at, post) for at, post in enumerate(posts)], reshuffle=False)
            | "Times" >> beam.MapTuple(lambda at, post: TimestampedValue(post, at))
            | beam.WindowInto(FixedWindows(10))
            | AnnotatePosts(str(tiny_checkpoint), device="cpu", image_uri_prefixes=prefixes)
        )
        _ = (
            annotated.annotations
            | beam.Map(lambda row, window=beam.DoFn.WindowParam: (int(window.start), row))
            | beam.Map(collect)
        )
    assert {row["image_reason"] for _, row in _FOUND} == {None}
    windows = {str(row["post_id"]): window for window, row in _FOUND}
    assert [windows[str(row)] for row in range(40)] == [row // 10 * 10 for row in range(40)]
    assert server.most_at_once > 4
