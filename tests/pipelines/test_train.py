"""`drf train`: labelled posts in, a checkpoint that annotates out."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.torch import load_file

from drf_core.designs import DESIGNS
from drf_core.modeling_drf import DRFModel
from drf_core.processing_drf import DRFProcessor
from drf_core.training_corpus import TrainingCorpus, TrainingPost
from pipelines.cli import main
from pipelines.importing.splits import assign_splits
from pipelines.training_posts import LabelledRow, hold_out, to_training_posts
from pipelines.training_work import encode_frozen
from schemas.errors import UsageError
from tests.pipelines.running import Output, annotate_arguments

WORDS = {
    "negative": ["awful", "sad", "angry", "broken", "lost"],
    "positive": ["lovely", "happy", "great", "sunny", "won"],
}
FILLER = ["the", "day", "in", "town", "with", "my", "team", "and", "a", "dog"]
CONFIG: dict[str, Any] = {
    "model": {"queue_length": 64, "projection_size": 32, "reference_length": 64},
    "small": {
        "text": {"vocabulary": 400, "hidden": 32, "layers": 1, "heads": 2},
        "image": {"widths": [8, 16, 16, 32], "side": 32},
    },
    "training": {"epochs": 3, "batch_size": 16, "encoder_learning_rate": 3e-3, "views_per_kind": 1},
    "distillation": {"text_epochs": 1, "image_epochs": 1},
}


def write_labelled(path: Path, count: int, seed: int, without_image: int = 0) -> Path:
    """Posts whose label shows in words and in colour."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        label = ("negative", "positive")[number % 2]
        words = [*rng.choice(WORDS[label], 3), *rng.choice(FILLER, 5)]
        rng.shuffle(words)
        colour = (200, 60, 60) if label == "negative" else (60, 200, 60)
        pixels = np.clip(rng.normal(colour, 40, (40, 40, 3)), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "JPEG")
        image = None if number < without_image else buffer.getvalue()
        rows.append(
            {"post_id": f"{seed}-{number}", "text": " ".join(words), "image": image, "label": label}
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    write_labelled(folder / "train.parquet", 160, 0, without_image=16)
    write_labelled(folder / "dev.parquet", 60, 1)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def arguments(corpus: Path, output: Path, *more: str, validation: bool = True) -> list[str]:
    given = ["--validation", str(corpus / "dev.parquet")] if validation else []
    return [
        "train", "--posts", str(corpus / "train.parquet"), *given, "--text-encoder", "small",
        "--image-encoder", "small", "--output", str(output), "--device", "cpu", "--threads", "1",
        "--config", str(corpus / "config.json"), *more,
    ]  # fmt: skip


@dataclass(frozen=True)
class Result:
    returncode: int
    stderr: str


def drf_train(corpus: Path, output: Path, *more: str, validation: bool = True) -> Result:
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = main(arguments(corpus, output, *more, validation=validation))
    return Result(code, said.getvalue())


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "checkpoint"
    result = drf_train(corpus, output)
    assert result.returncode == 0, result.stderr
    return output


def test_a_checkpoint_learns_and_annotates(trained: Path) -> None:
    from drf_core.annotator import Annotator

    annotator = Annotator.from_pretrained(str(trained), device="cpu", threads=1)
    assert annotator.labels == ("negative", "positive")
    [good, bad] = annotator.predict(
        [
            annotator.prepare("lovely happy sunny day", None),
            annotator.prepare("awful sad broken day", None),
        ]
    )
    assert (good.label, bad.label) == ("positive", "negative")


def test_the_checkpoint_is_self_contained_and_safe(trained: Path) -> None:
    names = {path.name for path in trained.iterdir() if path.is_file()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "preprocessor_config.json",
        "README.md",
    } <= names
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)
    queue = load_file(trained / "model.safetensors")["undisrupted_queue.text"]
    assert queue.abs().sum() > 0


def test_the_card_holds_figures_and_the_command(trained: Path) -> None:
    card = (trained / "README.md").read_text()
    assert "| clean |" in card and "| image discard |" in card
    assert "drf train --posts" in card


def killed_after_an_epoch(arguments: list[str]) -> subprocess.CompletedProcess[bytes]:
    """Run `drf` in a process that is killed when its first epoch is saved."""
    program = (
        "import sys, pipelines.cli as cli, drf_core.training as t\n"
        "save = t.Trainer.save\n"
        "def die(self, path):\n"
        "    save(self, path)\n"
        "    if self.epoch == 1: import os; os.kill(os.getpid(), 9)\n"
        "t.Trainer.save = die\n"
        "sys.exit(cli.main(sys.argv[1:]))\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], check=False, capture_output=True
    )


def test_a_training_that_was_stopped_goes_on_from_its_last_epoch(
    corpus: Path, trained: Path, tmp_path: Path
) -> None:
    killed = killed_after_an_epoch(arguments(corpus, tmp_path))
    assert killed.returncode == -9
    again = drf_train(corpus, tmp_path)
    assert again.returncode == 0, again.stderr
    assert "resuming after epoch 1" in again.stderr
    assert "epoch 1:" not in again.stderr and "epoch 3:" in again.stderr
    whole, resumed = (load_file(f / "model.safetensors") for f in (trained, tmp_path))
    for name in whole:
        assert abs(whole[name].float() - resumed[name].float()).max() < 1e-3, name


def test_a_small_model_learns_from_a_teacher_and_unlabelled_posts(
    corpus: Path, trained: Path, tmp_path: Path
) -> None:
    write_labelled(tmp_path / "more.parquet", 40, 7, without_image=40)
    table = pq.read_table(tmp_path / "more.parquet").drop_columns(["label", "image"])
    pq.write_table(table, tmp_path / "more.parquet")
    result = drf_train(
        corpus,
        tmp_path / "student",
        "--teacher",
        str(trained),
        "--unlabelled",
        str(tmp_path / "more.parquet"),
    )
    assert result.returncode == 0, result.stderr
    assert "200 posts to train on (160 labelled)" in result.stderr
    assert "text encoder distilled from 200 texts" in result.stderr
    assert (tmp_path / "student" / "model.safetensors").exists()


def test_qualities_can_be_ranked_among_posts_as_the_job_sees_them(
    corpus: Path, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "checkpoint")
    before = load_file(trained / "model.safetensors")
    night = write_labelled(tmp_path / "night.parquet", 50, 9)
    result = drf_train(corpus, tmp_path / "checkpoint", "--reference", str(night))
    assert result.returncode == 0, result.stderr
    after = load_file(tmp_path / "checkpoint" / "model.safetensors")
    changed = {name for name in after if not after[name].equal(before[name])}
    assert {"quality.text.reference.scores", "quality.image.reference.scores"} <= changed
    assert not any(name.startswith(("text_encoder.", "projection.")) for name in changed)
    assert "given with --reference" in (tmp_path / "checkpoint" / "README.md").read_text()


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--column", "image=PICTRE"], "column 'PICTRE': found no such column"),
        (["--threads", "-3"], "--threads: -3 is not a whole number of at least 0"),
        (["--label-column", "mood"], "column 'mood': found no such column"),
        (["--text-encoder", "./nowhere"], "--text-encoder ./nowhere: cannot be loaded"),
        (["--posts", "./nowhere.parquet"], "--posts ./nowhere.parquet: no such file or folder"),
        (["--validation", "./no*.parquet"], "--validation ./no*.parquet: matches no file"),
        (["--output", "s3://bucket/x"], "--output: is a URL; name a local folder"),
        (["--config", "./nowhere.json"], "--config ./nowhere.json: no such file"),
        (["--unlabelled", "./x.parquet"], "--unlabelled: needs --teacher"),
        (["--teacher", "./nowhere"], "--teacher ./nowhere: no such folder"),
    ],
)
def test_a_mistake_gets_one_clear_line(
    corpus: Path, tmp_path: Path, options: list[str], line: str
) -> None:
    result = drf_train(corpus, tmp_path / "out", *options)
    assert result.returncode in (2, 4)
    last = result.stderr.strip().splitlines()[-1]
    assert line in last and last.startswith("drf: error:")
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ('{"training": {"epoch": 3}}', "unknown value training.epoch"),
        ('{"model": {"projection_sise": 3}}', "unknown value model.projection_sise"),
        ('{"small": {"text": {"hiden": 3}}}', "unknown value small.text.hiden"),
        ('{"small": {"text": {"hidden": 30, "heads": 4}}}', "no model can be built"),
        ('{"trainning": {}}', "unknown value trainning"),
        ('{"card": 3}', "section 'card' is not an object"),
        ("[1]", "not a JSON object"),
        ("{", "not valid JSON"),
        ('{"training": {"epochs": "3"}}', "training.epochs: '3' is not a whole number"),
        ('{"training": {"batch_size": 0}}', "training.batch_size: 0 is not a whole number"),
        (
            '{"training": {"learning_rate": "1e-3"}}',
            "training.learning_rate: '1e-3' is not a number",
        ),
        (
            '{"training": {"weight_decay": -1}}',
            "training.weight_decay: -1 is not a number of at least",
        ),
        ('{"training": {"train_text_encoder": "no"}}', "'no' is not true or false"),
        ('{"training": {"image_kinds": ["blurr"]}}', "training.image_kinds: 'blurr'"),
        ('{"training": {"text_kinds": []}}', "training.text_kinds: 'an empty list'"),
    ],
)
def test_a_mistake_in_the_configuration_is_refused(
    corpus: Path, tmp_path: Path, config: str, line: str
) -> None:
    (tmp_path / "bad.json").write_text(config)
    result = drf_train(corpus, tmp_path / "out", "--config", str(tmp_path / "bad.json"))
    assert result.returncode == 2
    assert line in result.stderr.strip().splitlines()[-1]


def test_a_training_does_not_go_on_with_other_posts(
    corpus: Path, trained: Path, tmp_path: Path
) -> None:
    shutil.copytree(trained, tmp_path / "checkpoint")
    other = write_labelled(tmp_path / "other.parquet", 160, 5)
    result = drf_train(corpus, tmp_path / "checkpoint", "--posts", str(other))
    assert result.returncode == 2
    assert "holds a training with other posts, encoders or settings" in result.stderr


def test_a_finished_training_can_be_repeated_with_fewer_kinds_of_damage(
    corpus: Path, tmp_path: Path
) -> None:
    kinds = {**CONFIG["training"], "epochs": 1, "image_kinds": ["blur", "noise"]}
    (tmp_path / "kinds.json").write_text(json.dumps({**CONFIG, "training": kinds}))
    for _ in range(2):
        result = drf_train(corpus, tmp_path / "out", "--config", str(tmp_path / "kinds.json"))
        assert result.returncode == 0, result.stderr


def test_validation_without_labels_is_refused(corpus: Path, tmp_path: Path) -> None:
    table = pq.read_table(corpus / "dev.parquet")
    labels = pa.array([None] * table.num_rows, pa.string())
    table = table.set_column(table.schema.get_field_index("label"), "label", labels)
    pq.write_table(table, tmp_path / "dev.parquet")
    result = drf_train(corpus, tmp_path / "out", "--validation", str(tmp_path / "dev.parquet"))
    assert result.returncode == 2
    assert "--validation: no post has a label" in result.stderr


def test_posts_with_nothing_usable_are_left_out(corpus: Path) -> None:
    rows = [
        LabelledRow("1", " ", b"<html>", "positive"),
        LabelledRow("2", "fine", None, "positive"),
        LabelledRow("3", None, None, "negative"),
    ]
    posts = to_training_posts(rows, ("negative", "positive"), "--posts")
    assert [post.text for post in posts] == ["fine"]


def test_the_queue_of_a_small_corpus_holds_each_post_once(corpus: Path, tmp_path: Path) -> None:
    long_queue = {**CONFIG["model"], "queue_length": 512}
    (tmp_path / "long.json").write_text(json.dumps({**CONFIG, "model": long_queue}))
    result = drf_train(corpus, tmp_path / "out", "--config", str(tmp_path / "long.json"))
    assert result.returncode == 0, result.stderr
    state = load_file(tmp_path / "out" / "model.safetensors")
    posts = state["undisrupted_queue.post"][: int(state["undisrupted_queue.pushed"])]
    # 160 posts, 16 of them without an image.
    assert len(posts) == len(set(posts.tolist())) == 144


def test_posts_whose_images_are_only_uris_are_refused(corpus: Path, tmp_path: Path) -> None:
    table = pq.read_table(corpus / "train.parquet").drop_columns(["image"])
    table = table.append_column("image_uri", pa.array(["https://example.org/a.jpg"] * 160))
    pq.write_table(table, tmp_path / "train.parquet")
    result = drf_train(corpus, tmp_path / "out", "--posts", str(tmp_path / "train.parquet"))
    assert result.returncode == 4
    assert "fetch the images first" in result.stderr


def test_a_validation_label_that_training_does_not_know_is_refused(
    corpus: Path, tmp_path: Path
) -> None:
    table = pq.read_table(corpus / "dev.parquet").to_pylist()
    table[3]["label"] = "furious"
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "dev.parquet")
    result = drf_train(corpus, tmp_path / "out", "--validation", str(tmp_path / "dev.parquet"))
    assert result.returncode == 2
    assert "label 'furious' is not among the labels negative, positive" in result.stderr


def labelled_rows(count: int) -> list[LabelledRow]:
    return [
        LabelledRow(str(number), f"a text of its own, number {number}", b"%d" % number, "positive")
        for number in range(count)
    ]


def test_about_a_tenth_is_held_out_by_the_seed() -> None:
    rows = labelled_rows(2000)
    kept, held = hold_out(rows, 0)
    assert sorted(kept + held, key=lambda row: int(row.post_id or 0)) == rows
    assert 150 < len(held) < 250
    assert hold_out(rows, 0) == (kept, held) != hold_out(rows, 1)


def test_posts_that_share_a_text_or_an_image_are_never_on_both_sides() -> None:
    rng = np.random.default_rng(0)
    rows = [
        LabelledRow(
            str(number),
            f"words that {rng.integers(400)} posts may share" if number % 3 else None,
            b"image %d" % rng.integers(400) if number % 2 else None,
            "positive",
        )
        for number in range(300)
    ]
    kept, held = hold_out(rows, 0)
    assert len(held) > 5
    for name in ("text", "image"):
        sides = [{getattr(row, name) for row in side} - {None} for side in (kept, held)]
        assert not sides[0] & sides[1]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_split_that_an_import_made_can_be_split_again(seed: int) -> None:
    rows = labelled_rows(1000)
    sides = assign_splits([row.post_id or "" for row in rows], range(1000), seed)
    train = [row for row, side in zip(rows, sides, strict=True) if side == "train"]
    _, held = hold_out(train, seed)
    assert 50 < len(held) < 110


@pytest.mark.parametrize("count", [2, 60])
def test_posts_that_cannot_be_split_are_refused_with_the_way_out(
    corpus: Path, tmp_path: Path, count: int
) -> None:
    rows = pq.read_table(corpus / "train.parquet").slice(20, count).to_pylist()
    for row in rows:
        row["image"] = rows[0]["image"]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "alike.parquet")
    options = ("--posts", str(tmp_path / "alike.parquet"))
    result = drf_train(corpus, tmp_path / "out", *options, validation=False)
    assert result.returncode == 2
    last = result.stderr.strip().splitlines()[-1]
    assert f"--posts: {count} posts cannot be split; give others with --validation" in last


def test_a_side_without_labels_is_no_split() -> None:
    rows = labelled_rows(100)
    kept, held = hold_out(rows, 0)
    for side in (kept, held):
        unlabelled = [dataclasses.replace(row, label=None) if row in side else row for row in rows]
        with pytest.raises(UsageError, match="100 posts cannot be split"):
            hold_out(unlabelled, 0)


def test_training_without_validation_posts_holds_some_out(corpus: Path, tmp_path: Path) -> None:
    result = drf_train(corpus, tmp_path / "out", *one_epoch(tmp_path), validation=False)
    assert result.returncode == 0, result.stderr
    line = result.stderr.splitlines()[0]
    trained, held = (int(number) for number in re.findall(r"(\d+) (?:posts|to validate)", line))
    assert trained + held == 160 and 5 < held < 30
    card = (tmp_path / "out" / "README.md").read_text()
    assert "--validation" not in card and "drf train --posts" in card


def one_epoch(folder: Path, **sections: dict[str, Any]) -> tuple[str, str]:
    """The option that gives a configuration of one epoch and these sections."""
    training = {**CONFIG["training"], "epochs": 1, **sections.pop("training", {})}
    model = {**CONFIG["model"], **sections.pop("model", {})}
    path = folder / "one_epoch.json"
    path.write_text(json.dumps({**CONFIG, "model": model, "training": training, **sections}))
    return "--config", str(path)


@pytest.mark.parametrize("design", ["concatenation", "late_average"])
def test_a_rival_is_trained_by_its_name_and_annotates_like_any_other(
    corpus: Path, tmp_path: Path, design: str
) -> None:
    from drf_core.fusion import ConcatenationFusion
    from drf_core.modeling_drf import DRFModel

    checkpoint = tmp_path / "rival"
    result = drf_train(corpus, checkpoint, *one_epoch(tmp_path, model={"design": design}))
    assert result.returncode == 0, result.stderr
    model = DRFModel.from_pretrained(checkpoint)
    assert model.config.design == design
    assert isinstance(model.fusion, ConcatenationFusion) == (design == "concatenation")
    saved = load_file(checkpoint / "model.safetensors")
    for name, value in model.state_dict().items():
        assert value.equal(saved[name]), name
    night = pq.read_table(corpus / "dev.parquet").slice(0, 6).to_pylist()
    night[1]["text"], night[2]["image"] = None, None
    pq.write_table(pa.Table.from_pylist(night), tmp_path / "night.parquet")
    output = Output(tmp_path / "out")
    assert main(annotate_arguments(tmp_path / "night.parquet", output, checkpoint)) == 0
    assert [row["post_id"] for row in output.annotations] == [row["post_id"] for row in night]
    assert [row["text_state"] for row in output.annotations][1] == "recovered"
    assert [row["image_state"] for row in output.annotations][2] == "recovered"


def test_an_unknown_design_is_one_line_that_names_the_known_ones(
    corpus: Path, tmp_path: Path
) -> None:
    options = one_epoch(tmp_path, model={"design": "concatenating"})
    result = drf_train(corpus, tmp_path / "out", *options)
    assert result.returncode == 2
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith(f"drf: error: --config {tmp_path / 'one_epoch.json'}: ")
    assert "design 'concatenating' is not among drf, " in last
    assert all(design in last for design in DESIGNS)
    assert "Traceback" not in result.stderr


def test_a_checkpoint_says_what_damage_it_was_trained_on(corpus: Path, tmp_path: Path) -> None:
    kinds = {"text_kinds": ["corrupt", "typos"], "image_kinds": ["blur"]}
    result = drf_train(corpus, tmp_path / "out", *one_epoch(tmp_path, training=kinds))
    assert result.returncode == 0, result.stderr
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["trained_kinds"] == {"text": ["corrupt", "typos"], "image": ["blur"]}


def test_what_a_checkpoint_was_trained_on_is_no_matter_of_configuration(
    corpus: Path, tmp_path: Path
) -> None:
    options = one_epoch(tmp_path, model={"trained_kinds": {"text": ["typos"]}})
    result = drf_train(corpus, tmp_path / "out", *options)
    assert result.returncode == 2
    assert "unknown value model.trained_kinds" in result.stderr


def test_a_training_with_frozen_encoders_goes_on_where_it_was_stopped(
    corpus: Path, tmp_path: Path
) -> None:
    training = {"train_text_encoder": False, "epochs": 3, "views_per_kind": 2}
    options = one_epoch(tmp_path, training=training)
    whole = drf_train(corpus, tmp_path / "whole", *options)
    assert whole.returncode == 0, whole.stderr
    killed = killed_after_an_epoch(arguments(corpus, tmp_path / "out", *options))
    assert killed.returncode == -9
    views = sorted((tmp_path / "out" / "_training").glob("*views*"))
    assert len(views) == 4
    made = [path.stat().st_mtime_ns for path in views]
    again = drf_train(corpus, tmp_path / "out", *options)
    assert again.returncode == 0, again.stderr
    assert "resuming after epoch 1" in again.stderr and "epoch 1:" not in again.stderr
    assert [path.stat().st_mtime_ns for path in views] == made  # nothing is encoded twice
    first, second, start = (
        load_file(tmp_path / name)
        for name in (
            "whole/model.safetensors",
            "out/model.safetensors",
            "out/_training/initial/model.safetensors",
        )
    )
    assert (
        first["projection.text.layers.1.weight"].ne(start["projection.text.layers.1.weight"]).any()
    )
    for name in first:
        assert abs(first[name].float() - second[name].float()).max() < 1e-3, name
        if name.startswith(("text_encoder.", "image_encoder.")):
            assert first[name].equal(start[name]), name


def test_views_of_other_kinds_are_never_taken_for_these(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    model = DRFModel.from_pretrained(tiny_checkpoint)
    processor = DRFProcessor.from_pretrained(str(tiny_checkpoint))
    corpus = TrainingCorpus([TrainingPost("a sunny day", None), TrainingPost("rain", None)],
                            processor, 16)  # fmt: skip
    first = encode_frozen(tmp_path, "train", model, corpus, "text", ["corrupt"], 0)
    other = encode_frozen(tmp_path, "train", model, corpus, "text", ["no_vowels", "typos"], 0)
    assert first.features.shape[1] == 2 and other.features.shape[1] == 3
    again = encode_frozen(tmp_path, "train", model, corpus, "text", ["corrupt"], 0)
    assert bool((again.features == first.features).all())
