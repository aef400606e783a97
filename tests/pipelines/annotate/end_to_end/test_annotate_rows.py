"""`drf annotate` end to end: what rows come out, and how readers see them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from schemas.annotations import annotations_schema
from tests.conftest import LABELS
from tests.data.corpora import (
    IMAGE_STRUCT,
    faulty_posts,
    make_posts,
    odd_posts,
    write_nights,
    write_posts,
)
from tests.support.running import Output, Run

Annotate = Callable[..., Run]


def test_every_row_of_every_night_is_exactly_once_in_the_output(
    tmp_path: Path, annotate: Annotate, output: Output
) -> None:
    paths = write_nights(tmp_path / "nightly", files_per_night=2, posts_per_file=20)

    run = annotate(tmp_path / "nightly")

    assert run.code == 0, run.err
    expected = [
        (str(path.relative_to(tmp_path / "nightly")), row) for path in paths for row in range(20)
    ]
    assert output.places() == sorted(expected)
    assert output.succeeded() == ["dt=2026-11-17", "dt=2026-11-18"]


def test_the_manifest_counts_each_input_file_and_the_whole(
    tmp_path: Path, annotate: Annotate, output: Output
) -> None:
    write_nights(tmp_path / "nightly", files_per_night=1, posts_per_file=20)
    bad = [fault.post for fault in faulty_posts()]
    write_posts(tmp_path / "nightly" / "dt=2026-11-17" / "more.parquet", make_posts(80) + bad)

    run = annotate(tmp_path / "nightly", "--run-id", "night-1")

    manifest = run.manifest
    assert (output.root / "_runs" / "night-1" / "manifest.json").read_text() == run.out
    files = {file["source_file"]: file for file in manifest["files"]}
    more = files["dt=2026-11-17/more.parquet"]
    assert (more["rows"], more["annotations"], more["dead_letters"]) == (89, 86, 3)
    for file in manifest["files"]:
        assert file["rows"] == file["annotations"] + file["dead_letters"]
        for part in file["parts"]:
            assert (output.root / "annotations" / file["partition"] / Path(part).name).exists()
    totals = manifest["totals"]
    assert (totals["files"], totals["rows"]) == (3, 129)
    assert sum(totals["labels"].values()) == totals["annotations"] == len(output.annotations)
    assert totals["dead_letter_reasons"] == dict(
        Counter(row["reason"] for row in output.dead_letters)
    )
    for name in ("text", "image"):
        states = Counter(row[f"{name}_state"] for row in output.annotations)
        assert totals["states"][name] == dict(states)
    assert manifest["computed_rows"] == 129


def test_faults_end_in_the_right_state_and_odd_posts_are_used(
    tmp_path: Path, annotate: Annotate, output: Output
) -> None:
    faults = faulty_posts()
    posts = [*make_posts(60), *odd_posts(), *(fault.post for fault in faults)]
    write_posts(tmp_path / "posts.parquet", posts)

    assert annotate(tmp_path / "posts.parquet").code == 0

    by_id = {row["post_id"]: row for row in output.annotations}
    letters = {row["post_id"]: row for row in output.dead_letters}
    for fault in faults:
        if fault.dead_letter:
            assert letters[fault.post["post_id"]]["reason"] == fault.dead_letter
            continue
        row = by_id[fault.name]
        for name, reason in (("text", fault.text_reason), ("image", fault.image_reason)):
            assert row[f"{name}_reason"] == reason, fault.name
            assert (row[f"{name}_state"] == "recovered") == (reason is not None), fault.name
    for post in odd_posts():
        row = by_id[post["post_id"]]
        assert (row["text_reason"], row["image_reason"]) == (None, None), post["post_id"]


def test_duplicate_ids_are_annotated_and_counted(
    tmp_path: Path, annotate: Annotate, output: Output
) -> None:
    posts = make_posts(20)
    posts[7]["post_id"] = posts[3]["post_id"]
    write_posts(tmp_path / "posts.parquet", posts)

    manifest = annotate(tmp_path / "posts.parquet").manifest

    assert manifest["totals"]["duplicate_ids"] == 1
    assert [row["source_row"] for row in output.annotations if row["post_id"] == "p3"] == [3, 7]


def test_struct_images_mapped_columns_and_kept_columns(
    tmp_path: Path, annotate: Annotate, output: Output
) -> None:
    types = {
        "ID": pa.int64(),
        "text": pa.large_string(),
        "PICTURE": IMAGE_STRUCT,
        "language": pa.string(),
    }
    posts = [
        {"ID": number, "text": post["text"], "PICTURE": post["image"], "language": "en"}
        for number, post in enumerate(make_posts(5))
    ]
    write_posts(tmp_path / "posts.parquet", posts, types=types)

    run = annotate(
        tmp_path / "posts.parquet",
        *("--column", "post_id=ID", "--column", "image=PICTURE", "--keep", "language"),
    )

    assert run.code == 0, run.err
    rows = output.annotations
    assert [row["post_id"] for row in rows] == ["0", "1", "2", "3", "4"]
    assert {row["image_reason"] for row in rows} == {None}
    assert {row["language"] for row in rows} == {"en"}


def test_kept_columns_of_any_type_stay_beside_their_posts(
    tmp_path: Path, annotate: Annotate, output: Output
) -> None:
    posts: list[dict[str, Any]] = [
        {**post, "view": f"of {number}", "tags": [f"tag {number}"]}
        for number, post in enumerate(make_posts(30))
    ]
    for lost in (0, 7, 8, 29):
        posts[lost] |= {"text": None, "image": None}
    types = {
        **{"post_id": pa.string(), "text": pa.string(), "image": pa.binary()},
        **{"view": pa.string_view(), "tags": pa.list_(pa.string_view())},
    }
    write_posts(tmp_path / "posts.parquet", posts, types=types)

    run = annotate(
        tmp_path / "posts.parquet",
        *("--keep", "view", "--keep", "tags", "--max-dead-letter-share", "0.2"),
    )

    assert run.code == 0, run.err
    assert len(output.annotations) == 26
    for row in output.annotations:
        assert (row["view"], row["tags"]) == (
            f"of {row['source_row']}",
            [f"tag {row['source_row']}"],
        )


def test_a_corpus_without_images_is_annotated_from_its_texts(
    tmp_path: Path, annotate: Annotate, output: Output
) -> None:
    types = {"post_id": pa.string(), "text": pa.string()}
    write_posts(tmp_path / "posts.parquet", make_posts(5), types=types)

    assert annotate(tmp_path / "posts.parquet", "--column", "image=").code == 0

    assert {row["image_state"] for row in output.annotations} == {"recovered"}
    assert {row["image_reason"] for row in output.annotations} == {"missing"}


def test_pyarrow_pandas_and_duckdb_read_the_output_as_it_is(
    tmp_path: Path, annotate: Annotate, output: Output
) -> None:
    write_nights(tmp_path / "nightly", files_per_night=1, posts_per_file=10)
    annotate(tmp_path / "nightly")
    folder = output.root / "annotations"

    dataset = ds.dataset(folder, format="parquet", partitioning="hive")
    frame = pd.read_parquet(folder)
    in_duckdb = output.duckdb(
        "select dt, count(*), min(probabilities.negative) from annotations group by dt order by dt"
    )

    schema = annotations_schema(LABELS)
    assert [field.name for field in dataset.schema] == [*schema.names, "dt"]
    assert dataset.count_rows() == len(frame) == 20
    assert str(frame["annotated_at"].dtype).endswith("UTC]")
    assert [(str(dt), rows) for dt, rows, _ in in_duckdb] == [
        ("2026-11-17", 10),
        ("2026-11-18", 10),
    ]
    for part in folder.rglob("*.parquet"):
        assert pq.read_schema(part).remove_metadata().equals(schema.remove_metadata())


def test_a_part_holds_the_rows_of_its_shards_in_source_order(
    tmp_path: Path, annotate: Annotate, output: Output
) -> None:
    write_posts(tmp_path / "posts.parquet", make_posts(50), row_group_rows=7)

    run = annotate(tmp_path / "posts.parquet", "--shard-rows", "20")

    [part] = (output.root / "annotations").glob("*.parquet")
    table = pq.ParquetFile(part).read()
    assert table["source_row"].to_pylist() == list(range(50))
    [(runtime, rows)] = run.manifest["runtimes"].items()
    assert runtime.startswith("openvino ") and rows == 50
    assert not list((output.root / "dead_letters").glob("*.parquet"))


def test_input_and_output_may_lie_on_an_object_store(
    tmp_path: Path, drf: Annotate, tiny_checkpoint: Path
) -> None:
    store = fsspec.filesystem("memory")
    local = write_posts(tmp_path / "posts.parquet", make_posts(20))
    store.pipe_file("/bucket/in/dt=1/posts.parquet", local.read_bytes())
    arguments = (
        *("annotate", "--input", "memory://bucket/in", "--output", "memory://bucket/out"),
        *("--model", tiny_checkpoint, "--device", "cpu", "--json"),
    )

    first, second = drf(*arguments), drf(*arguments)

    assert (first.code, first.manifest["computed_rows"]) == (0, 20), first.err
    assert (second.code, second.manifest["computed_rows"]) == (0, 0), second.err
    [part] = store.glob("/bucket/out/annotations/dt=1/*.parquet")
    with store.open(part) as file:
        assert pq.read_table(file).num_rows == 20
    assert store.exists("/bucket/out/annotations/dt=1/_SUCCESS")


def test_a_file_with_zero_rows_is_valid_with_a_warning(
    tmp_path: Path, annotate: Annotate, output: Output
) -> None:
    write_posts(tmp_path / "in" / "posts.parquet", make_posts(3))
    write_posts(tmp_path / "in" / "empty.parquet", [])

    run = annotate(tmp_path / "in")

    assert run.code == 0
    assert any("empty.parquet" in warning for warning in run.manifest["warnings"])
    assert output.succeeded() == ["."]
    assert len(output.annotations) == 3


def test_the_real_nights_come_out_whole_and_each_fault_in_its_place(
    shared: Path, annotate: Annotate, output: Output
) -> None:
    nightly = shared / "corpora" / "nightly"
    posts = {
        (str(path.relative_to(nightly)), row): post
        for path in sorted(nightly.rglob("*.parquet"))
        for row, post in enumerate(pq.read_table(path).to_pylist())
    }

    run = annotate(nightly)

    assert run.code == 0, run.err
    assert output.places() == sorted(posts)
    assert len(output.succeeded()) == 3
    rows = Counter(source_file for source_file, _ in posts)
    assert {file["source_file"]: file["rows"] for file in run.manifest["files"]} == rows
    assert run.manifest["totals"]["duplicate_ids"] > 0
    letters = {(row["source_file"], row["source_row"]): row for row in output.dead_letters}
    for place, post in posts.items():
        no_text = not (post["text"] or "").strip()
        if post["post_id"] is None:
            assert letters[place]["reason"] == "no_post_id"
        elif no_text and _picture(post) is None:
            assert letters[place]["reason"] == "no_usable_modality"
        elif place in letters:
            # Only a decoder can tell that its image is no image.
            assert no_text and letters[place]["stage"] == "decode"
    for row in output.annotations:
        post = posts[row["source_file"], row["source_row"]]
        picture = _picture(post)
        assert row["label"] in LABELS
        assert (row["text_share_read"] is None) == (row["text_reason"] is not None)
        assert (row["text_reason"] == "missing") == (post["text"] is None)
        assert (row["image_reason"] == "missing") == (picture is None)
        if picture is not None and picture.lstrip().startswith(b"<"):
            assert row["image_reason"] == "undecodable"
        for name in ("text", "image"):
            assert (row[f"{name}_state"] == "recovered") == (row[f"{name}_reason"] is not None)
            assert math.isfinite(row[f"{name}_evidence"])
            assert (row[f"{name}_damage"] is not None) == (row[f"{name}_state"] == "low_quality")
    found = {row["image_reason"] for row in output.annotations}
    assert {"missing", "truncated", "undecodable", "too_large", None} <= found


def _picture(post: dict[str, Any]) -> bytes | None:
    image = post["image"]
    # No bytes are no image.
    return (image["bytes"] if isinstance(image, dict) else image) or None


def test_a_file_whose_kept_column_has_another_type_than_the_published_one_fails(
    tmp_path: Path, annotate: Annotate, output: Output
) -> None:
    types = {"post_id": pa.string(), "text": pa.string(), "image": pa.binary()}

    def write(night: int, value: Any, type_: pa.DataType) -> Path:
        posts = [{**post, "lang": value} for post in make_posts(2)]
        path = tmp_path / "in" / f"dt={night}" / "a.parquet"
        return write_posts(path, posts, types={**types, "lang": type_})

    assert annotate(write(1, 7, pa.int64()), "--keep", "lang").code == 0
    write(2, "en", pa.string())
    write(3, 8, pa.int64())

    run = annotate(tmp_path / "in" / "dt=[23]" / "*", "--keep", "lang")

    assert run.code == 4
    [error] = [file["error"] for file in run.manifest["files"] if file["error"]]
    assert "column 'lang': found string, expected int64 as in dt=1;" in error
    assert output.duckdb("select lang, count(*) from annotations group by 1 order by 1") == [
        (7, 2),
        (8, 2),
    ]
