"""What a shard holds already, where --retry asks for some of its rows again."""

from __future__ import annotations

import re
from collections.abc import Set

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.annotate.job import Shard
from pipelines.annotate.output import layout
from pipelines.annotate.output.part_reader import StoredFile, read_rows
from pipelines.storage.files import OutputError, Store
from schemas.annotations import MODALITIES
from schemas.dead_letters import dead_letters_schema

_NO_ANNOTATIONS = pa.schema(
    [("source_row", pa.int64()), *((f"{modality}_reason", pa.string()) for modality in MODALITIES)]
)
_LOST = re.compile(r"text is (\w+), image is (\w+)")


class EarlierRows:
    """Rows of a shard as an earlier run left them; those that are not asked for stay so.

    wanted: source rows that are.
    """

    def __init__(self, annotations: pa.Table, dead_letters: pa.Table, reasons: Set[str]) -> None:
        self._annotations = annotations
        self._dead_letters = dead_letters
        columns = ["source_row", *(f"{modality}_reason" for modality in MODALITIES)]
        self.wanted = {
            row["source_row"]
            for row in annotations.select(columns).to_pylist()
            if reasons & {row[f"{modality}_reason"] for modality in MODALITIES}
        }
        self.wanted |= {
            row["source_row"]
            for row in dead_letters.select(["source_row", "reason", "message"]).to_pylist()
            if reasons & {row["reason"], *_lost(row["message"])}
        }

    def completed(
        self, first_row: int, rows: int, annotations: pa.Table, dead_letters: pa.Table
    ) -> tuple[pa.Table, pa.Table, list[str]]:
        """Rows computed anew of a range, and the earlier ones of the others, by source_row.

        Also why the modalities of those dead letters could not be used.
        """
        kept = [
            one.filter(
                pc.and_(
                    pc.and_(
                        pc.greater_equal(one["source_row"], first_row),
                        pc.less(one["source_row"], first_row + rows),
                    ),
                    pc.invert(pc.is_in(one["source_row"], pa.array(self.wanted, pa.int64()))),
                )
            )
            for one in (self._annotations, self._dead_letters)
        ]
        lost = [why for message in kept[1]["message"].to_pylist() for why in _lost(message)]
        return _merged(kept[0], annotations), _merged(kept[1], dead_letters), lost


def read_earlier(store: Store, shard: Shard) -> EarlierRows | None:
    """Return what a shard held when it was planned; None where all of it is asked for.

    So it is where the earlier parts are gone: another run has replaced them meanwhile.
    """
    if shard.earlier is None:
        return None
    held = {layout.ANNOTATIONS: _NO_ANNOTATIONS, layout.DEAD_LETTERS: dead_letters_schema()}
    tables = {tree: schema.empty_table() for tree, schema in held.items()}
    try:
        for tree, place in shard.earlier.parts:
            file = StoredFile(store, place, store.size(place) or 0)
            rows = read_rows(file, "source_file", shard.source_file)
            end = shard.first_row + shard.rows
            tables[tree] = rows.filter(
                pc.and_(
                    pc.greater_equal(rows["source_row"], shard.first_row),
                    pc.less(rows["source_row"], end),
                )
            )
    except (OutputError, OSError, pa.ArrowException):
        return None
    reasons = frozenset(shard.earlier.reasons)
    return EarlierRows(tables[layout.ANNOTATIONS], tables[layout.DEAD_LETTERS], reasons)


def _merged(earlier: pa.Table, new: pa.Table) -> pa.Table:
    columns = [
        earlier[field.name].cast(field.type)
        if field.name in earlier.column_names
        else pa.nulls(earlier.num_rows, field.type)
        for field in new.schema
    ]
    before = pa.Table.from_arrays(columns, schema=new.schema)
    return pa.concat_tables([before, new]).sort_by("source_row")


def _lost(message: str) -> tuple[str, ...]:
    """Why a dead letter's modalities could not be used, as `prepare_post` words it."""
    found = _LOST.fullmatch(message)
    return found.groups() if found else ()
