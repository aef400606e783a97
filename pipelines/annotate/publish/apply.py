"""Bringing a partition's folders to what its newest ledger names.

The ledger is the truth and never changes. So whoever comes can do this, any number of times
and several at once, and be killed anywhere: parts come from the staging folder under names
that were never used before, and only names that a ledger dropped are removed.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator

from pipelines.annotate.output import layout
from pipelines.annotate.output.ledger import Ledger, ShardEntry
from pipelines.annotate.output.partitions import PartitionState, success_text
from pipelines.annotate.publish.exchange import exchange_folders
from pipelines.console.signals import uninterrupted
from pipelines.storage.files import OutputError, Store

# On stores without folders so many parts are brought at once, and those that they replace
# removed right after: who lists the folder in between meets posts of few files twice.
_AT_ONCE = 32


class OvertakenError(OutputError):
    """Another run has committed a newer ledger of the partition."""


def apply(store: Store, partition: str, state: PartitionState) -> None:
    """Bring the folders to what the state's ledger names, and let them say _SUCCESS if it is so.

    On a disk each tree's folder is prepared beside the old one and takes its place in one step.
    Elsewhere parts come and go by input file. Raises OvertakenError, and OutputError where a
    part is gone or the store refuses.
    """
    ledger = state.ledger
    assert ledger is not None
    with uninterrupted():
        if store.local and _exchange(store, partition, state, ledger):
            return
    _in_place(store, partition, state, ledger)


def _exchange(store: Store, partition: str, state: PartitionState, ledger: Ledger) -> bool:
    """Return False where a folder cannot be exchanged as a whole; then nothing is changed."""
    folders = {t: store.full(layout.partition_folder(t, partition)) for t in layout.TREES}
    beside = layout.prepared(partition)
    prepared = {tree: f"{store.full(beside)}/{tree}" for tree in layout.TREES}
    forget_prepared(store, partition)
    linked = {}
    for tree, folder in folders.items():
        files = _files(folder)
        if files is None:
            return False
        gone = {layout.SUCCESS, *ledger.dropped}
        links = {name: f"{folder}/{name}" for name in files if name not in gone}
        links |= {e.name: store.full(e.staged(tree)) for e in _staged(state, tree)}
        linked[tree] = {*links, *files}
        with store.explained("write", beside):
            os.makedirs(prepared[tree])
            for name, source in links.items():
                os.link(source, f"{prepared[tree]}/{name}")
        if _complete(state, ledger):
            success = f"{beside}/{tree}/{layout.SUCCESS}"
            store.write(success, success_text(partition, state.number))
        store.sync(f"{beside}/{tree}/any")
    for tree in reversed(layout.TREES):
        with store.explained("write", layout.partition_folder(tree, partition)):
            exchange_folders(prepared[tree], folders[tree])
            for name in _files(prepared[tree]) or ():
                if name not in linked[tree]:
                    # It came meanwhile, from whoever else writes here.
                    os.rename(f"{prepared[tree]}/{name}", f"{folders[tree]}/{name}")
        store.sync(layout.partition_folder(tree, partition))
        store.remove_empty_folders(layout.partition_folder(tree, partition), tree)
    return True


def forget_prepared(store: Store, partition: str) -> None:
    """Remove what a disk keeps of the folders that were exchanged, or prepared and not used."""
    if store.local:
        shutil.rmtree(store.full(layout.prepared(partition)), ignore_errors=True)


def _files(folder: str) -> list[str] | None:
    """Return the files in a folder, None where it holds folders or is not itself one."""
    if os.path.islink(folder):
        return None
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return []
    except NotADirectoryError:
        return None
    return [e.name for e in entries] if all(e.is_file() for e in entries) else None


def _in_place(store: Store, partition: str, state: PartitionState, ledger: Ledger) -> None:
    """Bring and remove parts in the folders that readers see."""
    steps = list(_steps(state, ledger))
    complete = _complete(state, ledger)

    def remove(place: tuple[str, str]) -> None:
        store.remove(layout.in_partition(place[0], partition, place[1]))

    def bring(place: tuple[str, ShardEntry]) -> None:
        tree, entry = place
        published = layout.in_partition(tree, partition, entry.name)
        # Another run may be at the same, and have cleared the staging folder.
        if not store.copy(entry.staged(tree), published) and store.size(published) is None:
            check_newest()
            raise OutputError(
                f"{store.url}/{entry.staged(tree)} is gone: the staging folder was changed from "
                "outside; run again, its shard is annotated anew"
            )

    def check_newest() -> None:
        if store.size(layout.ledger(partition, state.number + 1)) is not None:
            raise OvertakenError(f"partition {partition or '(none)'}: another run is publishing it")

    if steps or not complete:
        says = [tree for tree in layout.TREES if layout.SUCCESS in state.sizes[tree]]
        store.for_each(remove, [(tree, layout.SUCCESS) for tree in says])
    for brought, removed in steps:
        with uninterrupted():
            store.for_each(bring, brought)
            store.for_each(remove, removed)
    check_newest()
    for tree in reversed(layout.TREES):
        if complete:
            success = layout.in_partition(tree, partition, layout.SUCCESS)
            store.write(success, success_text(partition, state.number))
        store.sync(layout.in_partition(tree, partition, layout.SUCCESS))
        store.remove_empty_folders(layout.partition_folder(tree, partition), tree)


def _steps(
    state: PartitionState, ledger: Ledger
) -> Iterator[tuple[list[tuple[str, ShardEntry]], list[tuple[str, str]]]]:
    """Yield what is brought and removed together: whole input files, as many as fill a step."""
    brought: list[tuple[str, ShardEntry]] = []
    removed: list[tuple[str, str]] = []
    there = [(t, n) for t in layout.TREES for n in ledger.dropped if n in state.sizes.get(t, {})]
    by_mark = {
        mark: list(places)
        for mark, places in itertools.groupby(
            sorted(there, key=lambda place: layout.mark_of(place[1]) or ""),
            key=lambda place: layout.mark_of(place[1]),
        )
    }
    for name, file in ledger.files.items():
        brought += [
            (tree, entry)
            for entry in file.shards
            for tree in layout.TREES
            if (tree, entry.name) in state.staged
        ]
        removed += by_mark.pop(layout.file_mark(name), [])
        if len(brought) + len(removed) >= _AT_ONCE:
            yield brought, removed
            brought, removed = [], []
    removed += itertools.chain(*by_mark.values())
    if brought or removed:
        yield brought, removed


def _staged(state: PartitionState, tree: str) -> list[ShardEntry]:
    return [entry for entry in state.entries.values() if (tree, entry.name) in state.staged]


def _complete(state: PartitionState, ledger: Ledger) -> bool:
    """Whether the partition will be complete once the ledger is applied."""
    entries = state.entries
    if not ledger.files or ledger.unpublished or state.parts() - {*entries, *ledger.dropped}:
        return False
    return all(state.holds(entry) for entry in entries.values())
