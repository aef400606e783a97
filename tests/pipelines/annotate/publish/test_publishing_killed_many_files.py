"""A partition of a thousand small files: few parts, and none harmed by a kill."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from pipelines.annotate.job import Plan
from pipelines.annotate.output import layout
from tests.data.corpora import make_posts, write_posts
from tests.support.killing import run_and_kill
from tests.support.nights.published_night import NIGHT, output, replace_with
from tests.support.nights.stand_in import annotate, plan_run, publish, published_rows, run_job

__all__ = ["output"]


def publish_plan(plan: Plan) -> None:
    publish(plan)


def test_a_thousand_small_files_are_few_and_a_kill_while_one_is_replaced_harms_none(
    tmp_path: Path, output: Path
) -> None:
    corpus = tmp_path / "in"
    for number in range(1_000):
        write_posts(corpus / NIGHT / f"{number:04d}.parquet", make_posts(2, 2 * number))
    run_job(output, corpus)
    assert [len([*(output / tree / NIGHT).glob("*.parquet")]) for tree in layout.TREES] == [1, 0]
    old = published_rows(output)
    assert len(set(old)) == len(old) == 2_000

    replace_with(corpus / NIGHT / "0500.parquet", 1)
    plan = plan_run(output, corpus)
    assert annotate(plan) == {f"{NIGHT}/0500.parquet": 1}
    new = [row for row in old if row[0] != f"{NIGHT}/0500.parquet" or row[1] < 1]
    killed, step = True, 1
    while killed:
        copy = tmp_path / f"killed-{step}"
        shutil.copytree(output, copy)
        options = dataclasses.replace(plan.options, output=str(copy))
        killed = run_and_kill(step, publish_plan, dataclasses.replace(plan, options=options))
        assert published_rows(copy) in (old, new), f"step {step}"
        assert killed or published_rows(copy) == new
        step += 4
    assert step > 10
