"""A store that fails now and then, lists late, refuses, is left by a killed run, or shared by two.

Mostly on S3's emulator; what is tested lies in the job and in fsspec, the same for every store.
"""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import fsspec
import pytest

from pipelines.annotate.output import layout
from pipelines.annotate.output.commit_records import committed_keys
from pipelines.storage import retrying
from pipelines.storage.files import Store, open_store
from pipelines.storage.retrying import retry
from tests.data.corpora import make_posts, write_nights, write_posts
from tests.support.running import SLOW, Output, annotate_arguments, start_drf
from tests.support.services.faulty_proxy import FAULTS, Request
from tests.support.services.object_stores import Remote, gs, remote, rows_of, s3

__all__ = ["gs", "remote", "s3"]


@pytest.mark.parametrize("remote", ["s3", "gs"], indirect=True)
def test_faults_now_and_then_lose_nothing(
    remote: Remote, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": {"read_timeout": 2}})
    write_nights(tmp_path / "in", files_per_night=2, posts_per_file=3)
    remote.upload(tmp_path / "in")
    proxy = remote.emulator.proxy
    proxy.seed, proxy.faults, proxy.fault_share = 7, FAULTS, 0.1

    run = remote.annotate()

    proxy.fault_share = 0.0
    assert run.code == 0, run.err
    assert sum(proxy.spoilt.values()) > 5
    output = remote.output()
    assert output.succeeded() == ["dt=2026-11-17", "dt=2026-11-18"]
    assert rows_of(output) == rows_of(remote.local(tmp_path / "in"))


def test_a_store_that_lists_late_loses_nothing_and_doubles_nothing(
    remote: Remote, inferred: list[int], tmp_path: Path
) -> None:
    """Its listings are as they were some seconds ago: new objects lacking, removed ones there."""
    write_nights(tmp_path / "in", files_per_night=2, posts_per_file=3)
    remote.upload(tmp_path / "in")
    remote.emulator.proxy.late_seconds = 3600.0

    first = remote.annotate()
    assert first.code == 0, first.err
    assert remote.output().succeeded() == ["dt=2026-11-17", "dt=2026-11-18"]
    before = remote.output().files()
    inferred.clear()
    second = remote.annotate()
    assert (second.code, inferred) == (0, []), second.err
    assert remote.output().files() == before

    changed = write_posts(tmp_path / "changed.parquet", make_posts(2, first=90))
    url = f"{remote.bucket}/in/dt=2026-11-18/part-00000.parquet"
    remote.emulator.put(url, changed.read_bytes())
    third = remote.annotate()
    assert (third.code, sum(inferred)) == (0, 2), third.err
    places = remote.output().places()
    assert len(places) == len(set(places)) == 11
    assert remote.output().succeeded() == ["dt=2026-11-17", "dt=2026-11-18"]


def test_killed_half_way_the_next_run_does_the_rest(
    remote: Remote, inferred: list[int], tmp_path: Path
) -> None:
    write_posts(tmp_path / "in" / "posts.parquet", make_posts(60), row_group_rows=10)
    remote.upload(tmp_path / "in")
    process = start_drf(remote.arguments("--shard-rows", 10), SLOW)
    store = open_store(f"{remote.bucket}/out")
    while len(committed_keys(store)) < 2:
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    committed = len(committed_keys(store))

    run = remote.annotate("--shard-rows", 10)

    assert run.code == 0, run.err
    assert sum(inferred) == 60 - 10 * committed
    assert remote.output().places() == [("posts.parquet", row) for row in range(60)]


@pytest.mark.parametrize("copies", [0, 1])
def test_killed_while_publishing_the_next_run_finishes(
    remote: Remote, inferred: list[int], tmp_path: Path, copies: int
) -> None:
    """The store refuses everything from some copy on, as if the run had died there."""
    write_nights(tmp_path / "in", ("2026-11-17",), files_per_night=2, posts_per_file=2)
    remote.upload(tmp_path / "in")
    seen: list[Request] = []

    def refuse(request: Request) -> tuple[int, bytes] | None:
        if request.kind == "COPY":
            seen.append(request)
        denied = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        return (403, denied) if len(seen) > copies else None

    remote.emulator.proxy.refuse = refuse
    assert remote.annotate("--part-bytes", 1).code == 1
    remote.emulator.proxy.refuse = None
    inferred.clear()

    run = remote.annotate("--part-bytes", 1)

    assert (run.code, inferred) == (0, []), run.err
    places = remote.output().places()
    assert len(places) == len(set(places)) == 4
    assert remote.output().succeeded() == ["dt=2026-11-17"]


def test_two_runs_at_once_on_one_output_publish_once(remote: Remote, tmp_path: Path) -> None:
    write_nights(tmp_path / "in", posts_per_file=4)
    remote.upload(tmp_path / "in")
    runs = [start_drf(remote.arguments("--run-id", f"run-{n}")) for n in range(2)]
    for process in runs:
        _, err = process.communicate()
        assert process.returncode == 0, err
    places = remote.output().places()
    assert len(places) == len(set(places)) == 16
    assert remote.output().succeeded() == ["dt=2026-11-17", "dt=2026-11-18"]


class TestRefusals:
    """One line that names what is wrong and the way out; nobody is kept waiting."""

    def said(self, remote: Remote, *arguments: object) -> tuple[int, str]:
        before = len(remote.emulator.proxy.requests)
        run = remote.annotate(*arguments)
        [line] = run.err.splitlines()
        assert len(remote.emulator.proxy.requests) - before < 20
        return run.code, line

    @pytest.fixture(autouse=True)
    def one_post(self, remote: Remote, tmp_path: Path) -> None:
        write_posts(tmp_path / "in" / "posts.parquet", make_posts(1))
        remote.upload(tmp_path / "in")

    def test_a_bucket_that_is_not_there(self, remote: Remote) -> None:
        code, line = self.said(remote, "--output", "s3://not-there/out")
        assert code == 1
        assert "bucket does not exist; create it, or correct the URL" in line
        code, line = self.said(remote, "--input", "s3://not-there/in")
        expected = "drf: error: --input s3://not-there/in: no such file, folder or bucket"
        assert (code, line) == (2, expected)
        code, line = self.said(remote, "--model", "s3://not-there/model")
        assert code == 2 and "--model s3://not-there/model: cannot be read" in line

    def test_what_the_credentials_may_not_do(self, remote: Remote) -> None:
        denied = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
        remote.emulator.proxy.refuse = lambda request: (403, denied)
        code, line = self.said(remote)
        assert code == 2
        assert "Forbidden; the store's credentials in use may not do that" in line

    def test_no_credentials(self, remote: Remote, monkeypatch: pytest.MonkeyPatch) -> None:
        import s3fs

        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
            monkeypatch.setenv(name, "/nowhere")
        s3fs.S3FileSystem.clear_instance_cache()
        code, line = self.said(remote)
        s3fs.S3FileSystem.clear_instance_cache()
        assert code == 2
        assert "Unable to locate credentials; set AWS_ACCESS_KEY_ID" in line


@pytest.mark.parametrize("remote", ["gs"], indirect=True)
def test_google_refuses_in_one_line_too(remote: Remote, tmp_path: Path) -> None:
    write_posts(tmp_path / "in" / "posts.parquet", make_posts(1))
    remote.upload(tmp_path / "in")
    run = remote.annotate("--output", "gs://not-there/out")
    [line] = run.err.splitlines()
    assert run.code == 1
    assert line.endswith("the bucket does not exist; create it, or correct the URL")
    run = remote.annotate("--input", "gs://not-there/in")
    [line] = run.err.splitlines()
    assert (run.code, line) == (
        2,
        "drf: error: --input gs://not-there/in: no such file, folder or bucket",
    )
    message = "nobody@example.com does not have storage.objects.list access to the bucket."
    denied = json.dumps({"error": {"code": 403, "message": message}}).encode()
    remote.emulator.proxy.refuse = lambda request: (403, denied)
    run = remote.annotate()
    [line] = run.err.splitlines()
    assert run.code == 2
    assert "access to the bucket.; the store's credentials in use may not do that" in line


@pytest.mark.parametrize("protocol, package, extra", [("s3", "s3fs", "s3"), ("gs", "gcsfs", "gcs")])
def test_a_store_whose_package_is_not_installed(
    tiny_checkpoint: Path, tmp_path: Path, protocol: str, package: str, extra: str
) -> None:
    write_posts(tmp_path / "in" / "posts.parquet", make_posts(1))
    arguments = annotate_arguments(tmp_path / "in", Output(tmp_path / "out"), tiny_checkpoint)
    arguments += ["--output", f"{protocol}://bucket/out"]
    # As if it were not there: for Python, a module that is None cannot be imported.
    process = start_drf(arguments, f"import sys; sys.modules[{package!r}] = None")
    _, err = process.communicate()
    assert process.returncode in (1, 2)
    [line] = err.splitlines()
    assert f"this package's extra `{extra}` has it: pip install '.[{extra}]'" in line


class TestRetrying:
    def test_what_may_pass_is_tried_again_a_few_times(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(retrying, "FIRST_SECONDS", 0.0)
        answers = [ConnectionResetError(), TimeoutError(), "done"]

        def ask() -> str:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return str(answer)

        assert retry(ask) == "done"
        answers += [TimeoutError()] * 9
        with pytest.raises(TimeoutError):
            retry(ask)
        assert len(answers) == 9 - retrying.TRIES

    @pytest.mark.parametrize("error", [FileNotFoundError(), PermissionError(), ValueError()])
    def test_what_does_not_pass_is_raised_at_once(self, error: Exception) -> None:
        calls = []

        def ask() -> None:
            calls.append(1)
            raise error

        with pytest.raises(type(error)):
            retry(ask)
        assert len(calls) == 1


def test_a_store_that_refuses_is_no_damaged_part(remote: Remote, tmp_path: Path) -> None:
    """A part that cannot be read for the moment is not thrown away with its shard's work."""
    write_posts(tmp_path / "in" / "posts.parquet", make_posts(2))
    remote.upload(tmp_path / "in")
    denied = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"

    def refuse(request: Request) -> tuple[int, bytes] | None:
        reads_a_part = request.kind == "GET" and ".annotations." in request.path
        return (403, denied) if reads_a_part else None

    remote.emulator.proxy.refuse = refuse
    assert remote.annotate().code == 1
    store: Store = open_store(f"{remote.bucket}/out")
    assert len(store.sizes(layout.COMMITS)) == 1
