"""A model card claims of its figures what is so."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from drf_core.training.model_card import (
    CardFacts,
    Provenance,
    as_published,
    common_licence,
    licence_of,
    usage,
    write_card,
)

FACTS = CardFacts(
    name="mine",
    design="drf",
    labels=("bad", "good"),
    text_encoder="small",
    image_encoder="small",
    training_posts=90,
    judged_posts=10,
    judged_on_validation=False,
    chose_epoch=True,
    known_posts=0,
    parameters=1_000_000,
    command="drf train",
    reference="the validation posts",
    trained_kinds={"text": ["typos"], "image": []},
)
FIGURES = {"clean": {"accuracy": 0.7}}


def card(**facts: object) -> str:
    known = dataclasses.replace(FACTS, **facts)  # type: ignore[arg-type]
    return write_card(known, FIGURES, {"clean": {"accuracy": 0.8}})


def test_figures_under_both_priors_are_told_apart() -> None:
    page = card()
    uniform, own = page.index("| clean | 0.700 |"), page.index("| clean | 0.800 |")
    assert page.index("as likely as any other") < uniform
    assert uniform < page.index("their own shares of labels") < own
    assert "is another" not in page
    assert "is another: {'good': 0.9, 'bad': 0.1}" in card(prior={"good": 0.9, "bad": 0.1})


def test_posts_that_nothing_was_chosen_on_are_called_so() -> None:
    assert "They chose nothing" in card()


def test_posts_that_were_trained_on_are_not_called_others() -> None:
    page = card(known_posts=3)
    assert "3 of them are also among the posts trained or validated on" in page
    assert "chose nothing" not in page


def test_validation_posts_are_said_to_have_chosen_what_they_chose() -> None:
    assert "They also chose the epoch and fitted" in card(judged_on_validation=True)
    last = card(judged_on_validation=True, chose_epoch=False)
    assert "They also fitted the temperature" in last and "chose the epoch" not in last


def test_damage_is_told_as_it_was_inflicted() -> None:
    assert "Training discarded modalities, and damaged\ntexts by typos." in card()
    assert "Training disrupted nothing." in card(trained_kinds={"text": [], "image": []})


def test_a_rival_is_not_passed_off_as_drf() -> None:
    assert "Design:" not in card()
    assert "Design: concatenation, to be compared with DRF." in card(design="concatenation")


def test_what_a_hub_reads_stands_in_the_metadata() -> None:
    provenance = Provenance("mit", ("a/text", "a/image"), ("mvsa",), ("en",))
    data = ModelCard(card(provenance=provenance)).data
    assert (data.license, data.base_model) == ("mit", ["a/text", "a/image"])
    assert (data.datasets, data.language, data.inference) == (["mvsa"], ["en"], False)
    [result] = data.eval_results
    assert (result.dataset_type, result.dataset_config) == ("mvsa", "clean")
    assert (result.metric_type, result.metric_value) == ("accuracy", 0.7)
    assert data.model_name == "mine"


def test_a_card_without_a_known_licence_names_none() -> None:
    page = card(licences={"a/text": "mit", "b/image": None})
    assert ModelCard(page).data.license is None
    assert "names no licence" in page and "a/text: mit; b/image: not known" in page


@pytest.mark.parametrize(
    ("licences", "common"),
    [(["mit", "mit"], "mit"), (["mit", "cc-by-nc-4.0"], None), (["mit", None], None), ([], None)],
)
def test_a_licence_is_known_where_all_encoders_share_it(
    licences: list[str | None], common: str | None
) -> None:
    assert common_licence(licences) == common


def test_the_licence_of_an_encoder_is_that_of_its_card(tmp_path: Path) -> None:
    assert licence_of(str(tmp_path)) is None
    (tmp_path / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n# Encoder\n")
    assert licence_of(str(tmp_path)) == "cc-by-4.0"


def test_a_published_card_is_about_the_published_model() -> None:
    published = as_published(card(), "me/name", licence="mit")
    page = str(published)
    assert usage("me/name") in page and usage() not in page
    assert ModelCard(page).data.model_name == "name"
    assert ModelCard(page).data.license == "mit"
    assert len(usage("me/name").splitlines()) == 5
    assert usage("you/other") in str(as_published(page, "you/other"))
