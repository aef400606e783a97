"""What `drf train` learns from where it is given several corpora and auxiliary tasks."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.train.command import add_train_arguments
from pipelines.train.config import train_config
from pipelines.train.corpora import Corpora, read_corpora
from schemas.errors import UsageError
from tests.data.corpora import image_bytes
from tests.support.training_runs import CONFIG, drf_train

EXPERT = {
    **CONFIG,
    "text_expert": {"batch_size": 8, "tasks": {"emoji": {"passes": 1, "posts": 5}}},
    "text_adaptation": {
        "batch_size": 8,
        "tasks": {"images": {"passes": 2}, "others": {"passes": 1}},
    },
}


def write(path: Path, rows: list[tuple[str | None, str]], images: bool = False) -> Path:
    """Posts of (text, label)."""
    columns: dict[str, list[Any]] = {
        "post_id": [f"{path.stem}-{number}" for number in range(len(rows))],
        "text": [text for text, _ in rows],
        "label": [label for _, label in rows],
    }
    if images:
        columns["image"] = [image_bytes(number) for number in range(len(rows))]
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Corpora]:
    """Reads posts with images, tweets without, and what else the options name."""
    tmp_path = tmp_path_factory.mktemp("corpora")
    mood = ("bad", "good")
    write(tmp_path / "posts.parquet", [(f"a picture {n}", mood[n % 2]) for n in range(10)], True)
    tweets = [(f"a tweet, number {n}", "good" if n < 16 else "bad") for n in range(20)]
    write(
        tmp_path / "tweets.parquet", [*tweets, ("Validated  @them", "bad"), ("a picture 1", "bad")]
    )
    write(tmp_path / "dev.parquet", [("a picture 90", "bad"), ("Validated @us", "good")], True)
    write(
        tmp_path / "emoji.parquet",
        [(f"smile {n}", ("sun", "rain", "tea")[n % 3]) for n in range(9)],
    )

    def call(
        *more: str,
        expert: bool = True,
        validation: bool = True,
        tasks: dict[str, Any] | None = None,
    ) -> Corpora:
        config = EXPERT if expert else {}
        if tasks is not None:
            config = {**EXPERT, "text_expert": {"tasks": tasks}}
        held = ("--validation", str(tmp_path / "dev.parquet")) if validation else ()
        more = tuple(option.replace("FOLDER", str(tmp_path)) for option in more)
        parser = argparse.ArgumentParser()
        add_train_arguments(parser)
        args = parser.parse_args(
            [
                *("--posts", str(tmp_path / "posts.parquet")),
                *("--posts", str(tmp_path / "tweets.parquet"), "--output", str(tmp_path / "out")),
                *(*held, "--text-encoder", "small", "--image-encoder", "small", *more),
            ]
        )
        return read_corpora(args, train_config("", config, 0), tmp_path)

    return call


@pytest.fixture(scope="module")
def corpora(read: Callable[..., Corpora]) -> Corpora:
    return read("--auxiliary", "emoji=FOLDER/emoji.parquet")


def test_each_posts_option_is_a_corpus_of_its_own(corpora: Corpora) -> None:
    assert corpora.labels == ("bad", "good")
    numbers = [post.corpus for post in corpora.posts]
    assert numbers == sorted(numbers) and set(numbers) == {0, 1}
    assert all((post.image is not None) == (post.corpus == 0) for post in corpora.posts)


def test_a_weight_is_the_share_of_a_corpus_that_the_fusion_learns_from(
    read: Callable[..., Corpora],
) -> None:
    corpora = read("--weights", "1", "0.25")
    assert [post.corpus for post in corpora.posts].count(0) == 10
    assert [post.corpus for post in corpora.posts].count(1) == 5
    # The text encoder learns from all of them.
    [task] = corpora.tasks
    assert len(task.texts) == 20


def test_texts_that_are_held_out_are_learned_from_nowhere(
    read: Callable[..., Corpora], capfd: pytest.CaptureFixture[str]
) -> None:
    corpora = read()
    assert "1 posts left out, whose text is among those held out" in capfd.readouterr().err
    # Read plainly, it is the validation post's, whoever is mentioned.
    assert not [post for post in corpora.posts if "alidated" in (post.text or "")]
    [task] = corpora.tasks
    assert not [text for text in task.texts if "alidated" in text]


def test_the_text_encoder_does_not_learn_by_heart_what_the_fusion_learns_beside_images(
    corpora: Corpora,
) -> None:
    assert any(post.text == "a picture 1" and post.corpus == 1 for post in corpora.posts)
    assert "a picture 1" not in corpora.tasks[0].texts


def test_files_of_one_posts_option_are_one_corpus(
    read: Callable[..., Corpora], tmp_path: Path
) -> None:
    files = [str(write(tmp_path / f"{n}.parquet", [(f"part {n}", "good")])) for n in range(3)]
    corpora = read("--posts", *files)
    assert [post.corpus for post in corpora.posts if "part" in (post.text or "")] == [2, 2, 2]


def test_a_text_that_is_held_out_is_not_learned_beside_an_image_either(
    read: Callable[..., Corpora], tmp_path: Path
) -> None:
    held = write(tmp_path / "held.parquet", [("a  picture 3", "bad"), ("more", "good")], True)
    for option in ("--validation", "--test"):
        texts = [post.text for post in read(option, str(held)).posts]
        assert "a picture 3" not in texts and "a picture 4" in texts


def test_posts_are_held_out_of_every_corpus_as_it_is_trained_on(
    read: Callable[..., Corpora], tmp_path: Path
) -> None:
    mood = ("bad", "good")
    rows = [(f"a text of its own, number {n}", mood[n % 2]) for n in range(200)]
    more = write(tmp_path / "more.parquet", rows)
    for weight in ("1", "0.5"):
        options = ("--posts", str(more), "--weights", "1", "1", weight)
        validation = read(*options, validation=False).validation
        held = [post for post in validation if "of its own" in (post.text or "")]
        assert 8 * float(weight) < len(held) < 40 * float(weight)


def test_as_many_texts_of_the_sentiment_are_learned_as_the_configuration_says(
    read: Callable[..., Corpora],
) -> None:
    [task] = read(tasks={"sentiment": {"posts": 7}}).tasks
    assert task.head == "sentiment" and len(task.texts) == len(task.targets) == 7


def test_auxiliary_tasks_have_labels_of_their_own(corpora: Corpora) -> None:
    sentiment, emoji = corpora.tasks
    assert (sentiment.head, sentiment.labels, sentiment.adjusted) == (
        *("sentiment", ("bad", "good")),
        True,
    )
    assert (emoji.head, emoji.labels, emoji.passes) == ("emoji", ("rain", "sun", "tea"), 1)
    # Five of nine are drawn, as the configuration says.
    assert len(emoji.texts) == len(emoji.targets) == 5 and not emoji.adjusted
    assert sentiment.prior.tolist() == pytest.approx([5 / 22, 17 / 22])


def test_the_text_encoder_is_adapted_to_texts_beside_images_and_to_others_to_remember(
    corpora: Corpora,
) -> None:
    beside, others = corpora.adaptation
    assert (beside.head, others.head) == ("sentiment", "sentiment")
    assert len(beside.texts) == 10 and beside.passes == 2
    assert len(others.texts) == 20 and others.passes == 1
    assert not set(others.texts) & set(beside.texts)


def test_without_a_text_expert_there_are_no_tasks(read: Callable[..., Corpora]) -> None:
    corpora = read(expert=False)
    assert corpora.tasks == corpora.adaptation == []


def test_unlabelled_posts_make_words_familiar_and_are_not_trained_on_without_a_teacher(
    read: Callable[..., Corpora], tmp_path: Path
) -> None:
    write(tmp_path / "more.parquet", [("words of the night", "")])
    corpora = read("--unlabelled", str(tmp_path / "more.parquet"))
    assert "words of the night" in corpora.texts
    assert "words of the night" not in [post.text for post in corpora.posts]


def test_what_a_teacher_judges_is_a_task_of_the_text_encoder_and_none_of_the_fusion(
    read: Callable[..., Corpora], tmp_path: Path
) -> None:
    write(tmp_path / "more.parquet", [("words of the night", "")])
    more = ("--unlabelled", str(tmp_path / "more.parquet"), "--teacher", "checkpoint")
    corpora = read(*more)
    assert corpora.tasks[-1].texts == ["words of the night"]
    assert (corpora.tasks[-1].head, corpora.tasks[-1].targets) == ("sentiment", None)
    assert "words of the night" not in [post.text for post in corpora.posts]
    assert "words of the night" in [post.text for post in read(*more, expert=False).posts]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--weights", "1"], "--weights: 1 for 2 corpora; give --posts once for each corpus"),
        (["--weights", "1", "-0.5"], "--weights: give shares between 0 and 1"),
        (["--weights", "1", "nan"], "--weights: give shares between 0 and 1"),
        (["--auxiliary", "emoji"], "--auxiliary emoji: give NAME=PATH"),
        (["--auxiliary", "=x.parquet"], "--auxiliary =x.parquet: give NAME=PATH"),
        (["--auxiliary", "sentiment=x"], "there is a task 'sentiment' already"),
        (["--auxiliary", "emoji=./nowhere"], "--auxiliary ./nowhere: no such file or folder"),
    ],
)
def test_a_mistake_is_named(read: Callable[..., Corpora], options: list[str], line: str) -> None:
    with pytest.raises(UsageError) as refused:
        read(*options)
    assert line in str(refused.value)


def test_a_task_without_a_section_that_learns_it_is_refused(read: Callable[..., Corpora]) -> None:
    with pytest.raises(UsageError, match="--auxiliary: needs a section text_expert in --config"):
        read("--auxiliary", "emoji=x.parquet", expert=False)


def test_a_checkpoint_is_trained_on_several_corpora_and_tasks_in_one_command(
    corpus: Path, tmp_path: Path
) -> None:
    said = (("awful sad day", "negative"), ("lovely happy day", "positive"))
    tweets = [(f"{text} {n}", label) for n in range(8) for text, label in said]
    write(tmp_path / "tweets.parquet", tweets)
    write(tmp_path / "emoji.parquet", [(f"smile {n}", ("sun", "rain")[n % 2]) for n in range(16)])
    training = {**CONFIG["training"], "epochs": 1, "train_text_encoder": False}
    (tmp_path / "config.json").write_text(json.dumps({**EXPERT, "training": training}))
    result = drf_train(
        corpus, tmp_path / "out", "--config", str(tmp_path / "config.json"),
        "--posts", str(corpus / "train.parquet"), "--posts", str(tmp_path / "tweets.parquet"),
        "--auxiliary", f"emoji={tmp_path / 'emoji.parquet'}", "--weights", "1", "0.5",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert "168 posts to train on" in result.stderr
    assert "text encoder: 16 texts of sentiment, 2 labels" in result.stderr
    assert "text encoder: 5 texts of emoji, 2 labels" in result.stderr
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["id2label"] == {"0": "negative", "1": "positive"}
