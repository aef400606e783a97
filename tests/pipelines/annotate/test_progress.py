"""Progress is told from the records of whoever works, on whatever runner."""

from __future__ import annotations

import io
import time
from pathlib import Path

import pytest

from pipelines.annotate import progress
from pipelines.annotate.job import Plan
from pipelines.annotate.output import attempts
from pipelines.annotate.output.attempts import Attempt
from pipelines.annotate.output.clear_staging import clear_shards
from pipelines.annotate.planning.make_plan import make_plan
from pipelines.annotate.progress import ProgressReader, Standing, describe, show_progress
from pipelines.annotate.work.annotate_unit import annotate_unit
from pipelines.posts.inputs import list_inputs
from pipelines.storage.files import open_store
from tests.data.corpora import make_posts, write_posts
from tests.support.running import job_options


@pytest.fixture
def plan(tmp_path: Path, tiny_checkpoint: Path) -> Plan:
    """Two files of 30 posts, each with two dead letters."""
    for name in ("a", "b"):
        posts = make_posts(30)
        for post in posts[:2]:
            post["post_id"] = None
        write_posts(tmp_path / "in" / f"{name}.parquet", posts)
    options = job_options(tiny_checkpoint, tmp_path / "out")
    return make_plan(options, list_inputs([str(tmp_path / "in")]))


def test_done_posts_are_those_committed_and_those_of_attempts_at_work(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "_TOUCH_SECONDS", 0.0)
    store = open_store(plan.options.output)
    reader = ProgressReader(store, plan)
    first, second = (shard for unit in plan.units for shard in unit.shards)
    assert reader.read() == Standing(posts=60, done=0, dead_letters=0)

    attempt = Attempt(store, second.key, "run")
    attempt.touch(12, 1)
    assert reader.read() == Standing(60, 12, 1)

    unit = next(unit for unit in plan.units if first in unit.shards)
    list(annotate_unit(unit, plan.options))
    committed = reader.read()
    assert committed.done >= 42

    # Publishing clears the records; done posts stay done.
    clear_shards(store, [first.key, second.key])
    assert reader.read() == committed


def test_away_from_a_terminal_progress_is_plain_lines(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(progress, "_LOG_SECONDS", 0.0)
    out = io.StringIO()

    with show_progress(plan, out):
        for unit in plan.units:
            list(annotate_unit(unit, plan.options))
        # A fast machine is done before the first look.
        deadline = time.monotonic() + 60
        while not out.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)

    assert out.getvalue()
    for line in out.getvalue().splitlines():
        assert line.startswith(("loading the model", "annotating ", "publishing "))
        assert "\r" not in line


def test_the_line_says_posts_speed_time_left_and_dead_letters() -> None:
    line = describe(Standing(posts=12_000, done=3_000, dead_letters=7), initial=1_000, seconds=40.0)

    assert line == "annotating 3,000/12,000 posts (25%), 50.00 posts/s, 03:00 left, 7 dead letters"
