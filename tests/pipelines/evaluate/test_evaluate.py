"""`drf evaluate`: checkpoints and labelled posts in, tables with intervals out."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from drf_core.annotator import Annotator
from drf_core.evaluation.bootstrap import bootstrap_p, holm
from drf_core.evaluation.protocol import cells
from pipelines.evaluate.command import RESAMPLES, parse_models
from pipelines.evaluate.report import figure, mark, with_difference
from schemas.errors import UsageError
from schemas.evaluation import EVALUATION_SCHEMA
from tests.conftest import LABELS
from tests.data.corpora import image_bytes
from tests.pipelines.evaluate.conftest import Evaluate, of, records, write_labelled
from tests.support.running import Run


def test_there_is_one_record_per_model_cell_and_metric(evaluated: Path) -> None:
    made = records(evaluated)
    assert pq.read_schema(evaluated / "results.parquet").equals(EVALUATION_SCHEMA)
    keys = [(r["model"], r["scope"], r["cell"], r["metric"]) for r in made]
    assert len(set(keys)) == len(keys)
    cells = of(made, scope="cell", metric="accuracy", model="one")
    assert len(cells) == 32 and {r["posts"] for r in cells} == {36}
    assert {r["cell"] for r in of(made, scope="group", metric="accuracy")} == {
        "clean", "modality-fixed", "modality-random", "disrupted", "other damage", "unseen damage",
    }  # fmt: skip
    assert all(r["low"] <= r["high"] for r in made if r["low"] is not None)
    assert all(0 <= r["value"] <= 1 for r in made if r["metric"].endswith(("accuracy", "f1")))


def test_differences_are_against_the_last_model(evaluated: Path) -> None:
    made = records(evaluated)
    assert {r["baseline"] for r in made} == {"one"}
    assert all(r["difference"] is None and r["p"] is None for r in of(made, model="one"))
    for other in of(made, model="other", metric="accuracy"):
        [one] = of(made, model="one", metric="accuracy", scope=other["scope"], cell=other["cell"])
        assert other["difference"] == pytest.approx(other["value"] - one["value"])
        assert other["difference_low"] <= other["difference"] <= other["difference_high"]
        assert 0 < other["p"] <= other["p_holm"] <= 1


def test_a_group_is_the_mean_of_its_cells(evaluated: Path) -> None:
    made = of(records(evaluated), model="other", metric="weighted_f1")
    cells = [r["value"] for r in of(made, scope="cell", group="modality-fixed")]
    [group] = of(made, scope="group", cell="modality-fixed")
    assert len(cells) == 6 and group["value"] == pytest.approx(np.mean(cells))


def test_the_clean_accuracy_is_what_annotating_the_posts_gives(
    evaluated: Path, checkpoints: Path, posts: Path, drf: Callable[..., Run], tmp_path: Path
) -> None:
    run = drf(
        "annotate", "--input", posts, "--output", tmp_path / "annotated",
        "--model", checkpoints / "one", "--device", "cpu",
    )  # fmt: skip
    assert run.code == 0, run.err
    said = pq.read_table(tmp_path / "annotated" / "annotations").to_pylist()
    truth = dict(zip(*pq.read_table(posts).select(["post_id", "label"]).to_pydict().values(),
                     strict=True))  # fmt: skip
    right = np.mean([row["label"] == truth[row["post_id"]] for row in said])
    assert len({row["label"] for row in said}) == 3
    [clean] = of(records(evaluated), model="one", cell="clean", scope="cell", metric="accuracy")
    assert clean["value"] == pytest.approx(right)


def test_every_model_expects_the_labels_as_often_as_it_is_told(
    evaluate: Evaluate, evaluated: Path, checkpoints: Path, tmp_path: Path
) -> None:
    # Seven in eight posts are positive.
    posts = write_labelled(tmp_path / "skewed.parquet", 32, ("positive",) * 7 + ("negative",))
    run = evaluate("--posts", posts, "--prior", "shares", models=("one",))
    assert run.code == 0, run.err
    [told] = of(records(tmp_path / "out"), cell="clean", scope="cell", metric="accuracy")
    annotator = Annotator.from_pretrained(str(checkpoints / "one"), device="cpu", threads=1)
    table = pq.read_table(posts).to_pydict()
    prepared = [
        annotator.prepare(*post) for post in zip(table["text"], table["image"], strict=True)
    ]
    said = np.array([prediction.probabilities for prediction in annotator.predict(prepared)])
    shares = np.array([table["label"].count(label) / 32 for label in annotator.labels])
    called = [annotator.labels[n] for n in (said * shares).argmax(1)]
    assert told["value"] == pytest.approx(np.mean(np.array(called) == table["label"]))
    page = (tmp_path / "out" / "results.md").read_text()
    assert "Labels were expected as often as they are among these posts." in page
    assert "All labels were expected equally often." in (evaluated / "results.md").read_text()


def test_json_and_parquet_hold_the_same_and_say_how_they_were_made(evaluated: Path) -> None:
    whole = json.loads((evaluated / "results.json").read_text())
    assert whole["records"] == records(evaluated)
    about = json.loads(pq.read_schema(evaluated / "results.parquet").metadata[b"drf"])
    assert about == {name: value for name, value in whole.items() if name != "records"}
    assert about["baseline"] == "one" and set(about["models"]) == {"other", "one"}
    assert about["command"].startswith("drf evaluate --posts")


def test_what_a_model_said_of_each_post_can_be_counted_again(evaluated: Path, posts: Path) -> None:
    said = pq.read_table(evaluated / "predictions" / "other.parquet").to_pylist()
    names = [cell.name for cell in cells(36)]
    assert [(row["cell"], row["source_row"]) for row in said] == [
        (name, row) for name in names for row in range(36)
    ]
    assert [row["post_id"] for row in said[:36]] == pq.read_table(posts)["post_id"].to_pylist()
    figures = {(r["model"], r["cell"], r["label"]): r for r in pq.read_table(
        evaluated / "labels.parquet").to_pylist()}  # fmt: skip
    for name in ("clean", "text discard"):
        rows = of(said, cell=name)
        right = [row["label"] == row["predicted"] for row in rows]
        [record] = of(records(evaluated), model="other", cell=name, metric="accuracy", scope="cell")
        assert np.isclose(np.mean(right), record["value"])
        for label in LABELS:
            given = [row for row in rows if row["predicted"] == label]
            assert figures["other", name, label]["predicted"] == len(given)
            assert figures["other", name, label]["posts"] == 12
        assert all(row["probabilities"][row["predicted"]] == row["confidence"] for row in rows)
    gone = of(said, cell="text discard")
    assert not any(row["text_present"] for row in gone) and all(r["image_present"] for r in gone)
    damaged = of(said, cell="image blur")
    assert all(row["image_damaged"] and not row["text_damaged"] for row in damaged)


def test_the_report_shows_every_cell_the_command_and_the_plot(evaluated: Path) -> None:
    page = (evaluated / "results.md").read_text()
    assert "drf evaluate --posts" in page and "](accuracy.png)" in page
    for cell in ("| clean |", "| text corrupt+discard |", "| random discard 0.6 |"):
        assert page.count(cell) >= 4, cell
    assert "trained on damaged images blur" in page
    assert Image.open(evaluated / "accuracy.png").size[0] > 800
    assert "<svg" in (evaluated / "accuracy.svg").read_text()[:1000]
    assert {path.name for path in evaluated.iterdir()} == {
        "accuracy.png",
        "accuracy.svg",
        "reliability.png",
        "reliability.svg",
        "predictions",
        "labels.parquet",
        "results.json",
        "results.md",
        "results.parquet",
    }
    assert "](reliability.png)" in page and page.count("labels (rows) as") == 4  # fmt: skip


def test_repeated_it_gives_the_same_records(evaluate: Evaluate, evaluated: Path, tmp_path: Path):
    run = evaluate()
    assert run.code == 0, run.err
    assert "disrupted" in run.out and "points against one" in run.out
    assert records(tmp_path / "out") == records(evaluated)


def test_another_seed_draws_other_disruptions(
    evaluate: Evaluate, evaluated: Path, tmp_path: Path
) -> None:
    assert evaluate("--seed", "1", models=("one",)).code == 0
    [one, other] = (
        [r["value"] for r in of(records(output), model="one", scope="cell", metric="accuracy")]
        for output in (evaluated, tmp_path / "out")
    )
    assert one[0] == other[0] and one[1:] != other[1:]


def test_models_that_share_their_encoders_are_encoded_once(
    evaluate: Evaluate, tmp_path: Path
) -> None:
    run = evaluate(models=("twin", "one"))
    assert run.code == 0, run.err
    assert "twin: encoding the images" in run.err
    assert "one: image features are there already" in run.err
    assert "one: text features are there already" in run.err
    made = of(records(tmp_path / "out"), scope="cell", metric="image_quality_auroc")
    one, twin = ([r["value"] for r in of(made, model=name)] for name in ("one", "twin"))
    # What depends on encoders and disruptions alone is equal, what the head says is not.
    assert one == twin
    made = of(records(tmp_path / "out"), metric="accuracy")
    assert [r["value"] for r in of(made, model="one")] != [
        r["value"] for r in of(made, model="twin")
    ]


def test_labels_in_another_order_are_aligned(
    evaluate: Evaluate, checkpoints: Path, tmp_path: Path
) -> None:
    shutil.copytree(checkpoints / "one", tmp_path / "turned")
    config = json.loads((tmp_path / "turned" / "config.json").read_text())
    config["id2label"] = {"0": "positive", "1": "negative", "2": "neutral"}
    config["label2id"] = {label: int(number) for number, label in config["id2label"].items()}
    (tmp_path / "turned" / "config.json").write_text(json.dumps(config))
    weights = load_file(tmp_path / "turned" / "model.safetensors")
    for name, value in weights.items():
        if value.ndim and value.shape[0] == 3 and name.startswith(("fusion", "unimodal_heads")):
            weights[name] = value[[2, 0, 1]].contiguous()
    save_file(weights, tmp_path / "turned" / "model.safetensors", metadata={"format": "pt"})
    run = evaluate(f"--model={tmp_path / 'turned'}", models=("one",))
    assert run.code == 0, run.err
    made = of(records(tmp_path / "out"), model="turned")
    assert [r["value"] for r in made] == pytest.approx(
        [r["value"] for r in of(records(tmp_path / "out"), model="one")]
    )
    # The same posts were drawn for both: what is equal differs in no resample.
    paired = of(records(tmp_path / "out"), model="one", metric="accuracy")
    assert all(r["difference_low"] == r["difference_high"] == 0 for r in paired)


def test_the_report_says_which_damage_was_met_in_training(
    evaluate: Evaluate, checkpoints: Path, tmp_path: Path
) -> None:
    # As many kinds as the checkpoint has weights to name.
    for name, texts, images in (
        ("knows", ["corrupt", "typos"], ["corrupt", "blur"]),
        ("naive", ["shuffled", "cropped"], ["flat", "posterised"]),
    ):
        shutil.copytree(checkpoints / "one", tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        config["trained_kinds"] = {"text": texts, "image": images}
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    run = evaluate(f"--model={tmp_path / 'knows'}", f"--model={tmp_path / 'naive'}", models=())
    assert run.code == 0, run.err
    made = of(records(tmp_path / "out"), metric="accuracy")
    met = {(r["model"], r["cell"]): r["met_in_training"] for r in of(made, scope="cell")}
    assert met["knows", "image blur"] is True and met["knows", "image jpeg"] is False
    assert met["naive", "image blur"] is False and met["naive", "image discard"] is None
    assert of(made, scope="group", cell="unseen damage")
    page = (tmp_path / "out" / "results.md").read_text()
    assert "| knows: yes, naive: no |" in page and "met in training" in page


def test_posts_that_training_shared_are_left_out(
    evaluate: Evaluate, posts: Path, tmp_path: Path
) -> None:
    table = pq.read_table(posts)
    other = table.slice(0, 5).drop_columns(["label"])
    pq.write_table(other, tmp_path / "train.parquet")
    run = evaluate("--exclude-near-duplicates-of", tmp_path / "train.parquet", models=("one",))
    assert run.code == 0, run.err
    about = json.loads((tmp_path / "out" / "results.json").read_text())
    assert about["left_out"]["same_text"] == 5
    assert about["left_out"]["near_duplicates"] + about["posts"] == 36
    assert "left out that share their text (5)" in (tmp_path / "out" / "results.md").read_text()


def test_posts_without_label_or_content_are_left_out_and_counted(
    evaluate: Evaluate, tmp_path: Path
) -> None:
    labels = [*LABELS * 4, None, None, "positive"]
    texts = [*(f"day {number}" for number in range(14)), None]
    images = [*(image_bytes(number) for number in range(14)), b"<html>"]
    path = write_labelled(
        tmp_path / "odd.parquet", 15, text=texts, image=images, label=pa.array(labels)
    )
    assert evaluate("--posts", path, models=("one",)).code == 0
    about = json.loads((tmp_path / "out" / "results.json").read_text())
    assert about["posts"] == 12
    assert (about["left_out"]["unlabelled"], about["left_out"]["unusable"]) == (2, 1)


def test_a_partition_that_is_left_out_is_told(
    evaluate: Evaluate, posts: Path, tmp_path: Path
) -> None:
    for name in ("dt=1", "_dt=2"):
        (tmp_path / "in" / name).mkdir(parents=True)
        shutil.copy(posts, tmp_path / "in" / name)
    run = evaluate("--posts", tmp_path / "in", models=("one",))
    assert run.code == 0, run.err
    assert "warning: --posts: _dt=2 is left out: its name begins with '_'" in run.err


def test_texts_without_images_are_evaluated(evaluate: Evaluate, tmp_path: Path) -> None:
    path = write_labelled(tmp_path / "texts.parquet", 12)
    pq.write_table(pq.read_table(path).drop_columns(["image"]), path)
    run = evaluate("--posts", path, models=("one",))
    assert run.code == 0, run.err
    made = of(records(tmp_path / "out"), model="one", scope="cell")
    assert not of(made, metric="image_quality_auroc")
    assert of(made, metric="text_quality_auroc", cell="text corrupt")


def test_the_least_p_is_significant_after_correction_for_all_cells() -> None:
    least = bootstrap_p(np.ones(RESAMPLES))
    assert max(holm([least] * len(cells(1)))) < 0.05


def test_models_are_named_by_their_folder_or_by_name(tmp_path: Path) -> None:
    (tmp_path / "odd=name").mkdir()
    assert parse_models(["runs/one/", "owner/two", "three=runs/one", str(tmp_path / "odd=name")]) \
        == {"one": "runs/one/", "two": "owner/two", "three": "runs/one",
            "odd=name": str(tmp_path / "odd=name")}  # fmt: skip
    with pytest.raises(UsageError, match="give each a name of its own with --model NAME=b/one"):
        parse_models(["a/one", "b/one"])


def test_a_run_that_was_killed_does_not_encode_again(
    evaluate: Evaluate, evaluated: Path, checkpoints: Path, posts: Path, tmp_path: Path
) -> None:
    program = (
        "import sys, os, pipelines.cli as cli, drf_core.evaluation.predictions as o\n"
        "o.outcomes = lambda *a, **k: os.kill(os.getpid(), 9)\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    arguments = [
        "evaluate", "--posts", str(posts), "--model", str(checkpoints / "other"),
        "--model", str(checkpoints / "one"), "--output", str(tmp_path / "out"), "--device", "cpu",
    ]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    killed = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        check=False, capture_output=True, env=environment,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not list((tmp_path / "out").glob("results*"))
    run = evaluate()
    assert run.code == 0, run.err
    assert "other: image features are there already" in run.err
    assert "one: encoding the images" in run.err
    assert records(tmp_path / "out") == records(evaluated)
    assert not (tmp_path / "out" / "_features").exists()


@pytest.mark.parametrize(
    ("metric", "difference", "p", "shown"),
    [
        ("accuracy", 0.012, 0.01, ".700 (+1.2)▲"),
        ("accuracy", -0.012, 0.01, ".700 (-1.2)▼"),
        ("calibration_error", 0.012, 0.01, ".700 (+1.2)▼"),
        ("accuracy", 0.012, 0.05, ".700 (+1.2)"),
        ("accuracy", None, None, ".700"),
    ],
)
def test_a_mark_stands_where_a_difference_is_more_than_chance(
    metric: str, difference: float | None, p: float | None, shown: str
) -> None:
    record = {"metric": metric, "value": 0.7, "difference": difference, "p_holm": p}
    assert with_difference(record) == shown
    assert bool(mark(record)) == shown.endswith(("▲", "▼"))


def test_figures_have_three_digits() -> None:
    assert [figure(v) for v in (0.7, 1.0, -0.25, 0.0, 0.9999)] == [
        ".700", "1.000", "-.250", ".000", "1.000",
    ]  # fmt: skip
