"""The manifest: JSON that comes back as it went, and says so where it cannot."""

from __future__ import annotations

import json

import pytest

from schemas.errors import DRFError
from schemas.manifest import FileCounts, Manifest, Totals, from_json, to_json

MANIFEST = Manifest(
    run_id="2026-11-17",
    status="done",
    exit_code=0,
    started_at="2026-11-17T01:00:00Z",
    finished_at="2026-11-17T01:01:00Z",
    model_id="default",
    model_revision="abc",
    package_version="0.1.0",
    options={"keep": ["lang"]},
    totals=Totals(
        files=1,
        rows=3,
        annotations=2,
        dead_letters=1,
        labels={"neutral": 2},
        states={"text": {"present": 2}},
    ),
    files=[FileCounts("dt=a/ü.parquet", "dt=a", 3, 2, 1, ["part-1.parquet"], "published")],
    partitions={"dt=a": "published"},
)


def test_a_manifest_comes_back_as_it_was_written():
    assert from_json(to_json(MANIFEST)) == MANIFEST


def test_a_manifest_is_plain_json_for_others():
    fields = json.loads(to_json(MANIFEST))
    assert fields["schema_version"] == 1
    assert fields["totals"]["rows"] == 3
    assert fields["files"][0]["parts"] == ["part-1.parquet"]
    assert "dt=a/ü.parquet" in to_json(MANIFEST)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a manifest"),
        ("[]", "not a manifest"),
        ("{}", "not a manifest"),
        ('{"schema_version": 2}', "schema_version 2, this package reads 1"),
        ('{"schema_version": 1}', "not a manifest"),
        (to_json(MANIFEST).replace('"rows"', '"rowz"'), "not a manifest"),
    ],
)
def test_what_is_no_manifest_of_this_version_is_refused(text: str, says: str):
    with pytest.raises(DRFError, match=says):
        from_json(text)
