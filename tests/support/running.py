"""Running `drf` from tests, and reading what it wrote the way its users do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.dataset as ds

from drf_core.checkpoint import read_checkpoint
from pipelines.annotate.job import JobOptions
from pipelines.console.version import package_version

# A post takes its time, so that a test can kill the run between two commits.
SLOW = """
import time
from drf_core.annotator import Annotator
prepare = Annotator.prepare
def slow(self, *args, **kwargs):
    time.sleep(0.02)
    return prepare(self, *args, **kwargs)
Annotator.prepare = slow
"""


@dataclass(frozen=True)
class Run:
    """What one call of `drf` ended with."""

    code: int
    out: str
    err: str

    @property
    def manifest(self) -> dict[str, Any]:
        """The manifest that --json printed."""
        return json.loads(self.out)


@dataclass(frozen=True)
class Output:
    """An output of `drf annotate`, as readers see it."""

    root: Path

    def rows(self, tree: str) -> list[dict[str, Any]]:
        """All rows of a tree, by source file and row."""
        if not list((self.root / tree).rglob("*.parquet")):
            return []
        table = ds.dataset(
            self.root / tree, format="parquet", exclude_invalid_files=True
        ).to_table()
        return sorted(table.to_pylist(), key=lambda row: (row["source_file"], row["source_row"]))

    @property
    def annotations(self) -> list[dict[str, Any]]:
        return self.rows("annotations")

    @property
    def dead_letters(self) -> list[dict[str, Any]]:
        return self.rows("dead_letters")

    def places(self) -> list[tuple[str, int]]:
        """(source_file, source_row) of every row of both trees, repeated where it is repeated."""
        rows = [*self.annotations, *self.dead_letters]
        return sorted((row["source_file"], row["source_row"]) for row in rows)

    def files(self) -> dict[str, bytes]:
        """Every file of both trees with its bytes."""
        return {
            str(path.relative_to(self.root)): path.read_bytes()
            for tree in ("annotations", "dead_letters")
            for path in sorted((self.root / tree).rglob("*"))
            if path.is_file()
        }

    def succeeded(self) -> list[str]:
        """Partitions that say _SUCCESS in both trees."""
        found = [
            {str(path.parent.relative_to(self.root / tree)) for path in root.rglob("_SUCCESS")}
            for tree in ("annotations", "dead_letters")
            if (root := self.root / tree)
        ]
        return sorted(found[0] & found[1])

    def duckdb(self, query: str) -> list[tuple[Any, ...]]:
        """A query over the view `annotations`, read the way DuckDB's users do."""
        connection = duckdb.connect()
        glob = f"{self.root}/annotations/**/*.parquet"
        connection.execute(
            f"create view annotations as from read_parquet('{glob}', hive_partitioning=true)"
        )
        return connection.execute(query).fetchall()


def annotate_arguments(source: object, output: Output, checkpoint: Path) -> list[str]:
    """The arguments of a small `drf annotate --json` run."""
    return [
        *("annotate", "--input", str(source), "--output", str(output.root), "--json"),
        *("--model", str(checkpoint), "--device", "cpu", "--batch-size", "16", "--threads", "1"),
    ]


def start_drf(arguments: list[str], prelude: str = "") -> subprocess.Popen[str]:
    """Start `drf` as a process group of its own, so that a test can kill all of it.

    prelude: Python that runs first, to slow it down or to make it die at some point.
    """
    # What a shell runs in the background ignores SIGINT, and so would what it starts.
    listen = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"
    run = "import sys\nfrom pipelines.cli import main\nsys.exit(main(sys.argv[1:]))"
    code = f"{listen}\n{prelude}\n{run}"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def job_options(checkpoint: Path, output: Path, **others: Any) -> JobOptions:
    """What a plan with this checkpoint tells its workers; others: further fields."""
    found = read_checkpoint(str(checkpoint))
    return JobOptions(
        output=str(output),
        run_id="run",
        model=str(checkpoint),
        model_id="tiny",
        model_revision=found.revision,
        package_version=package_version(),
        labels=found.labels,
        device="cpu",
        **others,
    )
