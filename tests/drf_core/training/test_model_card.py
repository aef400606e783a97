"""A model card claims of its figures what is so."""

from __future__ import annotations

import dataclasses

from drf_core.training.model_card import CardFacts, write_card

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
    return write_card(dataclasses.replace(FACTS, **facts), FIGURES)  # type: ignore[arg-type]


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
