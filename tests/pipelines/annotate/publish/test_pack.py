"""Few parts of many small input files."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.annotate.output import layout
from pipelines.annotate.output.ledger import Counts, ShardEntry
from pipelines.annotate.output.partition_state import read_ledger
from pipelines.annotate.publish.pack import Packed
from pipelines.annotate.publish.publish_partition import PublishError
from pipelines.storage.files import open_store
from tests.data.corpora import make_posts, write_posts
from tests.support.nights.published_night import FIRST, NIGHT, corpus, output, replace_with
from tests.support.nights.stand_in import published_rows, run_job

__all__ = ["corpus", "output"]


def write_small_files(folder: Path, files: int, first: int = 0) -> Path:
    """Files of two posts; every tenth also has one that cannot be annotated."""
    for number in range(first, files):
        dead = [{"post_id": None}] if number % 10 == 0 else []
        path = folder / NIGHT / f"{number:04d}.parquet"
        write_posts(path, [*make_posts(2, 2 * number), *dead])
    return folder


def parts_of(output: Path) -> dict[str, list[Path]]:
    return {tree: sorted((output / tree / NIGHT).glob("*.parquet")) for tree in layout.TREES}


def rows_in(path: Path) -> int:
    return int(pq.read_metadata(path).num_rows)


def test_many_small_files_make_few_parts_and_none_is_empty(tmp_path: Path, output: Path) -> None:
    corpus = write_small_files(tmp_path / "in", 120)
    run_job(output, corpus)
    parts = parts_of(output)
    assert [[rows_in(part) for part in parts[tree]] for tree in layout.TREES] == [[240], [12]]
    before = published_rows(output)
    assert len(set(before)) == len(before) == 252

    (corpus / NIGHT / "0007.parquet").unlink()
    replace_with(corpus / NIGHT / "0010.parquet", 1)
    _, computed = run_job(output, corpus, prune=True)
    assert computed == {f"{NIGHT}/0010.parquet": 1}
    files = Counter(name.rpartition("/")[2] for name, _ in published_rows(output))
    assert files == {
        **{f"{n:04d}.parquet": 3 if n % 10 == 0 else 2 for n in range(120) if n != 7},
        "0010.parquet": 1,
    }
    _, computed = run_job(output, corpus, prune=True)
    assert not computed


def test_parts_are_filled_up_to_their_size(tmp_path: Path, output: Path) -> None:
    corpus = write_small_files(tmp_path / "in", 30)
    run_job(output, corpus, part_bytes=16_000)
    parts = parts_of(output)[layout.ANNOTATIONS]
    assert 1 < len(parts) < 10
    assert all(part.stat().st_size <= 16_000 for part in parts)
    assert sum(map(rows_in, parts)) == 60


def test_files_that_come_one_by_one_make_few_parts(tmp_path: Path, output: Path) -> None:
    most = 0
    for number in range(1, 8):
        corpus = write_small_files(tmp_path / "in", number, number - 1)
        run_job(output, corpus)
        most = max(most, len(parts_of(output)[layout.ANNOTATIONS]))
    assert most == 3
    assert len(published_rows(output)) == len(set(published_rows(output))) == 15


def test_one_flipped_bit_of_a_part_is_not_written_anew(corpus: Path, output: Path) -> None:
    run_job(output, corpus)
    [part] = parts_of(output)[layout.ANNOTATIONS]
    content = bytearray(part.read_bytes())
    content[100] ^= 1
    part.write_bytes(bytes(content))
    replace_with(corpus / FIRST, 3)
    with pytest.raises(PublishError, match="not those that were written; delete it"):
        run_job(output, corpus)
    part.unlink()
    run_job(output, corpus)
    assert len(published_rows(output)) == len(set(published_rows(output))) == 13


def test_rows_with_other_kept_columns_are_another_part(output: Path) -> None:
    packed = Packed(open_store(str(output)), NIGHT, 1, 1 << 20)
    for name, column in (("a", "lang"), ("b", "lang"), ("c", "place")):
        row = {"post_id": "1", "source_file": name, "source_row": 0, column: "x"}
        shard = ShardEntry(name, name, 0, 0, 1, 1, 0, Counts())
        packed.add([(name, shard)], 100, [(layout.ANNOTATIONS, pa.Table.from_pylist([row]))])
    packed.close()
    assert sorted(part.rows for part in packed.parts[layout.ANNOTATIONS].values()) == [1, 2]


def test_a_ledger_names_its_parts_with_their_rows(corpus: Path, output: Path) -> None:
    run_job(output, corpus)
    ledger = read_ledger(open_store(str(output)), NIGHT)
    assert ledger is not None
    [(name, part)] = ledger.parts[layout.ANNOTATIONS].items()
    assert (part.rows, ledger.parts[layout.DEAD_LETTERS]) == (20, {})
    assert {s.part for file in ledger.files.values() for s in file.shards} == {name}
