"""Evaluation records: one per model, cell (or group of cells) and metric."""

from __future__ import annotations

import pyarrow as pa

EVALUATION_SCHEMA_VERSION = 1

# scope: "cell", or "group" for the mean over the cells of a group, whose name stands in cell.
# group, strategy, modality, ratio: what the cell does; null where a field does not apply.
# met_in_training: whether the model's training damaged its inputs in this way; null where the
#   checkpoint does not say, and for cells that damage nothing.
# value, low, high: the figure and its 95 % bootstrap interval.
# difference…: against the baseline model, paired over posts; null for the baseline itself.
# p_holm: p corrected over the cells (or groups) of one metric and one pair of models.
EVALUATION_SCHEMA = pa.schema(
    [
        pa.field("model", pa.string(), nullable=False),
        pa.field("scope", pa.string(), nullable=False),
        pa.field("cell", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("strategy", pa.string()),
        pa.field("modality", pa.string()),
        pa.field("ratio", pa.float64()),
        pa.field("met_in_training", pa.bool_()),
        pa.field("metric", pa.string(), nullable=False),
        pa.field("posts", pa.int64(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("baseline", pa.string()),
        pa.field("difference", pa.float64()),
        pa.field("difference_low", pa.float64()),
        pa.field("difference_high", pa.float64()),
        pa.field("p", pa.float64()),
        pa.field("p_holm", pa.float64()),
    ]
)
