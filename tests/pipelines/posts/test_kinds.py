"""Every Parquet file of a folder is seen, whatever its name; what is none is named."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.posts.inputs import input_gone, list_inputs
from schemas.errors import UsageError
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


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"ORC" + bytes(40), "an ORC file"),
        (b"ARROW1\0\0" + bytes(40), "Arrow IPC"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\x1f\x8b\x08" + bytes(40), "a gzip archive"),
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
