from __future__ import annotations

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
    (tmp_path / "config.json").write_text(
        '{"reference_posts": {"text": 900, "image": 700}, "reference_files": ["a/b.parquet"]}'
    )
    facts = read_model_facts(str(tmp_path))
    assert (facts.reference_posts, facts.reference_known) == (700, True)
    assert facts.reference_files == ("a/b.parquet",)
