"""Posts that lie in a data set on the hub, read through the hub's own file system."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.data.corpora import make_posts, write_posts
from tests.support.services.hub import Repository, running_hub

PROGRAM = """
import sys
from pipelines.posts.inputs import list_inputs
from pipelines.posts.reading import read_batches
from pipelines.storage.backends import open_url
for path in sys.argv[1:]:
    listing = list_inputs([path])
    assert not listing.failed, listing.failed
    [file] = listing.files
    [(_, batch)] = read_batches(*open_url(file.path), "it", ["post_id"], 100)
    print(file.source_file, file.rows, batch.num_rows, file.identity.partition(":")[0])
"""


def test_folders_files_and_globs_of_a_data_set_are_posts(tmp_path: Path) -> None:
    posts = write_posts(tmp_path / "a.parquet", make_posts(3)).read_bytes()
    files = {"data/dt=2026-11-20/a.parquet": posts, "README.md": b"# Posts"}
    # Of the data set itself: above it lies nothing that the hub lists.
    places = ("/data", "/data/dt=2026-11-20/a.parquet", "/data/*/*.parquet", "")
    with running_hub() as hub:
        hub.repositories["datasets/me/posts"] = Repository(private=False, files=files)
        ran = subprocess.run(
            [sys.executable, "-c", PROGRAM, *(f"hf://datasets/me/posts{p}" for p in places)],
            env={**os.environ, **hub.environment(token=None), "HF_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
        )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == ["dt=2026-11-20/a.parquet 3 3 blob_id"] * 4
