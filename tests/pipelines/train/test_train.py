"""`drf train`: labelled posts in, a checkpoint that annotates out."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file

from drf_core.corpus.posts import TrainingCorpus, TrainingPost
from drf_core.model.modeling_drf import DRFModel
from drf_core.model.processing_drf import DRFProcessor
from pipelines.cli import main
from pipelines.posts.labelled import LabelledRow, to_training_posts
from pipelines.train.resume import encode_frozen
from tests.data.labelled_posts import write_labelled
from tests.support.running import Output, annotate_arguments
from tests.support.training_runs import (
    CONFIG,
    arguments,
    drf_train,
    killed_after_an_epoch,
    one_epoch,
)


@pytest.fixture(scope="module")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "checkpoint"
    result = drf_train(corpus, output)
    assert result.returncode == 0, result.stderr
    return output


def test_a_checkpoint_learns_and_annotates(trained: Path, corpus: Path) -> None:
    from drf_core.annotator import Annotator

    annotator = Annotator.from_pretrained(str(trained), device="cpu", threads=1)
    assert annotator.labels == ("negative", "positive")
    posts = [post for post in pq.read_table(corpus / "dev.parquet").to_pylist() if post["label"]]
    said = annotator.predict([annotator.prepare(post["text"], post["image"]) for post in posts])
    right = [one.label == post["label"] for one, post in zip(said, posts, strict=True)]
    assert sum(right) / len(right) > 0.8


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
    queue = load_file(trained / "model.safetensors")["paired_queue.text"]
    assert queue.abs().sum() > 0


def test_the_card_holds_figures_and_the_command(trained: Path) -> None:
    card = (trained / "README.md").read_text()
    assert "| clean |" in card and "| image discard |" in card
    assert "drf train --posts" in card


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


def test_a_teacher_judges_the_texts_that_a_text_expert_is_tuned_on(
    corpus: Path, trained: Path, tmp_path: Path
) -> None:
    write_labelled(tmp_path / "texts.parquet", 40, 7, without_image=40)
    expert = {"batch_size": 8, "tasks": {"sentiment": {"passes": 1}}}
    result = drf_train(
        *(corpus, tmp_path / "student", "--teacher", str(trained), "--posts"),
        *(str(corpus / "train.parquet"), "--posts", str(tmp_path / "texts.parquet")),
        *one_epoch(tmp_path, text_expert=expert),
    )
    assert result.returncode == 0, result.stderr
    assert "text encoder: 40 texts of sentiment" in result.stderr
    assert "teacher reads texts: 100%" in result.stderr
    assert "text encoder distilled" not in result.stderr


def test_qualities_can_be_ranked_among_posts_as_the_job_sees_them(
    corpus: Path, trained: Path, tmp_path: Path
) -> None:
    before = load_file(trained / "model.safetensors")
    night = write_labelled(tmp_path / "night.parquet", 50, 9)
    result = drf_train(corpus, tmp_path / "checkpoint", "--reference", str(night))
    assert result.returncode == 0, result.stderr
    after = load_file(tmp_path / "checkpoint" / "model.safetensors")
    changed = {name for name in after if not after[name].equal(before[name])}
    assert {"quality.text.reference.scores", "quality.image.reference.scores"} <= changed
    assert not any(name.startswith(("text_encoder.", "projection.")) for name in changed)
    assert "given with --reference" in (tmp_path / "checkpoint" / "README.md").read_text()


def test_everyone_may_read_a_checkpoint_and_nothing_else_lies_there(trained: Path) -> None:
    assert not [path for path in trained.iterdir() if path.is_dir()]
    assert {path.stat().st_mode & 0o777 for path in trained.iterdir()} == {0o644}
    assert not trained.with_name("checkpoint.training").exists()


def test_a_stopped_training_is_not_mixed_with_another(corpus: Path, tmp_path: Path) -> None:
    out = tmp_path / "checkpoint"
    assert killed_after_an_epoch(arguments(corpus, out)).returncode == -9
    other = ("--posts", str(write_labelled(tmp_path / "other.parquet", 160, 5)))
    result = drf_train(corpus, out, *other)
    assert result.returncode == 2
    assert "holds a training with other posts, encoders or settings" in result.stderr
    anew = drf_train(corpus, out, *other, "--restart", *one_epoch(tmp_path))
    assert anew.returncode == 0, anew.stderr


def test_a_checkpoint_is_replaced_only_where_that_is_asked_for(corpus: Path, trained: Path) -> None:
    result = drf_train(corpus, trained)
    assert result.returncode == 2
    assert "holds a checkpoint; give another --output, or --restart" in result.stderr


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
    posts = state["paired_queue.post"][: int(state["paired_queue.pushed"])]
    # 160 posts, 16 of them without an image.
    assert len(posts) == len(set(posts.tolist())) == 144


@pytest.mark.parametrize("design", ["concatenation", "late_average"])
def test_a_rival_is_trained_by_its_name_and_annotates_like_any_other(
    corpus: Path, tmp_path: Path, design: str
) -> None:
    from drf_core.model.fusion import ConcatenationFusion
    from drf_core.model.modeling_drf import DRFModel

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


def test_what_is_trained_on_and_what_comes_next_is_told(corpus: Path, tmp_path: Path) -> None:
    kinds = {"text_kinds": ["corrupt", "typos"], "image_kinds": ["blur"]}
    options = ("--test", str(corpus / "dev.parquet"), *one_epoch(tmp_path, training=kinds))
    result = drf_train(corpus, tmp_path / "out", *options)
    assert result.returncode == 0, result.stderr
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["trained_kinds"] == {"text": ["corrupt", "typos"], "image": ["blur"]}
    first, then, *_, next_command = result.stderr.splitlines()
    assert first.startswith("160 posts to train on (160 labelled), 60 to validate, 60 to test; ")
    assert then.startswith(f"small and small, up to 1 epochs on cpu, into {tmp_path / 'out'}; ")
    assert "on the 60 test posts" in result.stderr
    # No stage that takes minutes with real encoders is silent.
    stages = (
        "fitting the distributions",
        "epoch 1:",
        "fitting qualities",
        "judging the checkpoint",
    )
    told = [place for stage in stages if (place := result.stderr.find(f"\n{stage}")) > 0]
    assert told == sorted(told) and len(told) == len(stages)
    told = ["drf", "evaluate", "--posts", str(corpus / "dev.parquet"), "--model"]
    assert shlex.split(next_command)[: len(told) + 1] == [*told, str(tmp_path / "out")]


def test_a_training_with_frozen_encoders_goes_on_where_it_was_stopped(
    corpus: Path, tmp_path: Path
) -> None:
    training = {"train_text_encoder": False, "epochs": 3, "views_per_kind": 2}
    options = one_epoch(tmp_path, training=training)
    whole = drf_train(corpus, tmp_path / "whole", *options)
    assert whole.returncode == 0, whole.stderr
    killed = killed_after_an_epoch(arguments(corpus, tmp_path / "out", *options))
    assert killed.returncode == -9
    views = sorted((tmp_path / "out.training").glob("*views*"))
    assert len(views) == 4
    [start] = (load_file(path) for path in tmp_path.glob("out.training/initial/*.safetensors"))
    # Whoever encodes again would not find the features as they were.
    assert all(path.stat().st_size for path in views)
    again = drf_train(corpus, tmp_path / "out", *options)
    assert again.returncode == 0, again.stderr
    assert "resuming after epoch 1" in again.stderr and "epoch 1:" not in again.stderr
    first, second = (load_file(tmp_path / n / "model.safetensors") for n in ("whole", "out"))
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


def test_a_checkpoint_does_not_tell_where_its_encoders_lay(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    from drf_core import DRFModel, DRFProcessor
    from pipelines.train.save import save_checkpoint

    model = DRFModel.from_pretrained(tiny_checkpoint)
    model.config.text_config.name_or_path = "/home/somebody/encoders/text"
    model.config.vision_config.name_or_path = "/home/somebody/encoders/image"
    save_checkpoint(tmp_path, model, DRFProcessor.from_pretrained(str(tiny_checkpoint)))
    assert "somebody" not in (tmp_path / "config.json").read_text()
