"""Histograms of a shard's rows, counted as they are written, so that a report needs no second pass.

They travel in the commit record and the ledger beside the plain counts; sums of them are the
histograms of a night.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from schemas.annotations import ANNOTATION_COLUMNS, MODALITIES

# Of [0, 1]: bin k holds k / 20 <= x < (k + 1) / 20, the last one 1 too. The first bin of a
# quality is what lies below the usual threshold of low quality.
BINS = 20

# A kept column with more distinct values, or longer ones, is no grouping but content.
MOST_GROUPS = 64
_LONGEST_GROUP = 48

# What is summed for each value of a kept column.
GROUP_FIELDS = ("posts", "text", "text_below", "image", "image_below", "confidence", "squares")

# What is summed for each label: evidence of both modalities for it, and rows in which the text says
# more for it than the image, and in which one speaks for it and the other against it.
EVIDENCE_FIELDS = ("text", "image", "by_text", "opposed")


@dataclass(frozen=True)
class Histograms:
    """How the values of annotations are distributed.

    quality: by modality, then state: rows per bin. confidence: by label: rows per bin.
    moments: of confidence, by column (label, text_state, image_state), then value: sum and sum
    of squares. evidence: by label: sums of EVIDENCE_FIELDS. damage: by modality, then kind: rows.
    groups: by kept column, then value: sums of GROUP_FIELDS (squares: of confidence), where text
    and image count the posts that have one that could be used, and *_below those of them in the
    lowest bin of quality; None where it has too many values.
    """

    quality: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    confidence: dict[str, list[int]] = field(default_factory=dict)
    moments: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    evidence: dict[str, list[float]] = field(default_factory=dict)
    damage: dict[str, dict[str, int]] = field(default_factory=dict)
    groups: dict[str, dict[str, list[float]] | None] = field(default_factory=dict)


def count_histograms(rows: pa.Table) -> Histograms:
    """Return the histograms of annotations."""
    confidence = _numbers(rows, "confidence")
    bins = _bins(confidence)
    codes = {name: _codes(rows[name]) for name in ("label", *(f"{m}_state" for m in MODALITIES))}
    found = Histograms(
        confidence={
            label: _count(bins[codes["label"][1] == code])
            for code, label in enumerate(codes["label"][0])
        },
        moments={
            column: {
                value: _moments(confidence[code == position])
                for position, value in enumerate(values)
            }
            for column, (values, code) in codes.items()
        },
    )
    if {"text_evidence", "image_evidence"} <= {*rows.column_names}:
        text, image = (_numbers(rows, f"{m}_evidence") for m in MODALITIES)
        said = np.stack([text, image, text > image, text * image < 0], axis=1)
        labels, code = codes["label"]
        for position, label in enumerate(labels):
            found.evidence[label] = said[code == position].sum(0).tolist()
    usable, below = {}, {}
    for m in MODALITIES:
        quality = _bins(_numbers(rows, f"{m}_quality"))
        values, code = codes[f"{m}_state"]
        found.quality[m] = {
            state: _count(quality[code == position]) for position, state in enumerate(values)
        }
        recovered = values.index("recovered") if "recovered" in values else -1
        usable[m] = code != recovered
        below[m] = usable[m] & (quality == 0)
        if f"{m}_damage" in rows.column_names:
            counted = pc.value_counts(rows[f"{m}_damage"]).to_pylist()
            found.damage[m] = {one["values"]: one["counts"] for one in counted if one["values"]}
    sums = np.stack(
        [
            np.ones(rows.num_rows),
            *(flags[m] for m in MODALITIES for flags in (usable, below)),
            confidence,
            np.square(confidence),
        ],
        axis=1,
    )
    for name in rows.column_names:
        if name not in ANNOTATION_COLUMNS:
            found.groups[name] = _group(rows[name], sums)
    return found


def sum_histograms(parts: Iterable[Histograms]) -> Histograms:
    """Return the sum of histograms."""
    total = Histograms()
    for part in parts:
        for one in dataclasses.fields(Histograms):
            name = one.name
            if name != "groups":
                add_counts(getattr(total, name), getattr(part, name))
        for column, groups in part.groups.items():
            held = total.groups.setdefault(column, {})
            if held is None:
                continue
            if groups is not None:
                add_counts(held, groups)
            if groups is None or len(held) > MOST_GROUPS:
                total.groups[column] = None
    return total


def add_counts(total: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add counts by name, lists of them, and whatever is nested by further names."""
    for key, value in more.items():
        if isinstance(value, dict):
            add_counts(total.setdefault(key, {}), value)
        elif isinstance(value, list):
            held = total.get(key) or [0] * len(value)
            total[key] = [a + b for a, b in zip(held, value, strict=True)]
        else:
            total[key] = total.get(key, 0) + value


def _numbers(rows: pa.Table, column: str) -> np.ndarray:
    return rows[column].to_numpy().astype(np.float64)


def _bins(values: np.ndarray) -> np.ndarray:
    return np.clip(np.floor(values * BINS), 0, BINS - 1).astype(np.int64)


def _count(bins: np.ndarray) -> list[int]:
    return [int(count) for count in np.bincount(bins, minlength=BINS)]


def _moments(values: np.ndarray) -> list[float]:
    return [float(values.sum()), float(np.square(values).sum())]


def _codes(column: pa.ChunkedArray) -> tuple[list[str], np.ndarray]:
    """Return a column's distinct values, and for each row the place of its own among them."""
    if not len(column):
        return [], np.empty(0, np.int64)
    encoded = column.combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy(zero_copy_only=False)


def _group(column: pa.ChunkedArray, sums: np.ndarray) -> dict[str, list[float]] | None:
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_date(kind)
    ):
        return None
    values, codes = _codes(column.cast(pa.string()).fill_null("(none)"))
    if len(values) > MOST_GROUPS or any(len(value) > _LONGEST_GROUP for value in values):
        return None
    return {value: sums[codes == code].sum(0).tolist() for code, value in enumerate(values)}
