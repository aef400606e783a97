"""The study runs from posts to page, goes on where it was stopped, and leaks nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from drf_core.corpus.disruption import TRAINED_IMAGE_KINDS, TRAINED_TEXT_KINDS
from drf_core.evaluation.protocol import OTHER_DAMAGE, cells
from drf_core.training.building import small_image_encoder, small_text_encoder
from tests.benchmarks.method import left_out_damage
from tests.benchmarks.method.study import LEFT_OUT, fit_offset, fold_of, main
from tests.benchmarks.method.study_report import FIGURES, read_runs, write_report
from tests.data.labelled_posts import write_labelled

DESIGNS = ["drf", "concatenation", "qmf", "pdf"]
TRAININGS = ["--seeds", "1", "--designs", *DESIGNS]
POSTS = 96
COPIES = 12


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Options that name small encoders and posts: some share a text, some have no label."""
    folder = tmp_path_factory.mktemp("study")
    rows = pq.read_table(write_labelled(folder / "posts.parquet", POSTS, 0)).to_pylist()
    rows += [{**rows[n], "post_id": f"copy {n}", "image": None} for n in range(COPIES)]
    rows += [{**rows[20], "post_id": "unlabelled", "text": "nobody knows", "label": None}]
    pq.write_table(pa.Table.from_pylist(rows), folder / "posts.parquet")
    torch.manual_seed(2)
    texts = [row["text"] for row in rows]
    for name, (encoder, processor) in {
        "text": small_text_encoder(texts, vocabulary=400, hidden=32, layers=1, heads=2),
        "image": small_image_encoder((8, 16, 16, 32), side=32),
    }.items():
        encoder.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    return [
        *("--posts", str(folder / "posts.parquet"), "--text-encoder", str(folder / "text")),
        *("--image-encoder", str(folder / "image"), "--folds", "2", "--epochs", "6"),
    ]


@pytest.fixture(scope="module")
def study(given: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("output")
    main([*given, *TRAININGS, "--output", str(output)])
    return output


def test_a_study_leaves_tables_and_its_figures(study: Path) -> None:
    page = (study / "tables.md").read_text()
    for design in DESIGNS:
        assert f"| {design} |" in page
    assert f"{POSTS + COPIES} posts, 2 trainings a design (folds: 2, seeds: 1)" in page
    assert "nan" not in page
    rows = pq.read_table(study / "results.parquet").to_pylist()
    assert {row["design"] for row in rows} == set(DESIGNS)
    assert {(row["metric"], row["operating_point"]) for row in rows} == set(FIGURES)
    for row in rows:
        assert row["low"] <= row["high"], row
        assert (row["drf_less_value"] is None) == (row["design"] == "drf")
    groups = {row["cell"] for row in rows if row["scope"] == "group"}
    assert groups == {"clean", "modality-fixed", "modality-random", "unseen damage"}
    # Words decide the label: a study whose posts and predictions had been mixed up would not.
    clean = {
        row["design"]: row["value"]
        for row in rows
        if (row["cell"], row["scope"], row["metric"]) == ("clean", "cell", "accuracy")
    }
    assert all(value > 0.6 for value in clean.values()), clean


def test_damage_counts_as_unseen_only_where_a_training_left_it_out(study: Path) -> None:
    cells = {row["cell"] for row in pq.read_table(study / "results.parquet").to_pylist()}
    # Two folds of one seed leave out the first two kinds of each modality.
    assert {"text typos", "text no_vowels", "image blur", "image noise"} <= cells
    assert not {"text cropped", "image jpeg", "image occlusion"} & cells
    assert {"text swapped", "text shuffled", "image swapped"} <= cells


def test_what_is_left_out_is_not_trained_on(study: Path) -> None:
    trained = {"text": set(TRAINED_TEXT_KINDS), "image": set(TRAINED_IMAGE_KINDS)}
    gone_of_fold = []
    for fold in range(2):
        kept = np.load(study / "_runs" / f"drf-0-{fold}.npz")
        gone = json.loads(str(kept["left_out"]))
        gone_of_fold.append(gone)
        for m, kinds in json.loads(str(kept["trained"])).items():
            assert gone[m] in LEFT_OUT[m]
            assert set(kinds) == trained[m] - {gone[m]}
    assert gone_of_fold[0]["text"] != gone_of_fold[1]["text"]
    assert gone_of_fold[0]["image"] != gone_of_fold[1]["image"]


def test_every_post_is_predicted_once_by_every_design_in_the_fold_of_its_copy(
    study: Path,
) -> None:
    runs = read_runs(study / "_runs")
    assert set(runs) == set(DESIGNS)
    for own in runs.values():
        assert set(own) == {(0, 0), (0, 1)}
        assert all(1 <= run.epoch <= 6 for run in own.values())
        held = [set(run.posts.tolist()) for run in own.values()]
        assert not held[0] & held[1]
        assert held[0] | held[1] == set(range(POSTS + COPIES))
        assert all(({n, POSTS + n} <= side) or not ({n, POSTS + n} & side)
                   for n in range(COPIES) for side in held)  # fmt: skip
        for run in own.values():
            assert run.probabilities.shape[1:] == (len(run.posts), 2)
            assert np.allclose(run.probabilities.sum(-1), 1, atol=1e-5)


def test_folds_are_equal_shares_of_the_groups_that_differ_between_seeds() -> None:
    groups = np.repeat(np.arange(100), 3)
    folds = [fold_of(groups, 5, seed) for seed in (0, 0, 1)]
    assert (folds[0] == folds[1]).all() and (folds[0] != folds[2]).any()
    assert np.bincount(folds[0]).tolist() == [60] * 5
    assert (folds[0].reshape(100, 3) == folds[0][::3, None]).all()


def test_a_study_goes_on_where_it_was_stopped(
    given: list[str], study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page, figures = ((study / name).read_bytes() for name in ("tables.md", "results.parquet"))
    gone = study / "_runs" / "drf-0-1.npz"
    before = np.load(gone)["probabilities"]
    gone.unlink()
    kept = {path: path.stat().st_mtime_ns for path in study.rglob("*.npz")}
    views = {path: path.stat().st_mtime_ns for path in study.glob("*_views_*")}
    assert len(kept) == 7 and len(views) == 2
    main([*given, *TRAININGS, "--output", str(study)])
    said = capsys.readouterr().out
    assert "drf-0-1: " in said and "drf-0-0: " not in said and "concatenation-0-1: " not in said
    assert all(path.stat().st_mtime_ns == made for path, made in {**kept, **views}.items())
    assert np.allclose(np.load(gone)["probabilities"], before, atol=1e-4)
    assert (study / "tables.md").read_bytes() == page
    assert (study / "results.parquet").read_bytes() == figures


def test_damage_left_out_of_a_distribution_is_judged_on_posts_encoded_for_the_study(
    given: list[str], study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    views = {path: path.stat().st_mtime_ns for path in study.glob("*_views_*")}
    left_out_damage.main([*given, "--output", str(study)])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    kinds = [(m, kind) for m, kinds in LEFT_OUT.items() for kind in (*kinds, "mean")]
    assert [(row[0], row[1]) for row in rows] == kinds
    for m in LEFT_OUT:
        own = [float(row[2]) for row in rows if row[0] == m]
        assert all(0 <= figure <= 1 for figure in own)
        assert own[-1] == pytest.approx(np.mean(own[:-1]), abs=1e-3)
    assert {path: path.stat().st_mtime_ns for path in views} == views


TRUTH = np.arange(60) % 2


def write_run(folder: Path, design: str, seed: int, right: np.ndarray, lean: float = 1.0) -> None:
    """A training that is right or not about each post, alike in all cells.

    lean: the odds that it gives to the first label beyond what it knows, and its offset takes back.
    """
    asked = cells(len(right))
    sure = np.where(np.arange(2) == np.where(right, TRUTH, 1 - TRUTH)[:, None], 0.9, 0.1)
    said = sure * [lean, 1]
    np.savez_compressed(
        folder / f"{design}-{seed}-0.npz",
        posts=np.arange(len(right)),
        probabilities=np.stack([said / said.sum(1, keepdims=True)] * len(asked)),
        offset=np.log([1 / lean, 1]),
        unseen=np.array([cell.group == OTHER_DAMAGE for cell in asked]),
        epoch=3,
    )


def write_tables(folder: Path, **designs: list[np.ndarray]) -> str:
    """The tables of a study with these trainings, a seed each."""
    (folder / "_runs").mkdir()
    for design, trainings in designs.items():
        for seed, right in enumerate(trainings):
            write_run(folder / "_runs", design, seed, right)
    write_report(folder, list(designs), cells(len(TRUTH)), TRUTH)
    return (folder / "tables.md").read_text()


def first_of(count: int) -> np.ndarray:
    """The first posts right, the others not."""
    return np.arange(60) < count


def line_of(page: str, heading: str, design: str) -> str:
    [_, after] = page.split(heading)
    return next(line for line in after.splitlines() if line.startswith(f"| {design} |"))


COUNTS = "cells, those in which drf is significantly better / worse"


def test_a_large_difference_counts_in_every_cell_and_a_small_one_in_none(tmp_path: Path) -> None:
    for name, right, wanted in (("large", 54, "32 / 0"), ("small", 21, "0 / 0")):
        folder = tmp_path / name
        folder.mkdir()
        page = write_tables(folder, drf=[first_of(right)] * 3, concatenation=[first_of(20)] * 3)
        assert line_of(page, COUNTS, "concatenation").startswith(f"| concatenation | {wanted} |")


def test_what_only_another_seed_would_change_is_not_significant(tmp_path: Path) -> None:
    # Ahead by half of the posts once in five trainings, behind by a little in the others.
    trainings = [first_of(50), *[first_of(18)] * 4]
    page = write_tables(tmp_path, drf=trainings, concatenation=[first_of(20)] * 5)
    line = line_of(page, "### accuracy: drf less each of the others", "concatenation")
    assert line.split(" | ")[1].startswith("+7.3 [-")
    assert line_of(page, COUNTS, "concatenation").startswith("| concatenation | 0 / 0 |")


def test_a_design_that_leans_to_a_label_is_brought_to_the_same_operating_point(
    tmp_path: Path,
) -> None:
    (tmp_path / "_runs").mkdir()
    write_run(tmp_path / "_runs", "drf", 0, first_of(40))
    write_run(tmp_path / "_runs", "concatenation", 0, first_of(40), lean=20.0)
    write_report(tmp_path, ["drf", "concatenation"], cells(len(TRUTH)), TRUTH)
    page = (tmp_path / "tables.md").read_text()
    for name in ("accuracy", "log loss"):
        line = line_of(page, f"### {name}: drf less each of the others", "concatenation")
        assert all(abs(float(number)) < 0.001 for number in re.findall(r"[+-][\d.]+", line)), line


def test_the_offset_takes_back_what_a_design_leans_to() -> None:
    rng = np.random.default_rng(0)
    labels = rng.choice(3, 4000, p=[0.6, 0.1, 0.3])
    scores = rng.normal(size=(4000, 3)) + np.eye(3)[labels]
    # Bayes' own posterior under a uniform prior, then three times too fond of the first label.
    fair = np.exp(scores)
    leaning = fair * [3, 1, 1]
    offset = fit_offset((leaning / leaning.sum(1, keepdims=True))[None], labels)
    assert offset - offset[1] == pytest.approx([-np.log(3), 0, 0], abs=0.2)


def test_only_trainings_that_all_designs_have_done_count(tmp_path: Path) -> None:
    page = write_tables(tmp_path, drf=[first_of(40), ~first_of(40)], concatenation=[first_of(30)])
    assert "60 posts, 1 trainings a design" in page
    assert "| drf | 66.7 |" in page and "| concatenation | 50.0 |" in page


def test_a_study_does_not_go_on_with_other_folds(given: list[str], study: Path) -> None:
    with pytest.raises(SystemExit, match="another number of folds"):
        main([*given, *TRAININGS, "--folds", "3", "--output", str(study)])


@pytest.mark.parametrize(
    ("designs", "line"),
    [
        (["concatenation", "dfr"], "'dfr' is not among drf, "),
        (["concatenation", "late_average"], "compare drf with others"),
        (["drf"], "compare drf with others"),
    ],
)
def test_designs_that_no_table_can_be_made_of_are_refused_at_once(
    given: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    designs: list[str],
    line: str,
) -> None:
    with pytest.raises(SystemExit):
        main([*given, "--output", str(tmp_path), "--designs", *designs])
    assert line in capsys.readouterr().err
