"""Dead letters: one row for every post that could not be annotated, and why."""

from __future__ import annotations

import pyarrow as pa

DEAD_LETTERS_SCHEMA_VERSION = 1


def dead_letters_schema() -> pa.Schema:
    """Return the schema of dead letters.

    post_id is null where the post had none; stage, where it was given up: check, decode or model.
    """
    return pa.schema(
        [
            pa.field("post_id", pa.string()),
            pa.field("source_file", pa.string(), nullable=False),
            pa.field("source_row", pa.int64(), nullable=False),
            pa.field("stage", pa.string(), nullable=False),
            pa.field("reason", pa.string(), nullable=False),
            pa.field("message", pa.string(), nullable=False),
        ],
        metadata={"drf.schema_version": str(DEAD_LETTERS_SCHEMA_VERSION)},
    )
