"""Clearing the staging folder of what is published, and of what nobody will ask for again."""

from __future__ import annotations

from collections.abc import Iterable

from pipelines.annotate.output import layout
from pipelines.annotate.output.attempts import list_attempts
from pipelines.annotate.output.commit_records import committed_keys
from pipelines.storage.files import TEMPORARY, Store


def clear_shards(store: Store, keys: Iterable[str]) -> None:
    """Remove what the staging folder holds of published shards, but for attempts at work.

    Commit records go last: as long as one is there, somebody will clear the rest.
    """
    keys = set(keys)
    attempts = list_attempts(store, keys)
    at_work = {state.attempt for state in attempts if state.alive()}
    left = [
        layout.attempt_record(state.key, state.attempt)
        for state in attempts
        if state.attempt not in at_work
    ]
    for name in store.sizes(layout.STAGED_PARTS):
        key, attempt, *_ = name.split(".")
        if key in keys and attempt not in at_work:
            left.append(f"{layout.STAGED_PARTS}/{name}")
    store.for_each(store.remove, left)
    records = [layout.commit_record(key) for key in keys & committed_keys(store)]
    store.for_each(store.remove, records)


def sweep_staging(store: Store, older_than_seconds: float = 7 * 86_400) -> int:
    """Remove what nobody will ask for again; return how many files.

    That is: attempts' leftovers, commits that no plan has published for so long, parts that no
    ledger came to name, and ledgers but the newest of each partition. What is younger may
    belong to a run at work.
    """
    swept = (layout.STAGED_PARTS, layout.COMMITS, layout.ATTEMPTS, layout.FAULTS, TEMPORARY)
    folders = tuple(f"{folder}/" for folder in swept)
    staged = store.ages(layout.STAGING, recursive=True)
    ledgers = store.ages(layout.LEDGERS, recursive=True)
    newest: dict[str, int] = {}
    for name in ledgers:
        partition, _, file = name.rpartition("/")
        newest[partition] = max(newest.get(partition, 0), layout.ledger_number(file))

    def unwanted(name: str) -> bool:
        for tree in layout.TREES:
            if name.startswith(f"{layout.prepared(tree)}/"):
                partition, _, part = name[len(layout.prepared(tree)) + 1 :].rpartition("/")
                return layout.part_number(part) > newest.get(partition, 0)
        return name.startswith(folders)

    old = [
        f"{layout.STAGING}/{name}"
        for name, age in staged.items()
        if age > older_than_seconds and unwanted(f"{layout.STAGING}/{name}")
    ]
    old += [
        f"{layout.LEDGERS}/{name}"
        for name, age in ledgers.items()
        if age > older_than_seconds
        and layout.ledger_number(name.rpartition("/")[2]) < newest[name.rpartition("/")[0]]
    ]
    store.for_each(store.remove, old)
    return len(old)
