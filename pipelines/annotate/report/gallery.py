"""The posts behind a report, with their texts and pictures: for those who may see them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from drf_core.decoding.images import decode_image
from pipelines.annotate.output.ledger import LedgerFile
from pipelines.annotate.report.source_posts import Place, SourcePost, read_source_posts
from pipelines.storage.files import Store
from schemas.annotations import MODALITIES
from schemas.posts import MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS, PostColumns

_EDGE = 96
_MOST_BYTES = 1_800_000
_MOST_TEXT = 400

_COLUMNS = (
    *("post_id", "label", "confidence", "source_file", "source_row"),
    *(f"{m}_{what}" for m in MODALITIES for what in ("state", "quality", "reason")),
    *(f"{m}_{what}" for m in MODALITIES for what in ("damage", "evidence")),
)


def read_night_rows(store: Store, places: Sequence[str]) -> pa.Table:
    """Return what a gallery or a review looks at of a night's annotations.

    places: files, or `FOLDER/*.parquet`, below the output (gather.RunNight).
    """
    names: list[str] = []
    for place in places:
        folder, _, name = place.rpartition("/")
        found = sorted(store.sizes(folder)) if name == "*.parquet" else [name]
        names += [f"{folder}/{one}" for one in found if one.endswith(".parquet")]
    if not names:
        return pa.table({})
    paths = [store.full(name) for name in names]
    dataset = ds.dataset(paths, filesystem=store.fs, format="parquet")
    return dataset.to_table(columns=[c for c in _COLUMNS if c in dataset.schema.names])


def add_labels_before(rows: pa.Table, other: pa.Table) -> pa.Table:
    """Add the label that another model's annotations gave the same posts, null where none did.

    rows, other: of read_night_rows; posts are the same by their source file and row.
    """
    labels = {
        (row["source_file"], row["source_row"]): row["label"]
        for row in other.select(["source_file", "source_row", "label"]).to_pylist()
    }
    places = zip(rows["source_file"].to_pylist(), rows["source_row"].to_pylist(), strict=True)
    before = pa.array([labels.get(place) for place in places], pa.string())
    return rows.append_column("label_before", before)


def make_gallery(
    rows: pa.Table,
    most: int,
    files: Mapping[str, LedgerFile],
    columns: PostColumns,
    title: str,
) -> dict[str, Any]:
    """Return blocks of up to `most` posts each, with pictures re-encoded at 96 pixels.

    rows: of read_night_rows, with add_labels_before or without. The page stays below two
    megabytes: posts that would take it further are left out, the last blocks first.
    """
    blocks = [(name, taken) for name, taken in _choose(rows, most) if taken.num_rows]
    places = [
        (row["source_file"], row["source_row"]) for _, taken in blocks for row in taken.to_pylist()
    ]
    posts, problems = read_source_posts(files, places, columns)
    left, shown, known = _MOST_BYTES, [], dict[Place, str | None]()
    for name, taken in blocks:
        cards = []
        for row in taken.to_pylist():
            place = (row["source_file"], row["source_row"])
            post = posts.get(place, SourcePost(None, None, None))
            if place not in known:
                known[place] = thumbnail(post.image)
            card = _card(row, post, known[place])
            left -= len(card["image"] or "") + len(card["text"] or "") + 700
            if left < 0:
                break
            cards.append(card)
        if cards:
            shown.append({"name": name, "posts": cards})
    return {"title": title, "blocks": shown, "problems": problems, "cut": left < 0}


def _choose(rows: pa.Table, most: int) -> list[tuple[str, pa.Table]]:
    """Which posts to look at, and why."""

    def lowest(table: pa.Table, column: str) -> pa.Table:
        return table.take(pc.sort_indices(table[column])[:most])

    def drawn(table: pa.Table) -> pa.Table:
        rng = np.random.default_rng(0)
        return table.take(np.sort(rng.permutation(table.num_rows)[:most]))

    blocks = [("Least certain", lowest(rows, "confidence"))]
    evidence = [f"{m}_evidence" for m in MODALITIES]
    if set(evidence) <= set(rows.column_names):
        both = rows.filter(
            pc.and_(*(pc.not_equal(rows[f"{m}_state"], "recovered") for m in MODALITIES))
        )
        gap = pc.negate(pc.abs(pc.subtract(both[evidence[0]], both[evidence[1]])))
        opposed = pc.less(pc.multiply(both[evidence[0]], both[evidence[1]]), 0)
        apart = both.append_column("gap", gap).filter(opposed)
        blocks.append(("Text and image disagree", lowest(apart, "gap")))
    if "label_before" in rows.column_names:
        changed = rows.filter(pc.not_equal(rows["label"].cast(pa.string()), rows["label_before"]))
        blocks.append(("Label changed", drawn(changed)))
    for m in MODALITIES:
        usable = rows.filter(pc.not_equal(rows[f"{m}_state"], "recovered"))
        blocks.append((f"Strangest {m}s", lowest(usable, f"{m}_quality")))
    for m in MODALITIES:
        for what, words in (("reason", "{} {}"), ("damage", "{} looks {}")):
            column = f"{m}_{what}"
            if column not in rows.column_names:
                continue
            for value in sorted(v for v in pc.unique(rows[column]).to_pylist() if v):
                name = words.format(m.capitalize(), value.replace("_", " "))
                blocks.append((name, drawn(rows.filter(pc.equal(rows[column], value)))))
    blocks.append(("Drawn at random", drawn(rows)))
    return blocks


def _card(row: Mapping[str, Any], post: SourcePost, image: str | None) -> dict[str, Any]:
    states = []
    for m in MODALITIES:
        why = row[f"{m}_reason"] or row.get(f"{m}_damage")
        said = f"{m} {row[f'{m}_state']} {row[f'{m}_quality']:.2f}".replace("_", " ")
        said += f" ({why.replace('_', ' ')})" if why else ""
        evidence = row.get(f"{m}_evidence")
        states.append(said if evidence is None else f"{said}, says {evidence:+.2f}")
    return {
        "post_id": row["post_id"],
        "label": row["label"],
        "before": row.get("label_before"),
        "confidence": row["confidence"],
        "why": " · ".join(states),
        "text": None if post.text is None else post.text[:_MOST_TEXT],
        "longer": max(0, len(post.text or "") - _MOST_TEXT),
        "image": image,
        "no_image": "at its address" if post.image is None and post.image_uri else "no picture",
    }


def thumbnail(image: bytes | None, edge: int = _EDGE) -> str | None:
    """A data: URI of an image at most `edge` pixels wide and high, None where nothing is to see.

    Decoded and encoded again: neither EXIF nor any byte of the original is left.
    """
    picture, reason = decode_image(
        image, max_pixels=MAX_IMAGE_PIXELS, max_bytes=MAX_IMAGE_BYTES, target=edge
    )
    if picture is None or reason:
        return None
    picture = picture.convert("RGB")
    picture.thumbnail((edge, edge))
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=70)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
