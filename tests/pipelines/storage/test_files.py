from __future__ import annotations

import hashlib
import os
import resource
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.annotate.output import part_reader, part_writer
from pipelines.annotate.output.ledger import Part
from pipelines.annotate.output.part_reader import StoredFile
from pipelines.annotate.output.part_writer import PartWriter
from pipelines.storage.files import OutputError, OutputRefusedError, Store, open_store
from pipelines.storage.redaction import reason_of, redact
from tests.support.killing import run_and_kill
from tests.support.nights.stand_in import SilentFS, memory_store

TABLE = pa.table({"n": [1, 2, 3]})


@pytest.fixture(params=["disk", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """A store on a local disk, and one of another kind."""
    yield open_store(str(tmp_path / "out")) if request.param == "disk" else memory_store("store")


class TestFiles:
    def test_what_is_not_there_is_none(self, store: Store) -> None:
        assert store.read("a/b") is None
        assert store.read_json("a/b") is None
        assert store.size("a/b") is None
        assert store.sizes("a") == {}
        assert store.sizes("a", recursive=True) == {}
        store.remove("a/b")

    def test_write_replaces(self, store: Store) -> None:
        store.write("a/b", b"one")
        store.write("a/b", b"three")
        assert store.read("a/b") == b"three"
        assert store.size("a/b") == 5

    @pytest.mark.parametrize("closed", [False, True])
    def test_a_part_that_is_given_up_leaves_nothing(self, store: Store, closed: bool) -> None:
        part = PartWriter(store, "a/part", TABLE.schema)
        part.add(TABLE)
        if closed:
            part.close()
        part.discard()
        assert store.read("a/part") is None

    def test_a_stored_file_reads_like_any_file(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.write("a/b", b"0123456789")
        for most in (100, 5):
            monkeypatch.setattr(part_reader, "ONE_REQUEST_BYTES", most)
            file = StoredFile(store, "a/b", 10)
            assert (file.read(3), file.tell(), file.read()) == (b"012", 3, b"3456789")
            assert (file.seek(-4, os.SEEK_END), file.read(100), file.read()) == (6, b"6789", b"")

    def test_create_never_replaces(self, store: Store) -> None:
        assert store.create("a/b", b"first")
        assert not store.create("a/b", b"second")
        assert store.read("a/b") == b"first"

    def test_a_copy_outlives_what_it_was_made_of(self, store: Store) -> None:
        store.write("a/one", b"bytes")
        assert store.copy("a/one", "b/two") and store.copy("a/one", "b/two")
        store.remove("a/one")
        assert store.read("b/two") == b"bytes"
        assert not store.copy("a/one", "b/three")

    def test_no_name_leads_out_of_the_root(self, store: Store) -> None:
        for name in ("../x", "a/../../x", ".."):
            with pytest.raises(OutputError, match="is no name of a file"):
                store.remove(name)

    def test_sizes_are_of_one_folder_or_of_all_below(self, store: Store) -> None:
        store.write("a/one", b"1")
        store.write("a/b/two", b"22")
        store.write("ab/three", b"333")
        assert store.sizes("a") == {"one": 1}
        assert store.sizes("a", recursive=True) == {"b/two": 2, "one": 1}

    def test_a_part_is_what_its_writer_says(
        self, store: Store, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, most in (("one", 1 << 20), ("two", 100)):
            monkeypatch.setattr(part_writer, "ONE_REQUEST_BYTES", most)
            writer = PartWriter(store, f"a/{name}", TABLE.schema)
            writer.add(TABLE)
            data = writer.close(), store.read(f"a/{name}") or b""
            assert data[0] == Part(3, len(data[1]), hashlib.sha256(data[1]).hexdigest())
            assert pq.read_table(pa.BufferReader(data[1])) == TABLE

    def test_age_is_that_of_the_last_write(self, store: Store) -> None:
        store.write("a/b", b"")
        assert store.ages("a")["b"] < 60
        assert store.ages("c") == {}

    def test_damaged_json_says_what_to_delete(self, store: Store) -> None:
        store.write("a.json", b'{"half":')
        with pytest.raises(OutputError, match=r"a\.json is not valid JSON; delete it"):
            store.read_json("a.json")

    def test_of_many_creators_at_once_one_wins(self, tmp_path: Path) -> None:
        store = open_store(str(tmp_path))
        wins: list[int] = []
        barrier = threading.Barrier(8)

        def create(number: int) -> None:
            barrier.wait()
            if store.create("record", str(number).encode() * 10_000):
                wins.append(number)

        threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(wins) == 1
        assert store.read("record") == str(wins[0]).encode() * 10_000


def create_record(root: str) -> None:
    open_store(root).create("records/one", b"whole")


@pytest.mark.parametrize("step", [1, 2])
def test_killed_while_creating_a_record_is_whole_or_not_there(tmp_path: Path, step: int) -> None:
    assert run_and_kill(step, create_record, str(tmp_path))
    store = open_store(str(tmp_path))
    assert store.read("records/one") == (None if step == 1 else b"whole")
    assert store.create("records/one", b"later") == (step == 1)


def test_a_folder_that_another_run_removes_since_it_is_empty_loses_no_file(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    done = threading.Event()

    def remove() -> None:
        while not done.wait(0.0002):
            store.remove_empty_folders("annotations/dt=1", "annotations")

    remover = threading.Thread(target=remove)
    remover.start()
    try:
        for number in range(200):
            name = f"annotations/dt=1/{number}"
            store.write(name, b"whole", durable=False)
            assert store.create(f"{name}.new", b"new")
            assert store.copy(f"{name}.new", f"{name}.copy")
            for left in (name, f"{name}.new", f"{name}.copy"):
                assert store.size(left)
                store.remove(left)
            store.check_writable("annotations/dt=1")
    finally:
        done.set()
        remover.join()


def test_a_folder_that_is_removed_whenever_it_was_made_takes_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, folder, make = open_store(str(tmp_path)), tmp_path / "annotations", os.makedirs

    def made_and_removed(path: str, *given: object, **named: object) -> None:
        make(path, *given, **named)  # type: ignore[arg-type]
        if Path(path) == folder:
            folder.rmdir()

    monkeypatch.setattr(os, "makedirs", made_and_removed)
    store.write("annotations/one", b"whole")
    assert store.read("annotations/one") == b"whole"
    assert sorted(path.name for path in folder.iterdir()) == ["one"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["_staging", "annotations"]


class TestFaults:
    def test_an_output_that_is_a_file_is_refused_in_one_line(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError, match=r"cannot write .*file") as fault:
            open_store(str(tmp_path / "file")).check_writable()
        assert "\n" not in str(fault.value)

    def test_an_output_that_nobody_may_write_is_refused(self) -> None:
        # Not even root makes folders there.
        with pytest.raises(OutputRefusedError, match="cannot write /sys/drf"):
            open_store("/sys/drf").check_writable()

    def test_a_writable_output_is_left_as_it_was(self, store: Store) -> None:
        store.check_writable()
        assert store.sizes("", recursive=True) == {}

    def test_where_nobody_knows_a_files_age_it_is_new(self) -> None:
        store = Store(SilentFS(), "/silent")
        store.write("_staging/parts/one", b"1")
        assert store.ages("_staging/parts") == {"one": 0.0}

    def test_a_file_that_goes_after_it_was_listed_is_new(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store = open_store(str(tmp_path))
        store.write("_staging/parts/one", b"1")
        listed = store.files("_staging/parts")
        (tmp_path / "_staging/parts/one").unlink()
        monkeypatch.setattr(Store, "files", lambda *of: listed)
        assert store.ages("_staging/parts") == {"one": 0.0}

    def test_an_unknown_protocol_is_refused(self) -> None:
        with pytest.raises(OutputError, match="nosuch://"):
            open_store("nosuch://bucket/out")

    def test_a_full_disk_is_one_line_and_leaves_no_half_file(self, tmp_path: Path) -> None:
        store = open_store(str(tmp_path))
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
        try:
            with pytest.raises(OutputError, match=r"cannot write .*record: File too large"):
                store.write("record", b"x" * 5_000)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        assert store.sizes("", recursive=True) == {}


class TestSecrets:
    @pytest.mark.parametrize(
        ("url", "shown"),
        [
            ("/a/b?c@d.parquet", "/a/b?c@d.parquet"),
            ("s3://bucket/a.parquet", "s3://bucket/a.parquet"),
            ("ftp://user:secret@host/a", "ftp://host/a"),
            ("https://host/a?token=secret", "https://host/a"),
            ("abfs://container@account.dfs.core.windows.net/a",) * 2,
        ],
    )
    def test_urls_are_shown_without_them(self, url: str, shown: str) -> None:
        assert redact(url) == shown

    def test_reasons_are_one_line_without_them(self) -> None:
        error = ValueError("failed:\n https://user:secret@host/a?sig=secret (403)")
        assert reason_of(error) == "failed: https://host/a (403)"
        assert reason_of(FileNotFoundError(2, "No such file or directory")) == (
            "No such file or directory"
        )
        assert reason_of(KeyError()) == "KeyError"
