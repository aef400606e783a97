"""Where things lie in an output; every name is relative to the output root.

annotations/<partition>/part-….parquet, _SUCCESS
dead_letters/<partition>/part-….parquet, _SUCCESS
_ledgers/<partition>/000000001.json, 000000002.json, …
delta/<tree>/_delta_log/…, <partition>/part-….parquet, where tables are wanted
_runs/<run_id>/manifest.json
_staging/commits/<key>.json, parts/…, attempts/…, prepared/…, locks/…, faults/…

A part has the same name in both trees, and no file in one where it would have no rows.
"""

from __future__ import annotations

import hashlib
import re
import sys

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

# The second form is that of earlier versions of this package.
_PART_NAME = re.compile(r"part-(?:(\d{9})-\d{5}|[0-9a-f]{12}-\d{8,})-[0-9a-f]{16}\.parquet")


def partition_folder(tree: str, partition: str) -> str:
    """Return the folder of a partition in one of the trees, or among the ledgers."""
    return f"{tree}/{partition}" if partition else tree


def in_partition(tree: str, partition: str, name: str) -> str:
    """Return the name of a file of a partition."""
    return f"{partition_folder(tree, partition)}/{name}"


def part_name(number: int, index: int, attempt: str) -> str:
    """Return the name of a published part, the same in both trees.

    number: of the ledger that names it first. index: among its new parts. attempt: 16
    hexadecimal digits that no other attempt at that ledger has, so that no name is ever used
    again: a request that arrives late can only hit a name that is dead.
    """
    return f"part-{number:09d}-{index:05d}-{attempt}.parquet"


def part_number(name: str) -> int:
    """Return the number of the ledger that named a published part first, 0 if it is no part.

    One of an earlier version has a number that no ledger has.
    """
    match = _PART_NAME.fullmatch(name)
    return int(match[1] or sys.maxsize) if match else 0


def ledger(partition: str, number: int) -> str:
    """Return the name of one ledger of a partition."""
    return in_partition(LEDGERS, partition, f"{number:09d}.json")


def ledger_number(name: str) -> int:
    """Return the number of a ledger by its file name, 0 if it is none."""
    digits = name.removesuffix(".json")
    return int(digits) if name.endswith(".json") and digits.isdecimal() else 0


def delta_table(tree: str) -> str:
    """Return where a tree's Delta table lies."""
    return f"delta/{tree}"


def staged_part(tree: str, key: str, attempt: str) -> str:
    """Return where one attempt at a shard writes its part of a tree."""
    return f"{STAGED_PARTS}/{key}.{attempt}.{tree}.parquet"


def prepared(tree: str) -> str:
    """Return below what a tree's parts are written before they take their place in it.

    By partition, as in the tree, so that a reader of one that a ledger names already finds the
    partition's columns there, too.
    """
    return f"{PREPARED}/{tree}"


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


def lock(partition: str) -> str:
    """Return the name of a partition's lock, which no file system finds too long."""
    return f"{LOCKS}/{hashlib.sha256(partition.encode()).hexdigest()}.lock"
