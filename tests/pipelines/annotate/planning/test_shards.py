"""Files are cut into shards, and shards fill work units."""

from __future__ import annotations

import dataclasses

import pytest

from pipelines.annotate.job import RowOptions, WorkUnit
from pipelines.annotate.planning import shards
from pipelines.annotate.planning.shards import cut_shards, fill_units, in_generation
from pipelines.posts.input_files import InputFile, RowGroup
from schemas.posts import PostColumns
from tests.support.nights.stand_in import job_options


def input_file(*rows: int, group_bytes: int = 1_000, name: str = "a.parquet") -> InputFile:
    groups = tuple(RowGroup(count, group_bytes) for count in rows)
    return InputFile(f"/in/{name}", name, "", "identity", groups)


def cut(file: InputFile, shard_rows: int = 100, shard_bytes: int = 10_000) -> list[tuple]:
    shards = cut_shards(file, job_options("out"), shard_rows, shard_bytes)
    return [(shard.first_row, shard.rows, shard.row_groups) for shard in shards]


class TestShards:
    def test_end_where_row_groups_end(self) -> None:
        assert cut(input_file(40, 40, 40, 90)) == [
            (0, 80, (0, 1)),
            (80, 40, (2,)),
            (120, 90, (3,)),
        ]

    def test_are_capped_in_bytes(self) -> None:
        assert cut(input_file(1, 1, 1, group_bytes=4_000)) == [
            (0, 2, (0, 1)),
            (2, 1, (2,)),
        ]

    def test_cut_a_large_row_group_into_ranges_of_rows(self) -> None:
        assert cut(input_file(10, 250, 10)) == [
            (0, 10, (0,)),
            (10, 84, (1,)),
            (94, 84, (1,)),
            (178, 82, (1,)),
            (260, 10, (2,)),
        ]

    def test_cut_a_row_group_of_many_bytes_into_ranges_of_rows(self) -> None:
        assert cut(input_file(10, group_bytes=25_000)) == [
            (0, 4, (0,)),
            (4, 4, (0,)),
            (8, 2, (0,)),
        ]

    def test_a_single_row_is_not_cut_however_large(self) -> None:
        assert cut(input_file(1, group_bytes=1_000_000)) == [(0, 1, (0,))]

    def test_leave_out_row_groups_without_rows(self) -> None:
        assert cut(input_file(0, 5, 0, 5)) == [(0, 10, (1, 3))]

    def test_a_file_without_rows_is_one_shard_without_rows(self) -> None:
        assert cut(input_file()) == [(0, 0, ())]
        assert cut(input_file(0)) == [(0, 0, ())]

    @pytest.mark.parametrize("rows", [(7,), (250, 3, 99, 1), (100, 100), (1_000,)])
    def test_cover_every_row_once(self, rows: tuple[int, ...]) -> None:
        shards = cut_shards(input_file(*rows), job_options("out"), 100)
        covered = [row for s in shards for row in range(s.first_row, s.first_row + s.rows)]
        assert covered == list(range(sum(rows)))
        assert len({shard.key for shard in shards}) == len(shards)


class TestUnits:
    def units(self, *files: InputFile, workers: int = 1, shard_rows: int = 100) -> list[WorkUnit]:
        options = job_options("out")
        shards = [shard for file in files for shard in cut_shards(file, options, shard_rows)]
        return list(fill_units(shards, files, workers))

    def tiny(self, count: int, rows: int) -> list[InputFile]:
        return [input_file(rows, name=f"{number:05d}.parquet") for number in range(count)]

    def test_many_tiny_shards_share_one(self) -> None:
        units = self.units(*self.tiny(1_000, 10))
        assert [unit.rows for unit in units] == [2_000] * 5

    def test_there_are_about_two_per_worker_where_the_rows_allow(self) -> None:
        assert len(self.units(*self.tiny(100, 10), workers=4)) >= 8
        assert len(self.units(*self.tiny(3, 1), workers=4)) == 1

    def test_the_shards_of_one_row_group_stay_together(self) -> None:
        (unit, *others) = self.units(input_file(30_000, 50), shard_rows=1_000)
        assert len(unit.shards) == 30
        assert {shard.row_groups for shard in unit.shards} == {(0,)}
        assert [other.rows for other in others] == [50]

    def test_are_capped_in_bytes(self) -> None:
        files = [
            dataclasses.replace(file, row_groups=(RowGroup(1, 60 * 1024 * 1024),))
            for file in self.tiny(6, 1)
        ]
        assert [len(unit.shards) for unit in self.units(*files)] == [2, 2, 2]

    def test_hold_every_shard_once(self) -> None:
        files = self.tiny(57, 33)
        planned = [s for f in files for s in cut_shards(f, job_options("out"), 100)]
        units = self.units(*files, workers=3)
        assert [shard for unit in units for shard in unit.shards] == planned


class TestKeys:
    def key(self, file: InputFile | None = None, **options: object) -> str:
        return cut_shards(file or input_file(10), job_options("out", **options))[0].key

    @pytest.mark.parametrize(
        "options",
        [
            {"output": "elsewhere"},
            {"run_id": "another"},
            {"model": "/another/place", "model_id": "another-name"},
            {"device": "cuda"},
            {"batch_size": 1},
            {"threads": 7},
            {"max_dead_letter_share": 0.5},
            {"strict": True},
        ],
    )
    def test_do_not_depend_on_where_and_how_it_runs(self, options: dict[str, object]) -> None:
        (shard,) = cut_shards(input_file(10), dataclasses.replace(job_options("out"), **options))
        assert shard.key == self.key()

    @pytest.mark.parametrize(
        "rows",
        [
            RowOptions(columns=PostColumns(image="PICTURE")),
            RowOptions(columns=PostColumns(image=None)),
            RowOptions(keep=("lang",)),
            RowOptions(image_uri_prefixes=("s3://bucket/",)),
            RowOptions(max_image_pixels=1),
            RowOptions(max_image_bytes=1),
        ],
    )
    def test_depend_on_every_option_that_changes_rows(self, rows: RowOptions) -> None:
        assert self.key(rows=rows) != self.key()

    def test_depend_on_content_name_and_model(self) -> None:
        file = input_file(10)
        others = [
            self.key(dataclasses.replace(file, identity="another")),
            self.key(dataclasses.replace(file, source_file="b.parquet")),
            self.key(input_file(11)),
            self.key(model_revision="another"),
        ]
        assert self.key() not in others
        assert len(set(others)) == 4

    def test_a_key_depends_on_how_posts_are_prepared(self, monkeypatch: pytest.MonkeyPatch) -> None:
        before = self.key()
        monkeypatch.setattr(shards, "PREPARATION_VERSION", 1_000)
        assert self.key() != before

    def test_do_not_depend_on_the_order_of_prefixes(self) -> None:
        one, other = ("s3://a/", "s3://b/"), ("s3://b/", "s3://a/")
        assert self.key(rows=RowOptions(image_uri_prefixes=one)) == self.key(
            rows=RowOptions(image_uri_prefixes=other)
        )

    def test_every_generation_has_its_own(self) -> None:
        (shard,) = cut_shards(input_file(10), job_options("out"))
        generations = [in_generation(shard, number) for number in range(3)]
        assert generations[0] == shard
        assert len({generation.key for generation in generations}) == 3
        assert {generation.base_key for generation in generations} == {shard.base_key}
