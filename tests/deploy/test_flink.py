"""`drf annotate` on a Flink cluster: same rows as here, whatever dies on the way.

deploy/flink/check brings a cluster up, runs these, and takes it down.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import drf_core.annotator
import pipelines.console.version
from pipelines.annotate.output import layout
from pipelines.annotate.output.commit_records import committed_keys
from pipelines.cli import main
from pipelines.sample.command import make_sample
from pipelines.storage.checkpoints import DEFAULT_MODEL, resolve_model
from pipelines.storage.files import open_store
from tests.conftest import SHARED
from tests.data.corpora import make_posts, write_posts
from tests.support.running import Output
from tests.support.services.flink_cluster import COMPARABLE, Cluster, finish, submit, wait_until

pytestmark = pytest.mark.flink

# What differs between two runs on the same posts.
RUN_COLUMNS = {"run_id", "annotated_at"}
NIGHTS = SHARED / "corpora" / "nightly"

# Added to the annotator of the workers.
SLOW = """
import time
_prepare = Annotator.prepare
def _slow(self, *args, **kwargs):
    time.sleep({seconds})
    return _prepare(self, *args, **kwargs)
Annotator.prepare = _slow
"""
DEADLY = """
import os
_prepare = Annotator.prepare
def _deadly(self, text, *args, **kwargs):
    if text and "takes its worker down" in text:
        os.kill(os.getpid(), 9)
    return _prepare(self, text, *args, **kwargs)
Annotator.prepare = _deadly
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three nights of real posts where they are at hand, else the sample."""
    if NIGHTS.is_dir():
        return NIGHTS
    folder = tmp_path_factory.mktemp("sample")
    make_sample(folder)
    return folder


@pytest.fixture(scope="module")
def local(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Output:
    """The corpus annotated by the runner of this process."""
    output = Output(tmp_path_factory.mktemp("local"))
    arguments = ["--input", str(corpus), "--output", str(output.root), *COMPARABLE]
    assert main(["annotate", *arguments]) == 0
    return output


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """The cluster, with nothing to do; deploy/flink/check runs these tests on one."""
    cluster = Cluster()
    cluster.become_idle()
    yield cluster
    cluster.become_idle()


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(tmp_path / "out")


def test_two_task_managers_give_the_rows_of_the_local_runner(
    cluster: Cluster, corpus: Path, local: Output, output: Output
) -> None:
    run = finish(submit(corpus, output))

    assert run.code == 0, run.err
    assert_same_rows(output, local)
    assert len(cluster.annotating_task_managers()) == 2


def test_a_task_manager_killed_on_the_way_costs_nothing_that_was_staged(
    cluster: Cluster, corpus: Path, local: Output, output: Output, tmp_path: Path
) -> None:
    with slow_workers(cluster, corpus, tmp_path):
        client = submit(corpus, output, "--shard-rows", shard_rows(corpus))
        staged = staged_parts(output, at_least=3)
        cluster.kill_task_manager(1)
        run = finish(client)

    assert run.code == 0, run.err
    assert_same_rows(output, local)
    assert output.places() == sorted(set(output.places()))
    assert staged <= annotated(output.annotations)
    assert 0 < run.manifest["computed_rows"] < count_posts(corpus)


def test_a_client_killed_on_the_way_is_followed_by_the_same_command(
    cluster: Cluster, corpus: Path, local: Output, output: Output, tmp_path: Path
) -> None:
    with slow_workers(cluster, corpus, tmp_path):
        client = submit(corpus, output, "--shard-rows", shard_rows(corpus))
        staged = staged_parts(output, at_least=3)
        os.killpg(client.pid, signal.SIGKILL)
        client.communicate()
        # The job that it left behind is still at work.
        run = finish(submit(corpus, output, "--shard-rows", shard_rows(corpus)))

    assert run.code == 0, run.err
    assert_same_rows(output, local)
    assert output.places() == sorted(set(output.places()))
    assert staged <= annotated(output.annotations)


def test_a_client_that_is_interrupted_cancels_its_job(
    cluster: Cluster, corpus: Path, output: Output, tmp_path: Path
) -> None:
    with slow_workers(cluster, corpus, tmp_path):
        client = submit(corpus, output, "--shard-rows", shard_rows(corpus))
        staged_parts(output, at_least=1)
        client.send_signal(signal.SIGTERM)
        run = finish(client)
        wait_until(lambda: cluster.jobs()[0]["state"] == "CANCELED")

    assert run.code == 130
    assert last_line(run.err) == (
        "drf: interrupted; the same command goes on from what was committed"
    )


@pytest.mark.parametrize("fault", ["model", "version", "output"])
def test_what_no_worker_can_do_fails_the_job_with_the_cause_in_the_last_line(
    cluster: Cluster, output: Output, tmp_path: Path, fault: str
) -> None:
    make_sample(tmp_path / "posts")
    model = shutil.copytree(resolve_model(DEFAULT_MODEL), tmp_path / "model")
    output.root.mkdir()
    version = patched(
        pipelines.console.version.__file__, "def package_version():\n    return '0.0.9'\n"
    )
    (tmp_path / "version.py").write_text(version)
    broken = {
        "model": cluster.on_workers("-t", "tmpfs", "none", at=model),
        "version": cluster.on_workers(
            "--bind", tmp_path / "version.py", at=Path(pipelines.console.version.__file__)
        ),
        "output": cluster.on_workers("--bind", "-o", "ro", output.root, at=output.root),
    }
    causes = {
        "model": f"drf: error: {model}: holds no config.json",
        "version": "drf: error: this worker has version 0.0.9 of the package",
        "output": f"drf: error: cannot write {output.root}/_staging/",
    }

    with broken[fault]:
        began = time.monotonic()
        run = finish(submit(tmp_path / "posts", output, "--model", model))
    # Wanted: a minute; how long a start of the workers takes is the machine's business.
    print(f"{fault}: the client ended after {time.monotonic() - began:.0f} s")

    assert run.code in (1, 2)
    assert last_line(run.err).startswith(causes[fault])
    assert "Traceback" not in run.err
    assert output.places() == []
    wait_until(lambda: cluster.jobs()[0]["state"] in ("FAILED", "CANCELED"))


def test_a_post_that_takes_its_worker_down_costs_its_shard_alone(
    cluster: Cluster, output: Output, tmp_path: Path
) -> None:
    deadly = [{"post_id": "p900", "text": "this takes its worker down", "image": None}]
    for name, posts in {
        "dt=2026-11-17/fine.parquet": make_posts(100),
        "dt=2026-11-18/deadly.parquet": [*make_posts(20, 200), *deadly, *make_posts(20, 300)],
        "dt=2026-11-18/fine.parquet": make_posts(100, 400),
    }.items():
        write_posts(tmp_path / "posts" / name, posts)

    with workers_with(cluster, DEADLY, tmp_path):
        run = finish(submit(tmp_path / "posts", output))

    assert run.code == 4, run.err
    assert "rows 0 to 40 of dt=2026-11-18/deadly.parquet killed their worker 3 times" in run.err
    annotated = {file for file, _ in output.places()}
    assert annotated == {"dt=2026-11-17/fine.parquet", "dt=2026-11-18/fine.parquet"}
    assert len(output.places()) == len(set(output.places())) == 200
    assert output.succeeded() == ["dt=2026-11-17"]


def assert_same_rows(output: Output, other: Output) -> None:
    """The same annotations and dead letters, but for run columns and the last bits of floats.

    Posts share batches with others when the work is cut otherwise, which moves the last bits.
    """
    for tree in layout.TREES:
        rows, expected = comparable(output, tree), comparable(other, tree)
        assert [row["source_row"] for row in rows] == [row["source_row"] for row in expected]
        for row, expected_row in zip(rows, expected, strict=True):
            assert row == pytest.approx(expected_row, abs=1e-5)


def comparable(output: Output, tree: str) -> list[dict[str, Any]]:
    rows = output.rows(tree)
    for row in rows:
        row.update(row.pop("probabilities", {}))
        for column in RUN_COLUMNS:
            row.pop(column, None)
    return rows


def slow_workers(cluster: Cluster, corpus: Path, folder: Path) -> Any:
    """Workers that take some seconds longer for the corpus, to be killed meanwhile."""
    return workers_with(cluster, SLOW.format(seconds=60 / count_posts(corpus)), folder)


def workers_with(cluster: Cluster, more: str, folder: Path) -> Any:
    """Workers whose annotator does something else; the client's stays as it is."""
    source = drf_core.annotator.__file__
    (folder / "annotator.py").write_text(patched(source, more))
    return cluster.on_workers("--bind", folder / "annotator.py", at=Path(source))


def patched(source: str | None, more: str) -> str:
    assert source is not None
    return f"{Path(source).read_text()}\n\n{more}"


def staged_parts(output: Output, at_least: int) -> set[tuple[object, ...]]:
    """What was annotated and committed, and when, as soon as so many shards are."""
    store = open_store(str(output.root))
    wait_until(lambda: len(committed_keys(store)) >= at_least)
    committed = committed_keys(store)
    assert not output.succeeded()
    return annotated(
        row
        for name in store.sizes(layout.STAGED_PARTS)
        if name.split(".")[0] in committed and ".annotations." in name
        for row in pq.read_table(output.root / layout.STAGED_PARTS / name).to_pylist()
    )


def annotated(rows: Iterable[dict[str, object]]) -> set[tuple[object, ...]]:
    return {(row["source_file"], row["source_row"], row["annotated_at"]) for row in rows}


def count_posts(corpus: Path) -> int:
    return sum(pq.read_metadata(path).num_rows for path in corpus.rglob("*.parquet"))


def shard_rows(corpus: Path) -> int:
    """So that the corpus has some ten shards or more."""
    return max(4, count_posts(corpus) // 13)


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]
