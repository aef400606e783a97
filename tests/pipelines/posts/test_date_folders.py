"""Date folders without keys become partitions, wherever the input begins."""

from __future__ import annotations

import pytest

from pipelines.posts.date_folders import parse_partition
from pipelines.posts.names import name_of
from schemas.errors import UsageError


@pytest.mark.parametrize(
    ("pattern", "path", "name", "partition"),
    [
        ("dt={:%Y/%m/%d}", "/x/2026/11/20/a.csv", "dt=2026-11-20/a.csv", "dt=2026-11-20"),
        ("dt={:%Y/%m/%d}", "/x/2026/11/20/raw/a.csv", "dt=2026-11-20/raw/a.csv", "dt=2026-11-20"),
        ("dt={:%Y/%m/%d}", "/2025/2026/11/20/a", "dt=2026-11-20/a", "dt=2026-11-20"),
        ("dt={:%Y/%m/%d}", "/2025/01/01/x/2026/11/20/a", "dt=2026-11-20/a", "dt=2026-11-20"),
        ("day={:%Y%m%d}", "s3://b/20261120/a", "day=2026-11-20/a", "day=2026-11-20"),
        ("dt={:%Y-%m-%d/%H}", "/x/2026-11-20/07/a", "dt=2026-11-20T07/a", "dt=2026-11-20T07"),
        ("dt={:y=%Y/m=%m}", "/x/y=2026/m=11/a", "dt=2026-11/a", "dt=2026-11"),
        ("dt={:%Y/%j}", "/x/2026/324/a", "dt=2026-11-20/a", "dt=2026-11-20"),
        ("dt={:%Y/%m/%d}", "/2026/11/20/hour=3/a", "dt=2026-11-20/hour=3/a",
         "dt=2026-11-20/hour=3"),
    ],
)  # fmt: skip
def test_a_date_is_a_partition(pattern: str, path: str, name: str, partition: str) -> None:
    dates = parse_partition(pattern)
    assert name_of(path, path.rpartition("/")[2], dates) == (name, partition)


@pytest.mark.parametrize("path", ["/x/a", "/x/2026/13/45/a", "/x/12026/11/20/a", "/2026/11/a"])
def test_a_file_in_no_such_folder_is_told(path: str) -> None:
    with pytest.raises(UsageError, match="lies in no folder like %Y/%m/%d"):
        name_of(path, "a", parse_partition("dt={:%Y/%m/%d}"))


@pytest.mark.parametrize(
    "text", ["dt=%Y/%m/%d", "{:%Y}", "dt={}", "dt={:%B %Y}", "dt={:%m/%d}", "dt={:2026}"]
)
def test_another_form_is_wrong_usage(text: str) -> None:
    with pytest.raises(UsageError, match=r"such as 'dt=\{:%Y/%m/%d\}'"):
        parse_partition(text)
