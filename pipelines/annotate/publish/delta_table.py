"""What is published as Delta tables, one for each tree, for readers who want snapshots.

A ledger of a partition is one commit of a table's log: its new parts come, and those that it has
not any more go. The commit carries the ledger's number as a transaction of the partition, so the
log itself knows which ledger it has, and of two runs one commits. Parts have a second name below
the table (on object stores they are copies), where they stay until somebody vacuums the table.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pyarrow as pa

from pipelines.annotate.output import layout
from pipelines.annotate.output.ledger import Ledger
from pipelines.annotate.output.verify_parts import read_schema
from pipelines.storage.files import OutputError, Store, in_parallel
from pipelines.storage.redaction import reason_of
from schemas.errors import UsageError

if TYPE_CHECKING:
    from deltalake import DeltaTable

_TRIES = 20
_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


def check_installed() -> None:
    """Raise UsageError where what writes a table's log is not installed."""
    try:
        import deltalake  # noqa: F401
    except ImportError:
        raise UsageError("--table delta needs deltalake: pip install '.[delta]'") from None


def behind(store: Store, ledgers: Mapping[str, tuple[int, Ledger]]) -> set[str]:
    """Return the partitions whose newest ledger the tables do not have yet. ledgers: numbered."""
    tables = [(tree, _open(store, tree)) for tree in layout.TREES]
    return {
        partition
        for partition, (number, ledger) in ledgers.items()
        for tree, table in tables
        if (_number(table, partition) < number if table else ledger.parts.get(tree))
    }


def mirror(store: Store, partition: str, number: int, ledger: Ledger) -> None:
    """Bring the tables to a partition's ledger; can be repeated, killed, and done by two at once.

    Raises OutputError where a table refuses it.
    """
    for tree in layout.TREES:
        refused: Exception = OutputError("other runs keep writing it")
        for _ in range(_TRIES):
            try:
                if _commit(store, tree, partition, number, ledger):
                    break
            except OutputError:
                raise
            except Exception as error:
                # Another run was first, or an answer was lost: the log says which.
                refused = error
                time.sleep(0.05)
        else:
            raise OutputError(
                f"{store.url}/{layout.delta_table(tree)} refuses what is published of partition "
                f"{partition or '(none)'}: {reason_of(refused)}; the folders are complete"
            ) from refused


def _commit(store: Store, tree: str, partition: str, number: int, ledger: Ledger) -> bool:
    """Return whether the table has this ledger, or a newer one; commits it where not."""
    from deltalake import CommitProperties, Transaction
    from deltalake.transaction import AddAction, RemoveAction

    here = f"{partition}/" if partition else ""
    parts = {f"{here}{name}": part for name, part in ledger.parts.get(tree, {}).items()}
    table = _open(store, tree)
    if not parts if table is None else _number(table, partition) >= number:
        return True
    held = {} if table is None else _files(table, here)
    new = {path: part for path, part in parts.items() if path not in held}
    folder = layout.delta_table(tree)
    copied = in_parallel(lambda path: store.copy(f"{tree}/{path}", f"{folder}/{path}"), new)
    if not all(copied):
        # Who committed the ledger that has them not any more brings that one here.
        if store.size(layout.ledger(partition, number + 1)) is not None:
            return True
        raise OutputError(f"{store.url}: parts of '{partition}' are gone; run again with its input")
    values = _values(partition)
    written = [read_schema(store, f"{folder}/{path}").remove_metadata() for path in new]
    keys = pa.schema([(key, pa.string()) for key in values])
    table = _with_columns(store, tree, table, pa.unify_schemas([*written, keys]), [*values])
    now = int(time.time() * 1000)
    actions: list[AddAction | RemoveAction] = [
        AddAction(path, part.bytes, values, now, True, f'{{"numRecords":{part.rows}}}')
        for path, part in new.items()
    ]
    gone = ((path, size) for path, size in held.items() if path not in parts)
    actions += [RemoveAction(path, True, now, size, values) for path, size in gone]
    properties = CommitProperties(app_transactions=[Transaction(_application(partition), number)])
    table.create_write_transaction(
        actions, "append", table.schema(), [*values], commit_properties=properties
    )
    return True


def _with_columns(
    store: Store, tree: str, table: DeltaTable | None, columns: pa.Schema, keys: list[str]
) -> DeltaTable:
    """Return the table, made where there is none, with all of these columns."""
    from deltalake import DeltaTable, Schema

    if table is None:
        return DeltaTable.create(_url(store, tree), columns, "ignore", keys)
    if table.metadata().partition_columns != keys:
        raise OutputError(
            f"{store.url}/{layout.delta_table(tree)} is partitioned by "
            f"{table.metadata().partition_columns}, what is published by {keys}; leave --table "
            "away, or choose another output"
        )
    there = {field.name for field in table.schema().fields}
    if missing := [field for field in columns if field.name not in there]:
        table.alter.add_columns(Schema.from_arrow(pa.schema(missing)).fields)
        return DeltaTable(_url(store, tree))
    return table


def _files(table: DeltaTable, here: str) -> dict[str, int]:
    """Return a table's files below a partition's folder with their bytes, by path."""
    found = pa.table(table.get_add_actions(flatten=True)).select(["path", "size_bytes"])
    files = {unquote(one["path"]): one["size_bytes"] for one in found.to_pylist()}
    return {path: size for path, size in files.items() if path.startswith(here)}


def _open(store: Store, tree: str) -> DeltaTable | None:
    """Return a tree's table as its log is now, None where there is none yet."""
    from deltalake import DeltaTable
    from deltalake.exceptions import TableNotFoundError

    try:
        return DeltaTable(_url(store, tree))
    except TableNotFoundError:
        return None


def _number(table: DeltaTable, partition: str) -> int:
    """Return the number of the partition's ledger that a table has, 0 for none."""
    return table.transaction_version(_application(partition)) or 0


def _application(partition: str) -> str:
    return f"drf {partition}"


def _values(partition: str) -> dict[str, str | None]:
    pairs = (folder.partition("=") for folder in partition.split("/") if folder)
    return {key: None if value == _NO_VALUE else unquote(value) for key, _, value in pairs}


def _url(store: Store, tree: str) -> str:
    path = store.full(layout.delta_table(tree))
    return path if store.local else str(store.fs.unstrip_protocol(path))
