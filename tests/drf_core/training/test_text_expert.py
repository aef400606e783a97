"""The text encoder is tuned on several tasks; what tuned it is dropped, and it can be resumed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from drf_core.model.modeling_drf import DRFModel
from drf_core.model.processing_drf import DRFProcessor
from drf_core.training import text_expert
from drf_core.training.settings import TrainingError
from drf_core.training.text_expert import (
    TaskSettings,
    TextExpert,
    TextExpertSettings,
    TextTask,
    schedule_batches,
)

GOOD = ["good sunny day", "a lovely morning at the lake", "best concert", "sunny good"]
BAD = ["bad rainy day", "the train is late again", "i hate this line", "rainy bad"]


def sentiment(copies: int = 4, passes: int = 2) -> TextTask:
    targets = torch.tensor([1] * len(GOOD) + [0] * len(BAD)).repeat(copies)
    return TextTask("sentiment", (GOOD + BAD) * copies, targets, ("bad", "good"), passes)


def emoji(passes: int = 1, ends: float = 0.5) -> TextTask:
    targets = torch.arange(16) % 3
    return TextTask("emoji", ["good day", "rain"] * 8, targets, ("a", "b", "c"), passes, 0.5, ends,
                    adjusted=False)  # fmt: skip


SETTINGS = TextExpertSettings(batch_size=8, learning_rate=1e-2, max_tokens=24, save_steps=2)


@pytest.fixture
def parts(tiny_checkpoint: Path) -> tuple[DRFModel, DRFProcessor]:
    return (
        DRFModel.from_pretrained(tiny_checkpoint),
        DRFProcessor.from_pretrained(str(tiny_checkpoint)),
    )


def quiet(line: str) -> None:
    """Report nothing."""


def lengths(tasks: Sequence[TextTask]) -> list[np.ndarray]:
    return [np.array([len(text) for text in task.texts]) for task in tasks]


def test_every_text_is_seen_as_often_as_its_task_has_passes() -> None:
    tasks = [sentiment(passes=3), emoji(passes=2)]
    batches = schedule_batches(tasks, lengths(tasks), 5, seed=0)
    for number, task in enumerate(tasks):
        seen = torch.cat([rows for of, rows in batches if of == number])
        assert torch.equal(seen.bincount(), torch.full((len(task.texts),), task.passes))


def test_a_task_that_ends_early_leaves_the_last_word_to_the_others() -> None:
    tasks = [sentiment(copies=40, passes=2), emoji(passes=2, ends=0.5)]
    order = [of for of, _ in schedule_batches(tasks, lengths(tasks), 4, seed=0)]
    last = max(place for place, of in enumerate(order) if of == 1)
    assert 0.3 * len(order) < last < 0.6 * len(order)
    # Each pass is spread over its part, and the other task is there from the beginning.
    assert order[: len(order) // 4].count(0) > 0 and 1 in order[: len(order) // 4]


def test_the_seed_decides_the_order() -> None:
    tasks = [sentiment(), emoji()]
    first, again, other = (
        [(of, rows.tolist()) for of, rows in schedule_batches(tasks, lengths(tasks), 4, seed)]
        for seed in (0, 0, 1)
    )
    assert first == again != other


def test_a_text_encoder_learns_its_tasks(parts: tuple[DRFModel, DRFProcessor]) -> None:
    model, processor = parts
    expert = TextExpert(model, processor, [sentiment(passes=6)], SETTINGS)
    expert.run(None, quiet)
    inputs = processor([*GOOD, *BAD], [None] * 8)
    with torch.no_grad():
        features = model.encode_text(inputs["input_ids"], inputs["attention_mask"])
        said = expert.heads["sentiment"].eval()(features).argmax(1)
    assert (said == torch.tensor([1] * 4 + [0] * 4)).float().mean() >= 0.75


def test_only_the_text_encoder_is_changed_and_no_head_is_kept(
    parts: tuple[DRFModel, DRFProcessor],
) -> None:
    model, processor = parts
    before = {name: value.clone() for name, value in model.state_dict().items()}
    TextExpert(model, processor, [sentiment(passes=1), emoji()], SETTINGS).run(None, quiet)
    after = model.state_dict()
    assert set(after) == set(before)
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed and all(name.startswith("text_encoder.") for name in changed)
    assert not model.text_encoder.training


def test_a_tuning_that_was_stopped_ends_as_one_that_was_not(
    parts: tuple[DRFModel, DRFProcessor], tiny_checkpoint: Path, tmp_path: Path
) -> None:
    tasks = [sentiment(copies=2), emoji()]
    whole, processor = parts
    TextExpert(whole, processor, tasks, SETTINGS).run(None, quiet)
    state = str(tmp_path / "text_expert.pt")

    class Stopped(Exception):
        pass

    def stop(line: str) -> None:
        if line.startswith("text encoder: step 4 "):
            raise Stopped

    with pytest.raises(Stopped):
        TextExpert(DRFModel.from_pretrained(tiny_checkpoint), processor, tasks, SETTINGS).run(
            state, stop
        )
    lines: list[str] = []
    resumed = DRFModel.from_pretrained(tiny_checkpoint)
    torch.rand(7)  # Whatever chance did in between.
    TextExpert(resumed, processor, tasks, SETTINGS).run(state, lines.append)
    assert lines[0].startswith("text encoder: resuming after step 4 of ")
    steps = lines[0].rpartition(" ")[2]
    assert lines[-1].startswith(f"text encoder: step {steps} of {steps}, loss sentiment ")
    expected = whole.text_encoder.state_dict()
    for name, value in resumed.text_encoder.state_dict().items():
        assert torch.equal(value, expected[name]), name
    # And once it is done, there is nothing left to do.
    again = TextExpert(DRFModel.from_pretrained(tiny_checkpoint), processor, tasks, SETTINGS)
    again.run(state, quiet)
    assert torch.equal(
        next(again.model.text_encoder.parameters()), next(resumed.text_encoder.parameters())
    )


def test_the_shares_of_labels_are_kept_out_of_an_adjusted_task_alone(
    parts: tuple[DRFModel, DRFProcessor], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    loss = text_expert.functional.cross_entropy
    monkeypatch.setattr(
        text_expert.functional,
        "cross_entropy",
        lambda logits, targets: seen.append(logits.detach()) or loss(logits, targets),
    )
    targets = torch.tensor([1] * 7 + [0])
    model, processor = parts
    for adjusted in (False, True):
        task = TextTask("s", GOOD + BAD, targets, ("bad", "good"), 1, adjusted=adjusted)
        still = dataclasses.replace(SETTINGS, learning_rate=0.0, head_learning_rate=0.0)
        expert = TextExpert(model, processor, [task], still)
        expert._learn(task, torch.arange(8))
    assert torch.allclose(task.prior, torch.tensor([2 / 10, 8 / 10]))
    assert torch.allclose(seen[1] - seen[0], task.prior.log().expand(8, 2), atol=1e-4)


def test_settings_of_a_task_are_checked() -> None:
    settings = TextExpertSettings(tasks={"emoji": {"passes": 1, "posts": 100}})
    assert settings.task("emoji") == TaskSettings(passes=1, posts=100)
    assert settings.task("sentiment") == TaskSettings()
    with pytest.raises(TrainingError, match=r"text_expert\.tasks\.emoji: .*'pases'"):
        TextExpertSettings(tasks={"emoji": {"pases": 1}}).task("emoji")


def test_texts_that_nobody_labelled_teach_what_the_teacher_says_of_them(
    parts: tuple[DRFModel, DRFProcessor],
) -> None:
    judged = torch.tensor([[0.1, 0.9]] * len(GOOD) + [[0.8, 0.2]] * len(BAD)).repeat(12, 1)
    task = TextTask("sentiment", (GOOD + BAD) * 12, None, ("bad", "good"), judged=judged)
    settings = dataclasses.replace(SETTINGS, damaged_share=0.0)
    expert = TextExpert(*parts, [task], settings)
    expert.run(None, quiet)
    model, processor = parts
    ids = [processor.token_ids(text, 24) for text in GOOD + BAD]
    inputs = processor.collate(ids, [None] * len(ids), model.device)
    with torch.no_grad():
        features = model.encode_text(inputs["input_ids"], inputs["attention_mask"])
        said = expert.heads["sentiment"].eval()(features).softmax(-1)
    assert torch.allclose(said, judged[: len(ids)], atol=0.15)
