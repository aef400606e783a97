"""What `drf train` refuses: one line that names the mistake and the way out."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from drf_core.model.designs import DESIGNS
from tests.support.training_runs import (
    drf_train,
    one_epoch,
)


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
        (["--unlabelled", "./x.parquet"], "--unlabelled ./x.parquet: no such file or folder"),
        (["--weights", "1", "0.5"], "--weights: 2 for 1 corpora; give --posts once for each"),
        (["--weights", "1.5"], "--weights: give shares between 0 and 1"),
        (["--auxiliary", "emoji=x.parquet"], "--auxiliary: needs a section text_expert"),
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


def test_posts_that_are_all_held_out_are_told(corpus: Path, tmp_path: Path) -> None:
    posts = str(corpus / "train.parquet")
    given = ("--posts", posts, "--validation", posts)
    result = drf_train(corpus, tmp_path / "out", *given, validation=False)
    assert result.returncode == 2
    assert "--posts: 0 labelled posts are left to train on" in result.stderr.splitlines()[-1]


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
        (
            '{"training": {"epochs": "3"}}',
            "training.epochs: Input should be a valid integer (it is '3')",
        ),
        (
            '{"training": {"batch_size": 0}}',
            "training.batch_size: Input should be greater than 0 (it is 0)",
        ),
        (
            '{"training": {"learning_rate": "1e-3"}}',
            "training.learning_rate: Input should be a valid number (it is '1e-3')",
        ),
        (
            '{"training": {"weight_decay": -1}}',
            "training.weight_decay: Input should be greater than or equal to 0 (it is -1)",
        ),
        (
            '{"training": {"train_text_encoder": "no"}}',
            "should be a valid boolean (it is 'no')",
        ),
        ('{"training": {"image_kinds": ["blurr"]}}', "training.image_kinds: 'blurr'"),
        ('{"training": {"text_kinds": []}}', "training.text_kinds: 'an empty list'"),
        ('{"shrink": {"text": {"layer": 3}}}', "unknown value shrink.text.layer"),
        (
            '{"distillation": {"image_epochs": "four"}}',
            "distillation.image_epochs: Input should be a valid integer (it is 'four')",
        ),
        ('{"card": {"language": "en"}}', "card.language: Input should be a valid"),
        ('{"text_expert": {"passes": 3}}', "unknown value text_expert.passes"),
    ],
)
def test_a_mistake_in_the_configuration_is_refused(
    corpus: Path, tmp_path: Path, config: str, line: str
) -> None:
    (tmp_path / "bad.json").write_text(config)
    result = drf_train(corpus, tmp_path / "out", "--config", str(tmp_path / "bad.json"))
    assert result.returncode == 2
    assert line in result.stderr.strip().splitlines()[-1]


def test_validation_without_labels_is_refused(corpus: Path, tmp_path: Path) -> None:
    table = pq.read_table(corpus / "dev.parquet")
    labels = pa.array([None] * table.num_rows, pa.string())
    table = table.set_column(table.schema.get_field_index("label"), "label", labels)
    pq.write_table(table, tmp_path / "dev.parquet")
    result = drf_train(corpus, tmp_path / "out", "--validation", str(tmp_path / "dev.parquet"))
    assert result.returncode == 2
    assert "--validation: no post has a label" in result.stderr


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


def test_what_a_checkpoint_was_trained_on_is_no_matter_of_configuration(
    corpus: Path, tmp_path: Path
) -> None:
    options = one_epoch(tmp_path, model={"trained_kinds": {"text": ["typos"]}})
    result = drf_train(corpus, tmp_path / "out", *options)
    assert result.returncode == 2
    assert "unknown value model.trained_kinds" in result.stderr
