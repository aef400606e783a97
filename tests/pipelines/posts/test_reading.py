"""Reading: only what is needed, in small batches, and one clear line where a file is damaged."""

from __future__ import annotations

import http.server
import os
import random
import threading
import tracemalloc
from pathlib import Path
from typing import ClassVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drf_core.decoding.child import described
from drf_core.decoding.children import Child, Children, Limits, TaskRaisedError
from pipelines.annotate.job import Shard
from pipelines.posts import parsing, reading
from pipelines.posts.input_files import CorruptInputError
from pipelines.posts.inputs import read_footer
from pipelines.posts.reading import read_unit_rows
from pipelines.storage.files import in_parallel
from schemas.posts import BROKEN, PostColumns, check_posts_schema
from tests.data import corpora

FS = fsspec.filesystem("file")


def make_shard(path: Path, first_row: int, rows: int, row_groups: tuple[int, ...]) -> Shard:
    return Shard(
        path=str(path),
        source_file=path.name,
        partition="",
        identity="",
        first_row=first_row,
        rows=rows,
        row_groups=row_groups,
        base_key=f"key-{first_row}",
        key=f"key-{first_row}",
    )


def layout_of(path: Path, keep: tuple[str, ...] = ()):
    return check_posts_schema(pq.read_schema(path), PostColumns(), keep, path.name)


def read_rows(fs, path: str, shard: Shard, layout, batch_rows: int = 64):
    for _, first_row, batch in read_unit_rows(fs, path, [shard], layout, batch_rows):
        yield first_row, batch


def ids_of(batches) -> list[tuple[int, str]]:
    return [
        (first_row + offset, post_id)
        for first_row, batch in batches
        for offset, post_id in enumerate(batch.column("post_id").to_pylist())
    ]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return corpora.write_posts(
        tmp_path / "posts.parquet", corpora.make_posts(50), row_group_rows=20
    )


def test_a_shard_gives_its_rows_in_source_order(corpus: Path):
    shard = make_shard(corpus, 15, 20, (0, 1))
    rows = ids_of(read_rows(FS, str(corpus), shard, layout_of(corpus), batch_rows=8))
    assert rows == [(row, f"p{row}") for row in range(15, 35)]


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Child]:
    """The children that readers start; there are none yet."""
    children: list[Child] = []
    start = Child.__init__
    monkeypatch.setattr(Child, "__init__", lambda self: (children.append(self), start(self))[1])
    monkeypatch.setattr(reading, "_READERS", Children())
    return children


def test_one_child_reads_many_shards_also_where_rows_follow(
    corpus: Path, started: list[Child]
) -> None:
    for first in (0, 5, 10):
        batches = list(
            read_rows(FS, str(corpus), make_shard(corpus, first, 5, (0,)), layout_of(corpus))
        )
        assert [row for row, _ in ids_of(batches)] == list(range(first, first + 5))
    assert len(started) == 1


def test_two_children_read_however_many_footers_at_once(corpus: Path, started: list[Child]) -> None:
    footers = in_parallel(lambda _: read_footer(FS, str(corpus)), range(16), workers=16)
    assert {footer.rows for footer in footers} == {pq.read_metadata(corpus).num_rows}
    assert len(started) <= 2


def test_batches_are_no_larger_than_asked(corpus: Path):
    shard = make_shard(corpus, 0, 50, (0, 1, 2))
    batches = list(read_rows(FS, str(corpus), shard, layout_of(corpus), batch_rows=8))
    assert max(batch.num_rows for _, batch in batches) == 8


def test_large_rows_come_in_smaller_batches(tmp_path: Path):
    posts = [{"post_id": str(n), "text": "t", "image": bytes([n]) * 3_000_000} for n in range(20)]
    path = corpora.write_posts(
        tmp_path / "large.parquet", posts, compression="none", use_dictionary=False
    )
    shard = make_shard(path, 0, 20, (0,))
    batches = list(read_rows(FS, str(path), shard, layout_of(path)))
    assert 1 < max(batch.num_rows for _, batch in batches) <= 12
    assert ids_of(batches) == [(n, str(n)) for n in range(20)]


def test_only_the_needed_columns_are_read(tmp_path: Path):
    posts = [{**post, "lang": "en", "secret": "x"} for post in corpora.make_posts(3)]
    types = dict.fromkeys(("post_id", "text", "lang", "secret"), pa.string())
    path = corpora.write_posts(
        tmp_path / "posts.parquet", posts, types={**types, "image": pa.binary()}
    )
    layout = layout_of(path, keep=("lang",))
    assert set(layout.read) == {"post_id", "text", "image", "lang"}
    # The bytes of the column that nobody asked for may even be damaged.
    corpora.damage_page(path, "secret")
    (_, batch), *_ = read_rows(FS, str(path), make_shard(path, 0, 3, (0,)), layout)
    assert batch.schema.names == ["post_id", "text", "image", "image_uri", BROKEN, "lang"]


def test_shards_of_one_row_group_are_streamed_in_one_pass(tmp_path: Path):
    path = corpora.write_posts(tmp_path / "posts.parquet", corpora.make_posts(30))
    shards = [make_shard(path, first, 10, (0,)) for first in (0, 20)]

    opened: list[str] = []

    class CountingFS(fsspec.implementations.local.LocalFileSystem):
        cachable = False

        def _open(self, path, *args, **kwargs):
            opened.append(path)
            return super()._open(path, *args, **kwargs)

    read = list(read_unit_rows(CountingFS(), str(path), shards, layout_of(path), batch_rows=7))
    assert len(opened) == 1
    by_shard = {
        shard.first_row: ids_of((first, batch) for s, first, batch in read if s == shard)
        for shard in shards
    }
    assert by_shard[0] == [(row, f"p{row}") for row in range(10)]
    assert by_shard[20] == [(row, f"p{row}") for row in range(20, 30)]


def test_a_shard_without_rows_gives_none(tmp_path: Path):
    path = corpora.write_posts(tmp_path / "empty.parquet", [])
    assert list(read_rows(FS, str(path), make_shard(path, 0, 0, ()), layout_of(path))) == []


def test_the_memory_held_does_not_grow_with_the_row_group(tmp_path: Path):
    posts = [
        {"post_id": str(n), "text": "t", "image": n.to_bytes(4, "big") * 250_000}
        for n in range(128)
    ]
    path = corpora.write_posts(
        tmp_path / "one_group.parquet",
        posts,
        compression="none",
        use_dictionary=False,
        # Pages of eight rows: a page is the least that Parquet can decode.
        write_batch_size=8,
        data_page_size=1 << 20,
    )
    assert pq.ParquetFile(path).metadata.row_group(0).total_byte_size > 120_000_000
    layout = layout_of(path)
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    most = 0
    for _, _batch in read_rows(FS, str(path), make_shard(path, 0, 128, (0,)), layout, 8):
        most = max(most, pa.total_allocated_bytes() - before + tracemalloc.get_traced_memory()[1])
    tracemalloc.stop()
    assert most < 60_000_000


def test_a_corrupt_page_names_file_and_rows(corpus: Path):
    layout = layout_of(corpus)
    corpora.damage_page(corpus, "image", row_group=1)
    shard = make_shard(corpus, 20, 20, (1,))
    with pytest.raises(CorruptInputError, match=r"^posts\.parquet: rows 20 to 39 cannot be read"):
        list(read_rows(FS, str(corpus), shard, layout))
    sound = ids_of(read_rows(FS, str(corpus), make_shard(corpus, 0, 20, (0,)), layout))
    assert len(sound) == 20


def test_a_page_whose_checksum_is_wrong_is_corrupt(tmp_path: Path):
    path = corpora.write_posts(
        tmp_path / "posts.parquet",
        corpora.make_posts(5),
        compression="none",
        use_dictionary=False,
        write_page_checksum=True,
    )
    layout = layout_of(path)
    content = path.read_bytes()
    at = content.index(b"lovely morning")
    path.write_bytes(content[:at] + b"LOVELY" + content[at + 6 :])
    with pytest.raises(CorruptInputError):
        list(read_rows(FS, str(path), make_shard(path, 0, 5, (0,)), layout))


def test_a_file_with_fewer_rows_than_planned_is_corrupt(corpus: Path):
    with pytest.raises(CorruptInputError, match="5 of them are not in the file"):
        list(read_rows(FS, str(corpus), make_shard(corpus, 40, 15, (2,)), layout_of(corpus)))


@pytest.mark.parametrize("damage", [corpora.damage_footer, lambda path: path.write_bytes(b"")])
def test_a_footer_that_was_damaged_since_is_corrupt(corpus: Path, damage):
    layout = layout_of(corpus)
    damage(corpus)
    with pytest.raises(CorruptInputError, match="cannot be read"):
        list(read_rows(FS, str(corpus), make_shard(corpus, 0, 20, (0,)), layout))


def test_a_fault_of_the_store_is_not_taken_for_a_corrupt_file(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("pipelines.storage.retrying.FIRST_SECONDS", 0.01)
    layout = layout_of(corpus)

    class FailingFS(fsspec.implementations.local.LocalFileSystem):
        cachable = False

        def _open(self, path, *args, **kwargs):
            file = super()._open(path, *args, **kwargs)

            class Failing:
                def __getattr__(self, name):
                    return getattr(file, name)

                def __enter__(self):
                    return self

                def __exit__(self, *exc):
                    file.close()

                def read(self, size=-1):
                    if file.tell() < 1_000:
                        raise ConnectionResetError("the store hung up")
                    return file.read(size)

            return Failing()

    with pytest.raises(ConnectionResetError):
        list(read_rows(FailingFS(), str(corpus), make_shard(corpus, 0, 20, (0,)), layout))


def test_a_disk_that_fails_is_not_taken_for_a_corrupt_file(tmp_path: Path):
    posts = [{"post_id": str(n), "text": "t", "image": bytes(100_000)} for n in range(20)]
    path = corpora.write_posts(
        tmp_path / "posts.parquet",
        posts,
        compression="none",
        use_dictionary=False,
        # Pages of two rows, so that there is something left to read.
        write_batch_size=2,
    )
    message = {"path": str(path), "first": 0, "groups": [0], "batch_rows": 2, "columns": ["image"]}
    with pa.OSFile(str(path)) as file:
        batches = parsing._batches(file, message, None)
        next(batches)
        # The file that Arrow has open turns into one that cannot be read.
        unreadable = os.open(os.devnull, os.O_WRONLY)
        os.dup2(unreadable, file.fileno())
        os.close(unreadable)
        with pytest.raises(OSError, match="Bad file descriptor") as raised, parsing._described():
            list(batches)
    # So a child says it, and so its parent raises it.
    with pytest.raises(OSError, match="Bad file descriptor"), reading._explained(Limits()):
        raise TaskRaisedError(described(raised.value))


class RangeHandler(http.server.BaseHTTPRequestHandler):
    """Serves one file in ranges, as object stores do, and notes how much it sent."""

    content: bytes
    sent: ClassVar[list[int]]

    def log_message(self, *args) -> None:
        pass

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()

    def do_GET(self) -> None:
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        part = self.content[int(first) : int(last) + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(self.content)}")
        self.end_headers()
        self.wfile.write(part)
        self.sent.append(len(part))


def test_a_remote_file_is_read_in_ranges_and_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    # Noise does not compress: each row group is 2 MB.
    posts = [
        {"post_id": str(n), "text": "t", "image": random.Random(n).randbytes(100_000)}
        for n in range(60)
    ]
    path = corpora.write_posts(tmp_path / "posts.parquet", posts, row_group_rows=20)

    class Handler(RangeHandler):
        content = path.read_bytes()
        sent: ClassVar[list[int]] = []

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/posts.parquet"
        shard = make_shard(path, 20, 20, (1,))
        rows = ids_of(read_rows(fsspec.filesystem("http"), url, shard, layout_of(path)))
        server.shutdown()
    assert rows == [(row, str(row)) for row in range(20, 40)]
    assert 2_000_000 < sum(Handler.sent) < 2_500_000


def test_the_nights_are_read_as_they_are(shared: Path):
    for path in sorted((shared / "corpora" / "nightly").rglob("*.parquet")):
        metadata = pq.ParquetFile(path).metadata
        groups = tuple(range(metadata.num_row_groups))
        shard = make_shard(path, 0, metadata.num_rows, groups)
        rows = ids_of(read_rows(FS, str(path), shard, layout_of(path)))
        assert [row for row, _ in rows] == list(range(metadata.num_rows))
