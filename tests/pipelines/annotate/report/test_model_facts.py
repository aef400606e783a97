from __future__ import annotations

import json
import shutil
from pathlib import Path

from pipelines.annotate.report.model_facts import ModelFacts, read_model_facts
from pipelines.storage.checkpoints import DEFAULT_MODEL, resolve_model


def test_a_card_says_how_accurate_the_model_was_and_on_how_many_posts() -> None:
    facts = read_model_facts(resolve_model(DEFAULT_MODEL))
    assert facts.accuracy is not None and 0.5 < facts.accuracy < 0.9
    assert facts.accuracy_posts == 450


def test_a_folder_that_says_nothing_leaves_all_open(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    assert read_model_facts(str(tmp_path)) == ModelFacts()


def test_the_posts_of_the_reference_are_counted_by_the_weights(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    config["reference_files"] = ["dt=2026-11-17/a.parquet"]
    (folder / "config.json").write_text(json.dumps(config))
    facts = read_model_facts(str(folder))
    assert (facts.reference_posts, facts.reference_known) == (64, True)
    assert facts.reference_files == ("dt=2026-11-17/a.parquet",)
