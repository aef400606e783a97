"""`drf annotate` as the tests of the pipelines call it; and Dataflow's bucket, kept here."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pipelines.conftest import annotate, drf, inferred, output

__all__ = ["annotate", "drf", "inferred", "output"]


@pytest.fixture
def uploaded(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """What goes to the bucket, by its name there, kept here instead: there is no account."""
    reason = "needs the extra `dataflow` (pip install '.[dataflow]')"
    apiclient = pytest.importorskip(
        "apache_beam.runners.dataflow.internal.apiclient", reason=reason
    )
    gcsio = pytest.importorskip("apache_beam.io.gcp.gcsio", reason=reason)
    credentials = pytest.importorskip("google.auth.credentials", reason=reason)
    files: dict[str, bytes] = {}

    def keep(client: Any, folder: str, name: str, stream: Any, *args: Any, **kwargs: Any) -> None:
        files[name] = stream.read()

    monkeypatch.setattr(apiclient.DataflowApplicationClient, "stage_file", keep)
    monkeypatch.setattr(gcsio.GcsIO, "is_soft_delete_enabled", lambda client, path: False)
    anonymous = (credentials.AnonymousCredentials(), "some-project")
    monkeypatch.setattr("google.auth.default", lambda *args, **kwargs: anonymous)
    return files
