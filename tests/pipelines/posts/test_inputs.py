from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drf_core.decoding.children import Child, Children
from pipelines.posts import reading
from pipelines.posts.input_files import RowGroup
from pipelines.posts.inputs import list_inputs, read_footer
from pipelines.posts.names import name_of
from pipelines.storage.backends import open_url
from schemas.errors import UsageError
from schemas.posts import PostColumns
from tests.data.corpora import (
    IMAGE_STRUCT,
    damage_footer,
    make_posts,
    write_posts,
)


def names(*paths: object, **options: object) -> list[str]:
    listing = list_inputs([str(path) for path in paths], **options)  # type: ignore[arg-type]
    return [file.source_file for file in listing.files]


def errors(*paths: object, **options: object) -> list[str]:
    listing = list_inputs([str(path) for path in paths], **options)  # type: ignore[arg-type]
    return [file.error for file in listing.failed]


BOTH = ["dt=2026-11-17/part-00000.parquet", "dt=2026-11-18/part-00000.parquet"]


TYPES = {"post_id": pa.string(), "text": pa.string(), "image": pa.binary()}


class TestPaths:
    def test_a_folder_means_every_parquet_file_below(self, nights: Path) -> None:
        assert names(nights) == BOTH

    def test_hidden_and_other_files_are_left_out(self, nights: Path) -> None:
        for name in ("_SUCCESS", ".hidden.parquet", "_part.parquet", "notes.txt"):
            (nights / "dt=2026-11-17" / name).write_text("no posts")
        write_posts(nights / "_staging" / "a.parquet", make_posts(1))
        write_posts(nights / ".trash" / "a.parquet", make_posts(1))
        assert names(nights) == BOTH

    def test_a_partition_that_is_left_out_is_told(self, nights: Path) -> None:
        (nights / "dt=2026-11-18").rename(nights / "_dt=2026-11-18")
        write_posts(nights / "_temporary" / "a.parquet", make_posts(1))
        for given in (nights, nights / "*"):
            listing = list_inputs([str(given)])
            assert [file.source_file for file in listing.files] == BOTH[:1]
            assert listing.warnings == ("_dt=2026-11-18 is left out: its name begins with '_'",)

    def test_a_file_may_have_any_name(self, tmp_path: Path) -> None:
        assert names(write_posts(tmp_path / "posts.pq", make_posts(1))) == ["posts.pq"]

    @pytest.mark.parametrize(
        ("pattern", "found"),
        [
            ("dt=*/part-*.parquet", BOTH),
            ("dt=*", BOTH),
            ("**/*.parquet", BOTH),
            ("dt=2026-11-1[8]/*", BOTH[1:]),
        ],
    )
    def test_a_glob_means_what_it_matches(
        self, nights: Path, pattern: str, found: list[str]
    ) -> None:
        assert names(nights / pattern) == found

    def test_a_name_with_glob_characters_is_taken_as_it_is_where_it_exists(
        self, tmp_path: Path
    ) -> None:
        assert names(write_posts(tmp_path / "a[1].parquet", make_posts(1))) == ["a[1].parquet"]

    def test_a_file_named_twice_is_read_once(self, nights: Path) -> None:
        assert names(nights, nights / "dt=2026-11-17", nights / BOTH[0]) == BOTH

    def test_relative_paths_are_made_absolute(
        self, nights: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(nights.parent)
        (file, _) = list_inputs(["nightly"]).files
        assert file.path == str(nights / BOTH[0])

    def test_roots_are_what_the_paths_look_below(self, nights: Path) -> None:
        listing = list_inputs([f"{nights}/", f"{nights}/dt=*/*.parquet", str(nights / BOTH[0])])
        assert listing.roots == (str(nights), str(nights / BOTH[0]))

    @pytest.mark.parametrize(
        ("path", "says"),
        [
            ("nowhere", "no such file or folder"),
            ("nowhere/*.parquet", "matches no file"),
            ("empty", r"holds no file of posts \([^)]*\)$"),
            ("other", r"holds no file of posts \(.*\), but posts.txt; name a file itself"),
            ("pipe", "is neither a file nor a folder"),
        ],
    )
    def test_what_names_nothing_is_refused(self, tmp_path: Path, path: str, says: str) -> None:
        (tmp_path / "empty").mkdir()
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "posts.txt").write_text("[{}]")
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(UsageError, match=f"--input .*{says}"):
            names(tmp_path / path)

    def test_a_name_that_is_no_utf8_is_told(self, tmp_path: Path) -> None:
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"pr_nom": ["x"]}), path, store_schema=False)
        path.write_bytes(path.read_bytes().replace(b"pr_nom", b"pr\xe9nom"))
        (failed,) = list_inputs([str(tmp_path)]).failed
        assert "(the name of a column is not UTF-8)" in failed.error

    def test_a_number_among_ids_or_texts_of_records_fails_no_file(self, tmp_path: Path) -> None:
        lines = [f'{{"post_id": {number}, "text": null, "image": null}}' for number in (1, 2.5)]
        (tmp_path / "a.jsonl").write_text("\n".join([*lines, lines[0].replace("null", "7", 1)]))
        listing = list_inputs([str(tmp_path)])
        assert [file.rows for file in listing.files] == [3]
        footer = read_footer(*open_url(listing.files[0].path), columns=PostColumns())
        assert [footer.schema.field(name).type for name in ("post_id", "text")] == [pa.string()] * 2

    def test_json_is_of_posts_where_a_folder_has_nothing_else(self, tmp_path: Path) -> None:
        for name in ("part-0.json", "part-1.json", "_spark.json"):
            (tmp_path / name).write_text('{"post_id": 1, "text": "t", "image": null}')
        assert names(tmp_path) == ["part-0.json", "part-1.json"]
        (tmp_path / "posts.csv").write_text("post_id,text,image\n1,t,\n")
        assert names(tmp_path) == ["posts.csv"]

    def test_what_is_read_otherwise_than_it_was_written_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_bytes(b"post_id,text,image\n1,caf\xe9,\n2,tea,\n")
        (warning,) = list_inputs([str(tmp_path)]).warnings
        assert warning.startswith("1 records of a.csv have bytes that are no UTF-8")

    @pytest.mark.parametrize("path", ["", " ", "s3://", "gs://", "https://"])
    def test_what_an_empty_variable_leaves_is_refused(self, path: str) -> None:
        with pytest.raises(UsageError, match=r"--input .*names nothing; is a variable empty\?"):
            names(path)

    @pytest.mark.parametrize("url", ["http://[::1]:9/a.parquet", "http://u:secret@127.0.0.1:9/#a"])
    def test_a_host_is_asked_by_any_address(self, url: str) -> None:
        with pytest.raises(
            UsageError, match=r"cannot be listed: .* \('(::1|127.0.0.1)', 9"
        ) as told:
            names(url)
        assert "secret" not in str(told.value)

    @pytest.mark.parametrize(
        "name", ["a::b", "file:a", "-a", "a%2Fb", "a#b?c", "a\n\x1b[31m\x07b", " 'a\"b", "ä" * 120]
    )
    def test_of_any_name_are_read_alone_and_in_their_folder(
        self, tmp_path: Path, name: str
    ) -> None:
        path = write_posts(tmp_path / "posts" / f"{name}.parquet", make_posts(1))
        assert names(path) == names(path.parent) == [path.name]

    def test_an_unknown_protocol_is_refused(self) -> None:
        with pytest.raises(UsageError, match="nosuch"):
            names("nosuch://bucket/posts")

    def test_a_folder_that_cannot_be_listed_is_refused_not_skipped(
        self, nights: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scandir = os.scandir

        def refuse(path: str):  # type: ignore[no-untyped-def]
            if str(path).endswith("dt=2026-11-18"):
                raise PermissionError(13, "Permission denied")
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refuse)
        with pytest.raises(UsageError, match="cannot be listed: Permission denied"):
            names(nights)

    def test_input_and_output_may_not_lie_in_each_other(self, nights: Path) -> None:
        with pytest.raises(UsageError, match="lies in the input folder"):
            names(nights, output=str(nights / "out"))
        with pytest.raises(UsageError, match="lies in the output"):
            names(nights, output=str(nights.parent))
        with pytest.raises(UsageError, match="lies in the output"):
            names(nights / BOTH[0], output=str(nights))
        assert names(nights / "dt=*" / "*.parquet", output=str(nights / "out")) == BOTH


class TestNames:
    def test_are_the_same_from_wherever_a_hive_file_was_given(self, nights: Path) -> None:
        for path in (nights, nights / "dt=2026-11-17", nights / BOTH[0], nights / "dt=*17" / "*"):
            assert names(path)[0] == BOTH[0]

    def test_are_relative_to_the_root_without_hive_folders(self, tmp_path: Path) -> None:
        write_posts(tmp_path / "in" / "de" / "a.parquet", make_posts(1))
        assert names(tmp_path / "in") == ["de/a.parquet"]
        assert names(tmp_path / "in" / "de") == ["a.parquet"]

    def test_partitions_are_the_hive_folders(self, tmp_path: Path) -> None:
        root = tmp_path / "in"
        for folder in ("", "dt=1", "dt=1/hour=2", "dt=1/raw/hour=3", "other"):
            write_posts(root / folder / "a.parquet", make_posts(1))
        listing = list_inputs([str(root)])
        assert {file.source_file: file.partition for file in listing.files} == {
            "a.parquet": "",
            "dt=1/a.parquet": "dt=1",
            "dt=1/hour=2/a.parquet": "dt=1/hour=2",
            "dt=1/raw/hour=3/a.parquet": "dt=1/hour=3",
            "other/a.parquet": "",
        }

    def test_two_inputs_of_one_name_are_refused_by_both_names(self, tmp_path: Path) -> None:
        one = write_posts(tmp_path / "one" / "a.parquet", make_posts(1))
        two = write_posts(tmp_path / "two" / "a.parquet", make_posts(1))
        with pytest.raises(UsageError) as fault:
            names(tmp_path / "one", tmp_path / "two")
        assert str(one) in str(fault.value)
        assert str(two) in str(fault.value)

    @pytest.mark.parametrize(
        ("url", "relative", "name"),
        [
            ("s3://AKIA:sec=ret@bucket/x.parquet", "x.parquet", ("x.parquet", "")),
            ("s3://b=1/dt=1/x.parquet", "x.parquet", ("dt=1/x.parquet", "dt=1")),
            ("https://h/dt=1/x.parquet?sig=a/b=c/d", "x", ("dt=1/x.parquet", "dt=1")),
            ("https://h/x.parquet?sig=s3cret", "https://h/x.parquet?sig=1", None),
            ("s3://bucket/a?b.parquet", "a?b.parquet", ("a?b.parquet", "")),
        ],
    )
    def test_hold_no_host_and_no_credentials(
        self, url: str, relative: str, name: tuple[str, str] | None
    ) -> None:
        assert name_of(url, relative) == (name or ("https://h/x.parquet", ""))

    @pytest.mark.parametrize("key", ["label", "Source_File", "reason", "lang"])
    def test_a_hive_key_called_like_a_column_is_refused(self, tmp_path: Path, key: str) -> None:
        write_posts(tmp_path / f"{key}=gold" / "a.parquet", make_posts(1))
        with pytest.raises(UsageError, match=f"{key}=gold"):
            names(tmp_path, keep=["LANG"])

    def test_that_are_not_utf8_fail_the_file_alone(self, nights: Path) -> None:
        os.rename(nights / BOTH[0], os.fsencode(nights / "dt=2026-11-17") + b"/caf\xe9.parquet")
        (error,) = errors(nights)
        assert r"caf\xe9.parquet: the name is not UTF-8" in error
        assert names(nights) == BOTH[1:]


class TestLinks:
    def test_to_a_file_that_is_named_too_are_left_out(self, nights: Path) -> None:
        (nights / "latest").symlink_to(nights / "dt=2026-11-18")
        (nights / "dt=2026-11-17" / "a.parquet").symlink_to(nights / BOTH[0])
        listing = list_inputs([str(nights)])
        assert [file.source_file for file in listing.files] == BOTH
        assert len(listing.warnings) == 2
        assert any("latest/part-00000.parquet is the same file as" in w for w in listing.warnings)

    def test_alone_are_followed(self, nights: Path) -> None:
        (nights.parent / "latest").symlink_to(nights / "dt=2026-11-18")
        assert names(nights.parent / "latest") == ["part-00000.parquet"]

    def test_that_lead_back_are_followed_once(self, nights: Path) -> None:
        (nights / "dt=2026-11-17" / "up").symlink_to(nights)
        (nights / "one").mkdir()
        (nights / "two").mkdir()
        (nights / "one" / "x").symlink_to(nights / "two")
        (nights / "two" / "y").symlink_to(nights / "one")
        assert names(nights) == BOTH
        assert list_inputs([str(nights)]).warnings == ()
        (nights / "itself").symlink_to(nights / "itself")
        assert names(nights) == BOTH
        assert "not read: itself" in list_inputs([str(nights)]).warnings[0]


class TestColumnsNamedByTheUser:
    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ({"keep": ["langauge"]}, "--keep langauge: no input file has that column"),
            ({"columns": PostColumns(text="BODY")}, "--column text=BODY: no input file has"),
        ],
    )
    def test_that_no_file_has_are_refused(
        self, nights: Path, options: dict[str, Any], says: str
    ) -> None:
        with pytest.raises(UsageError, match=says):
            names(nights, **options)

    def test_that_a_file_lacks_fail_the_file_alone(self, nights: Path) -> None:
        posts = [{**post, "lang": "en"} for post in make_posts(2)]
        write_posts(nights / BOTH[0], posts, types={**TYPES, "lang": pa.string()})
        assert names(nights, keep=["lang"]) == BOTH[:1]
        assert len(errors(nights, keep=["lang"])) == 1


class TestFooters:
    def test_tell_rows_and_the_bytes_of_the_columns_that_are_read(self, tmp_path: Path) -> None:
        posts = [{**post, "other": "x" * 10_000} for post in make_posts(5)]
        types = {name: pa.string() for name in ("post_id", "text", "other")}
        types["image"] = IMAGE_STRUCT
        path = write_posts(
            tmp_path / "a.parquet",
            [{**p, "image": {"bytes": b"i" * 1_000, "path": None}} for p in posts],
            types=types,
            row_group_rows=2,
            use_dictionary=False,
        )
        (file,) = list_inputs([str(path)]).files
        assert [group.rows for group in file.row_groups] == [2, 2, 1]
        assert 2_000 < file.row_groups[0].bytes < 10_000
        (kept,) = list_inputs([str(path)], keep=["other"]).files
        assert kept.row_groups[0].bytes > 20_000

    def test_larger_than_one_read_are_read_whole(self, tmp_path: Path) -> None:
        path = write_posts(tmp_path / "a.parquet", make_posts(400), row_group_rows=1)
        assert len(read_footer(*open_url(str(path))).groups) == 400

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"", "is empty"),
            (b"PAR1", "does not end as a Parquet file"),
            (b"<html>404</html>" * 10, "does not end as a Parquet file"),
            (b"PAR1" + b"\xff" * 8 + b"PAR1", "corrupt Parquet footer"),
        ],
    )
    def test_of_what_is_no_parquet_fail_the_file_alone(
        self, nights: Path, content: bytes, says: str
    ) -> None:
        (nights / BOTH[0]).write_bytes(content)
        (error,) = errors(nights)
        assert says in error
        assert str(nights / BOTH[0]) in error
        assert names(nights) == BOTH[1:]

    def test_damaged_fail_the_file_alone(self, nights: Path) -> None:
        damage_footer(nights / BOTH[0])
        (error,) = errors(nights)
        assert "corrupt Parquet footer" in error
        assert "\n" not in error

    def test_cut_short_fail_the_file_alone(self, nights: Path) -> None:
        path = nights / BOTH[0]
        path.write_bytes(path.read_bytes()[:-10])
        assert "cut short" in errors(nights)[0]

    def test_with_the_wrong_columns_fail_the_file_alone(self, nights: Path) -> None:
        pq.write_table(pa.table({"post_id": ["a"], "text": [1.5]}), nights / BOTH[0])
        (error,) = errors(nights)
        assert "column 'text'" in error
        assert names(nights) == BOTH[1:]

    def test_follow_the_columns_mapped_by_name(self, tmp_path: Path) -> None:
        pq.write_table(pa.table({"ID": ["a"], "text": ["t"]}), tmp_path / "a.parquet")
        columns = PostColumns(post_id="ID", image=None)
        assert names(tmp_path, columns=columns) == ["a.parquet"]
        with pytest.raises(UsageError, match="the file lacks post_id and image; it has ID, text"):
            errors(tmp_path)

    def test_without_rows_are_worth_a_warning(self, tmp_path: Path) -> None:
        write_posts(tmp_path / "a.parquet", [])
        listing = list_inputs([str(tmp_path)])
        assert listing.warnings == ("a.parquet has no rows",)
        assert sum(group.rows for group in listing.files[0].row_groups) == 0


def test_row_groups_are_plain_numbers(nights: Path) -> None:
    (file, _) = list_inputs([str(nights)]).files
    assert file.row_groups == (RowGroup(3, file.row_groups[0].bytes),)


def test_files_of_records_are_counted_by_a_few_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Child] = []
    start = Child.__init__
    monkeypatch.setattr(Child, "__init__", lambda self: (started.append(self), start(self))[1])
    monkeypatch.setattr(reading, "_READERS", Children())
    for number in range(4):
        (tmp_path / f"{number}.csv").write_text("post_id,text,image\n1,a,\n")
        assert read_footer(*open_url(str(tmp_path / f"{number}.csv"))).groups[0][0] == 1
    assert len(started) == 1
