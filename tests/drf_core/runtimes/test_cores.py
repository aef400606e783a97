"""A process takes no more cores than its container grants."""

from __future__ import annotations

import math
from pathlib import Path

from drf_core.runtimes.choice import available_cores, quota_cores


def test_the_least_quota_of_all_groups_above_counts(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("0::/pods/one\n")
    (tmp_path / "pods" / "one").mkdir(parents=True)
    (tmp_path / "pods" / "one" / "cpu.max").write_text("max 100000\n")
    assert quota_cores(str(tmp_path), str(own)) == math.inf
    (tmp_path / "pods" / "cpu.max").write_text("150000 100000\n")
    assert quota_cores(str(tmp_path), str(own)) == 1.5


def test_the_first_version_says_it_in_two_files(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    own.write_text("4:cpu,cpuacct:/job\n")
    (tmp_path / "cpu" / "job").mkdir(parents=True)
    (tmp_path / "cpu" / "job" / "cpu.cfs_quota_us").write_text("50000\n")
    (tmp_path / "cpu" / "job" / "cpu.cfs_period_us").write_text("100000\n")
    assert quota_cores(str(tmp_path), str(own)) == 0.5


def test_where_nothing_is_limited_all_cores_are_there(tmp_path: Path) -> None:
    assert quota_cores(str(tmp_path), str(tmp_path / "none")) == math.inf
    assert available_cores() >= 1
