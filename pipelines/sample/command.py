"""A small corpus for a first try: two nights of drawn and written posts, some of them broken."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from drf_core.write_whole import write_whole
from pipelines.console.messages import say
from schemas.errors import DRFError, UsageError

# In the metadata of its files, so that those of another version can be told from a user's own.
MARK = "drf.sample"

# Where `drf annotate` alone writes. Of its own: what is annotated here already is not joined.
FIRST_TRY = Path("sample")

NIGHTS = sorted(Path(__file__).parent.glob("*.parquet"))


def add_sample_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the argument of `drf sample`."""
    parser.add_argument("folder", metavar="DIR", help="where to write it")


def run_sample(arguments: argparse.Namespace) -> int:
    """Write the sample; return the exit code."""
    make_sample(arguments.folder)
    print(f"wrote sample posts to {arguments.folder}")
    return 0


def prepare_first_try() -> list[str]:
    """Write the sample into the current folder; return the command that annotates it.

    Raises what `make_sample` raises.
    """
    make_sample(FIRST_TRY / "posts")
    paths = ("--input", str(FIRST_TRY / "posts"), "--output", str(FIRST_TRY / "annotated"))
    say(f"without options, the sample is annotated: drf annotate {' '.join(paths)}")
    return ["annotate", *paths]


def make_sample(folder: str | os.PathLike[str]) -> list[Path]:
    """Write the sample below a local folder and return its files, one per night.

    A file that already holds the sample is left as it is, so that a second run of a job
    finds nothing to do.
    Raises UsageError where the folder is a file, or a file of the sample's name holds
    something else; DRFError where it cannot be written.
    """
    try:
        return [_write_night(night, Path(folder)) for night in NIGHTS]
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"{folder}: there is a file in the way; name another folder") from error
    except OSError as error:
        raise DRFError(f"{folder}: cannot be written ({error.strerror})") from error


def _write_night(night: Path, folder: Path) -> Path:
    path = folder / f"dt={night.stem}" / "sample.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = night.read_bytes()
    if path.exists():
        if path.read_bytes() == content:
            return path
        if not _is_sample(path):
            raise UsageError(f"{path}: holds something else than the sample; name another folder")
    write_whole(path, lambda unfinished: unfinished.write_bytes(content))
    return path


def _is_sample(path: Path) -> bool:
    try:
        return MARK.encode() in (pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowException):
        return False
