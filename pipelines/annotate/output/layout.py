"""Where things lie in an output; every name is relative to the output root.

annotations/<partition>/part-….parquet, _parts.json (the ledger), _SUCCESS
dead_letters/<partition>/part-….parquet, _SUCCESS
_runs/<run_id>/manifest.json
_staging/commits/<key>.json, parts/…, attempts/…, intents/…, locks/…, faults/…
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote

ANNOTATIONS = "annotations"
DEAD_LETTERS = "dead_letters"
TREES = (ANNOTATIONS, DEAD_LETTERS)

COMMITS = "_staging/commits"
STAGED_PARTS = "_staging/parts"
ATTEMPTS = "_staging/attempts"
INTENTS = "_staging/intents"
LOCKS = "_staging/locks"
FAULTS = "_staging/faults"

LEDGER = "_parts.json"
SUCCESS = "_SUCCESS"

_PART_NAME = re.compile(r"part-([0-9a-f]{12})-\d{8,}-[0-9a-f]{16}\.parquet")


def partition_folder(tree: str, partition: str) -> str:
    """Return the folder of a partition in one of the two trees."""
    return f"{tree}/{partition}" if partition else tree


def in_partition(tree: str, partition: str, name: str) -> str:
    """Return the name of a file of a partition."""
    return f"{partition_folder(tree, partition)}/{name}"


def part_name(source_file: str, first_row: int, key: str) -> str:
    """Return the name of a shard's published part, the same in both trees."""
    return f"part-{file_mark(source_file)}-{first_row:08d}-{key[:16]}.parquet"


def file_mark(source_file: str) -> str:
    """Return what the names of an input file's parts have in common."""
    return hashlib.sha256(source_file.encode()).hexdigest()[:12]


def is_part(name: str) -> bool:
    """Whether a file has the name of a published part."""
    return _PART_NAME.fullmatch(name) is not None


def mark_of(name: str) -> str | None:
    """Return the mark that a published part's name has of its input file, None if it is none."""
    match = _PART_NAME.fullmatch(name)
    return match[1] if match else None


def staged_part(tree: str, key: str, attempt: str) -> str:
    """Return where one attempt at a shard writes its part of a tree."""
    return f"{STAGED_PARTS}/{key}.{attempt}.{tree}.parquet"


def commit_record(key: str) -> str:
    """Return the name of a shard's commit record."""
    return f"{COMMITS}/{key}.json"


def attempt_record(key: str, attempt: str) -> str:
    """Return the name of the record that one attempt at a shard keeps while it runs."""
    return f"{ATTEMPTS}/{key}.{attempt}.json"


def fault_record(run_id: str, fault: str) -> str:
    """Return the name of the record of one fault that a worker of a run met."""
    return f"{FAULTS}/{run_id}~{fault}.json"


def intent(partition: str) -> str:
    """Return the name of the intent to publish a partition."""
    return f"{INTENTS}/{quoted(partition)}.json"


def manifest(run_id: str) -> str:
    """Return the name of a run's manifest."""
    return f"_runs/{run_id}/manifest.json"


def earlier_manifest(run_id: str, started_at: str) -> str:
    """Return the name that a manifest keeps when its run is repeated under the same id."""
    moment = "".join(character for character in started_at if character.isalnum())
    return f"_runs/{run_id}/manifest-{moment}.json"


def quoted(partition: str) -> str:
    """Return a partition as one file name, which no file system finds too long.

    The empty partition has one too. There is no way back from a long one.
    """
    name = quote(partition, safe="=")
    if len(name) > 150:
        name = f"{name[:80]}-{hashlib.sha256(partition.encode()).hexdigest()}"
    return f"partition-{name}"
