"""Every Parquet file of a folder is seen, whatever its name; what is none is named."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import deltalake
import fsspec
import pandas
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog import load_catalog
from pyiceberg.schema import Schema
from pyiceberg.table import StaticTable

from pipelines.posts.inputs import input_gone, list_inputs
from schemas.errors import UsageError
from schemas.posts import parse_columns
from tests.data.corpora import make_posts, write_posts


@pytest.mark.parametrize(
    "name",
    [
        *("posts.PARQUET", "posts.parq", "posts.pq", "posts.parquet.gzip", "posts.parquet.snappy"),
        *("000000_0", "part-00000-of-00010", "20261119_081530_00003_abcde_0f2c", "_x/../posts"),
    ],
)
def test_parquet_is_seen_by_name_or_by_its_first_bytes(tmp_path: Path, name: str) -> None:
    night = tmp_path / "night"
    write_posts(night / "plain.parquet", make_posts(2))
    write_posts(night / name.rsplit("/", 1)[-1], make_posts(3))
    (night / "notes").write_text("no Parquet")
    (night / "list.docx").write_bytes(b"PK\3\4")
    listing = list_inputs([str(night)])
    assert sorted(file.rows for file in listing.files) == [2, 3]
    assert listing.failed == ()
    (warning,) = listing.warnings
    assert "2 files" in warning and "notes" in warning and "list.docx" in warning


@pytest.mark.parametrize(
    ("mark", "kind"),
    [
        ("_delta_log/00000000000000000000.json", "a Delta table"),
        ("metadata/v1.metadata.json", "an Iceberg table"),
        (".hoodie/hoodie.properties", "a Hudi table"),
    ],
)
def test_tables_whose_log_tells_what_counts_are_refused(
    tmp_path: Path, mark: str, kind: str
) -> None:
    write_posts(tmp_path / "table" / "part-0.parquet", make_posts(2))
    (tmp_path / "table" / mark).parent.mkdir()
    (tmp_path / "table" / mark).write_text("{}")
    with pytest.raises(UsageError, match=f"^--input .*: is {kind}"):
        list_inputs([str(tmp_path / "table")])


def write_delta(folder: Path) -> None:
    for first in (0, 3):
        deltalake.write_deltalake(folder, three_posts(first), mode="overwrite")


def write_iceberg(folder: Path) -> None:
    catalog = load_catalog("here", type="sql", uri="sqlite://", warehouse=f"file://{folder.parent}")
    catalog.create_namespace("nights")
    table = catalog.create_table("nights.posts", three_posts(0).schema, location=f"file://{folder}")
    table.append(three_posts(0))
    table.overwrite(three_posts(3))


def write_hudi(folder: Path) -> None:
    """As Spark writes one whose posts were replaced; Hudi's library for Python only reads."""
    (folder / ".hoodie").mkdir(parents=True)
    (folder / ".hoodie" / "hoodie.properties").write_text(
        "hoodie.table.name=posts\nhoodie.table.type=COPY_ON_WRITE\nhoodie.table.version=6\n"
        "hoodie.timeline.layout.version=1\nhoodie.table.base.file.format=PARQUET\n"
    )
    for moment, first in (("20261117000000000", 0), ("20261118000000000", 3)):
        name = f"4b7c-0_0-1-2_{moment}.parquet"
        pq.write_table(three_posts(first), folder / name)
        written = {"fileId": "4b7c-0", "path": name, "partitionPath": "", "numWrites": 3}
        commit = {"partitionToWriteStats": {"": [written]}, "operationType": "UPSERT"}
        (folder / ".hoodie" / f"{moment}.commit").write_text(json.dumps(commit))


def three_posts(first: int) -> pa.Table:
    return pa.table({"post_id": [f"p{n}" for n in range(first, first + 3)], "text": ["t"] * 3})


@pytest.mark.parametrize("write", [write_delta, write_iceberg, write_hudi])
def test_a_table_is_read_by_its_log(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "table")
    written = [*(tmp_path / "table").rglob("*.parquet")]
    assert len(written) == 2
    columns = parse_columns(["image="])
    [file] = list_inputs([str(tmp_path / "table")], columns).files
    rows = pq.read_table(file.path)["post_id"].to_pylist()
    assert rows == ["p3", "p4", "p5"]
    # Whoever names the files himself, past the log, would have those that were replaced, too.
    [folder] = {path.parent for path in written}
    with pytest.raises(UsageError, match="is a table's folder, whose log tells"):
        list_inputs([f"{folder}/*.parquet"], columns)
    # A copy that lacks one has lost posts, and says so.
    Path(file.path).unlink()
    with pytest.raises(UsageError, match=r"its log names .*, which is not there|not found"):
        list_inputs([str(tmp_path / "table")], columns)


def test_an_iceberg_table_whose_files_hold_rows_that_do_not_count_is_refused(
    tmp_path: Path,
) -> None:
    write_iceberg(tmp_path / "table")
    table = StaticTable.from_metadata(str(max((tmp_path / "table/metadata").glob("*.json"))))
    metadata = table.metadata.model_copy(
        update={"schemas": [*table.metadata.schemas, renamed(table.schema())]}
    )
    path = tmp_path / "table" / "metadata" / "00009-later.metadata.json"
    path.write_text(metadata.model_dump_json())
    with pytest.raises(UsageError, match="some by its columns that were renamed"):
        list_inputs([str(tmp_path / "table")], parse_columns(["image="]))


def renamed(schema: Schema) -> Schema:
    fields = [field.model_copy(update={"name": f"{field.name}2"}) for field in schema.fields]
    return Schema(*fields, schema_id=1)


@pytest.mark.parametrize("rows", [{"post_id": [], "text": [], "image": []}, {}])
def test_a_file_without_rows_is_only_a_warning(tmp_path: Path, rows: dict[str, list[str]]) -> None:
    write_posts(tmp_path / "a.parquet", make_posts(2))
    # pandas takes columns without a value for numbers.
    pandas.DataFrame(rows).to_parquet(tmp_path / "b.parquet")
    listing = list_inputs([str(tmp_path)])
    assert [file.rows for file in listing.files] == [2, 0]
    assert (listing.failed, listing.warnings) == ((), ("b.parquet has no rows",))


def test_a_glob_of_everything_below_names_files_as_their_folder_does(tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    content = write_posts(tmp_path / "a.parquet", make_posts(2)).read_bytes()
    for name in ("a", "n/b"):
        fs.pipe(f"/names/{name}.parquet", content)
    try:
        named = [list_inputs([f"memory://names{below}"]).files for below in ("", "/**")]
        assert [file.path for file in named[0]] == [file.path for file in named[1]]
        assert [file.source_file for file in named[0]] == ["a.parquet", "n/b.parquet"]
    finally:
        fs.rm("/names", recursive=True)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"ORC" + bytes(40), "an ORC file"),
        (b"ARROW1\0\0" + bytes(40), "Arrow IPC"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\x1f\x8b\x08" + bytes(40), "a gzip archive"),
        (b"BZh91AY" + bytes(40), "a bzip2 archive"),
        (b"\xfd7zXZ" + bytes(40), "an xz archive"),
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
        (b'{"post_id": "1", "text": "a"}\n' * 3, "JSON"),
        (b"post_id,text\n1,a\n2,b\n", "CSV"),
        (b"PAR1" + bytes(100), "cut short"),
    ],
)
def test_what_is_no_parquet_is_named_for_what_it_is(
    tmp_path: Path, content: bytes, kind: str
) -> None:
    (tmp_path / "posts.parquet").write_bytes(content)
    (failed,) = list_inputs([str(tmp_path)]).failed
    assert kind in failed.error


@pytest.fixture
def answers() -> Iterator[tuple[str, list[int]]]:
    status = [200]

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status[0])
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"PAR1")

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/night/posts.parquet", status
        server.shutdown()


@pytest.mark.parametrize("status", [401, 403, 500, 503])
def test_a_server_that_does_not_say_so_has_not_lost_a_file(
    answers: tuple[str, list[int]], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("pipelines.storage.retrying.FIRST_SECONDS", 0.01)
    url, said = answers
    said[0] = status
    with pytest.raises(OSError, match="no answer") as raised:
        input_gone(url)
    assert not isinstance(raised.value, FileNotFoundError)
    with pytest.raises(UsageError, match="cannot be listed"):
        list_inputs([url])


@pytest.mark.parametrize("status", [404, 410])
def test_only_a_definite_answer_says_that_a_file_is_gone(
    answers: tuple[str, list[int]], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    url, said = answers
    assert not input_gone(url)
    said[0] = status
    assert input_gone(url)
