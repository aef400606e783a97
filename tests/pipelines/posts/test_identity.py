"""Which file an input is, whatever store it lies in."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.posts.inputs import input_gone, list_inputs, read_footer
from pipelines.storage.backends import open_url
from schemas.errors import UsageError
from tests.data.corpora import (
    damage_footer,
    make_posts,
    write_posts,
)
from tests.pipelines.posts.test_inputs import BOTH
from tests.support.nights.stand_in import SilentFS, memory_store


class TestIdentity:
    def identity(self, path: Path) -> str:
        return read_footer(*open_url(str(path))).identity

    def test_is_the_same_for_the_same_file(self, nights: Path) -> None:
        path = nights / BOTH[0]
        assert self.identity(path) == self.identity(path)
        assert list_inputs([str(nights)]).files[0].identity == self.identity(path)

    def test_changes_with_the_content_even_of_equal_size_and_time(self, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"post_id": ["a"], "text": ["t"]}), path)
        before, stat = self.identity(path), path.stat()
        pq.write_table(pa.table({"post_id": ["b"], "text": ["t"]}), path)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert path.stat().st_size == stat.st_size
        assert self.identity(path) != before

    def test_is_the_checksum_where_the_store_has_one(
        self, nights: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fs, path = open_url(str(nights / BOTH[0]))
        info = {**fs.info(path), "ETag": '"abc"'}
        monkeypatch.setattr(fs, "info", lambda *_, **__: info)
        first = read_footer(fs, path).identity
        os.utime(path)
        assert read_footer(fs, path).identity == first
        assert "abc" in first

    def test_is_size_and_footer_where_nobody_knows_more(self, nights: Path) -> None:
        fs, identities = SilentFS(), []
        for name in (BOTH[0], BOTH[0], BOTH[1]):
            fs.pipe_file("/posts.parquet", (nights / name).read_bytes())
            identities.append(read_footer(fs, "/posts.parquet").identity)
        assert "modified:unknown" in identities[0]
        assert identities[0] == identities[1] != identities[2]


class TestOtherStores:
    def test_are_listed_like_a_disk(self, nights: Path) -> None:
        store = memory_store("inputs")
        for name in BOTH:
            store.write(f"nightly/{name}", (nights / name).read_bytes())
        for path in ("nightly", "nightly/dt=*/*.parquet", "nightly/dt=2026-11-*"):
            listing = list_inputs([f"memory://inputs/{path}"])
            assert [file.source_file for file in listing.files] == BOTH
        (file, _) = listing.files
        fs, path = open_url(file.path)
        assert (fs.protocol, fs.exists(path)) == ("memory", True)
        assert file.row_groups[0].rows == 3
        with pytest.raises(UsageError, match="no such file, folder or bucket"):
            list_inputs(["memory://inputs/nowhere"])

    def test_the_url_keeps_its_host_for_the_workers_and_shows_no_password(
        self, nights: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A store whose paths leave out the host, as fsspec's ftp and sftp do."""

        class Host(fsspec.get_filesystem_class("dir")):  # type: ignore[misc]
            protocol = "host"

            def __init__(self, **_: object) -> None:
                super().__init__(path=str(nights), fs=fsspec.filesystem("file"))

            @classmethod
            def _strip_protocol(cls, path: str) -> str:
                return "/" + path.split("://")[-1].partition("/")[2].rstrip("/")

        fsspec.register_implementation("host", Host, clobber=True)
        damage_footer(nights / BOTH[1])
        listing = list_inputs([f"host://user:secret@machine/{BOTH[0]}"])
        assert [file.path for file in listing.files] == [f"host://user:secret@machine/{BOTH[0]}"]
        listing = list_inputs([f"host://user:secret@machine/{BOTH[1]}"])
        assert "secret" not in repr(listing.failed)
        assert listing.failed[0].path == f"host://machine/{BOTH[1]}"


def test_an_input_is_gone_only_where_the_store_says_so(tmp_path: Path) -> None:
    path = write_posts(tmp_path / "a.parquet", make_posts(1))
    assert not input_gone(str(path))
    path.unlink()
    assert input_gone(str(path))
    with pytest.raises(Exception, match="nosuch"):
        input_gone("nosuch://bucket/a")
