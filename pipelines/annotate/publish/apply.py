"""Bringing a partition's folders to what its newest ledger names.

The ledger is the truth and never changes. So whoever comes can do this, any number of times
and several at once, and be killed anywhere: parts come from where they were prepared under
names that were never used before, and only names that no ledger will have again are removed.
"""

from __future__ import annotations

import contextlib
import os
import shutil

from pipelines.annotate.output import layout
from pipelines.annotate.output.partition_state import PartitionState, success_text
from pipelines.annotate.publish.swap_folders import exchange_folders
from pipelines.console.signals import uninterrupted
from pipelines.storage.files import OutputError, Store


class OvertakenError(OutputError):
    """Another run has committed a newer ledger of the partition."""


def apply(store: Store, partition: str, state: PartitionState) -> None:
    """Bring the folders to what the state's ledger names, and let them say _SUCCESS if it is so.

    On a disk each tree's folder is prepared beside the old one and takes its place in one step.
    Elsewhere new parts come, and those that they replace go right after. Raises OvertakenError,
    and OutputError where a part is gone or the store refuses.
    """
    with uninterrupted():
        if not (store.local and _exchange(store, partition, state)):
            _in_place(store, partition, state)


def _exchange(store: Store, partition: str, state: PartitionState) -> bool:
    """Return False where a folder cannot be exchanged as a whole; then nothing is changed."""
    places = [
        (layout.partition_folder(t, partition), _prepared(t, partition)) for t in layout.TREES
    ]
    found = [(_files(store.full(folder)), _files(store.full(new))) for folder, new in places]
    if any(files is None for pair in found for files in pair):
        return False
    dead, success = state.dead(), success_text(partition, state.number)
    complete = state.complete()
    for tree, (folder, new), (files, left) in zip(layout.TREES, places, found, strict=True):
        with store.explained("write", new):
            os.makedirs(store.full(new), exist_ok=True)
            coming = {name for of, name in state.staged if of == tree}
            for name in {*(left or ())} - coming:
                os.unlink(store.full(f"{new}/{name}"))
            for name in {*(files or ())} - {layout.SUCCESS} - {n for t, n in dead if t == tree}:
                with contextlib.suppress(FileExistsError):
                    os.link(store.full(f"{folder}/{name}"), store.full(f"{new}/{name}"))
        if complete:
            store.write(f"{new}/{layout.SUCCESS}", success)
        store.sync(f"{new}/any")
    for tree, (folder, new) in reversed([*zip(layout.TREES, places, strict=True)]):
        with store.explained("write", folder):
            exchange_folders(store.full(new), store.full(folder))
        store.sync(folder)
        store.remove_empty_folders(folder, tree)
    return True


def clear_prepared(store: Store, partition: str, number: int) -> None:
    """Remove what is left of parts that were prepared for a ledger up to a number."""
    for tree in layout.TREES:
        folder = _prepared(tree, partition)
        if store.local and _files(store.full(folder)) is not None:
            shutil.rmtree(store.full(folder), ignore_errors=True)
            store.remove_empty_folders(folder, layout.PREPARED)
            continue
        names = [n for n in store.sizes(folder) if 0 < layout.part_number(n) <= number]
        store.for_each(store.remove, [f"{folder}/{name}" for name in names])


def _prepared(tree: str, partition: str) -> str:
    return layout.partition_folder(layout.prepared(tree), partition)


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


def _in_place(store: Store, partition: str, state: PartitionState) -> None:
    """Bring and remove parts in the folders that readers see."""

    def remove(place: tuple[str, str]) -> None:
        store.remove(layout.in_partition(place[0], partition, place[1]))

    def bring(place: tuple[str, str]) -> None:
        tree, name = place
        prepared = layout.in_partition(layout.prepared(tree), partition, name)
        published = layout.in_partition(tree, partition, name)
        # Another run may be at the same, and have cleared the staging folder.
        if not store.copy(prepared, published) and store.size(published) is None:
            check_newest()
            raise OutputError(
                f"{store.url}/{prepared} is gone: the staging folder was changed from outside; "
                "run again, its posts are annotated anew"
            )

    def check_newest() -> None:
        if store.size(layout.ledger(partition, state.number + 1)) is not None:
            raise OvertakenError(f"partition {partition or '(none)'}: another run is publishing it")

    complete = state.complete()
    if state.staged or state.dead() or not complete:
        says = [tree for tree in layout.TREES if layout.SUCCESS in state.sizes.get(tree, {})]
        store.for_each(remove, [(tree, layout.SUCCESS) for tree in says])
    store.for_each(bring, sorted(state.staged))
    store.for_each(remove, sorted(state.dead()))
    check_newest()
    for tree in reversed(layout.TREES):
        if complete:
            success = layout.in_partition(tree, partition, layout.SUCCESS)
            store.write(success, success_text(partition, state.number))
        store.sync(layout.in_partition(tree, partition, layout.SUCCESS))
        store.remove_empty_folders(layout.partition_folder(tree, partition), tree)
