"""Where things lie in an output; every name is relative to the output root.

annotations/<partition>/part-….parquet, _SUCCESS
dead_letters/<partition>/part-….parquet, _SUCCESS
_ledgers/<partition>/000000001.json, 000000002.json, …
_runs/<run_id>/manifest.json
_staging/commits/<key>.json, parts/…, attempts/…, prepared/…, locks/…, faults/…
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import quote

ANNOTATIONS = "annotations"
DEAD_LETTERS = "dead_letters"
TREES = (ANNOTATIONS, DEAD_LETTERS)

LEDGERS = "_ledgers"

STAGING = "_staging"
COMMITS = "_staging/commits"
STAGED_PARTS = "_staging/parts"
ATTEMPTS = "_staging/attempts"
PREPARED = "_staging/prepared"
LOCKS = "_staging/locks"
FAULTS = "_staging/faults"

SUCCESS = "_SUCCESS"

_PART_NAME = re.compile(r"part-([0-9a-f]{12})-\d{8,}-[0-9a-f]{16}\.parquet")


def partition_folder(tree: str, partition: str) -> str:
    """Return the folder of a partition in one of the trees, or among the ledgers."""
    return f"{tree}/{partition}" if partition else tree


def in_partition(tree: str, partition: str, name: str) -> str:
    """Return the name of a file of a partition."""
    return f"{partition_folder(tree, partition)}/{name}"


def part_name(source_file: str, first_row: int, publication: str) -> str:
    """Return the name of a shard's published part, the same in both trees.

    publication: 16 hexadecimal digits that no other publication has, so that no name is ever
    used again: a request that arrives late can only hit a name that is dead.
    """
    return f"part-{file_mark(source_file)}-{first_row:08d}-{publication}.parquet"


def file_mark(source_file: str) -> str:
    """Return what the names of an input file's parts have in common."""
    return hashlib.sha256(source_file.encode()).hexdigest()[:12]


def mark_of(name: str) -> str | None:
    """Return the mark that a published part's name has of its input file, None if it is none."""
    match = _PART_NAME.fullmatch(name)
    return match[1] if match else None


def ledger(partition: str, number: int) -> str:
    """Return the name of one ledger of a partition."""
    return in_partition(LEDGERS, partition, f"{number:09d}.json")


def ledger_number(name: str) -> int:
    """Return the number of a ledger by its file name, 0 if it is none."""
    digits = name.removesuffix(".json")
    return int(digits) if name.endswith(".json") and digits.isdecimal() else 0


def staged_part(tree: str, partition: str, key: str, attempt: str) -> str:
    """Return where one attempt at a shard writes its part of a tree.

    Below its partition's folders, so that a reader of one that is committed and not brought to
    its place yet finds the partition's columns there, too.
    """
    return in_partition(STAGED_PARTS, partition, f"{key}.{attempt}.{tree}.parquet")


def prepared(partition: str) -> str:
    """Return where a disk has a partition's folders prepared that will take the old ones' place."""
    return f"{PREPARED}/{quoted(partition)}"


def commit_record(key: str) -> str:
    """Return the name of a shard's commit record."""
    return f"{COMMITS}/{key}.json"


def attempt_record(key: str, attempt: str) -> str:
    """Return the name of the record that one attempt at a shard keeps while it runs."""
    return f"{ATTEMPTS}/{key}.{attempt}.json"


def fault_record(run_id: str, fault: str) -> str:
    """Return the name of the record of one fault that a worker of a run met."""
    return f"{FAULTS}/{run_id}~{fault}.json"


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
