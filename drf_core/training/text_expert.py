"""Tuning a text encoder on labelled texts of several corpora and tasks, before the fusion.

The paper takes its encoders as they come. That the text encoder first learns what tweets say, from
any corpus of texts alone and from auxiliary tasks whose heads are dropped at the end, is our own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

from drf_core.corpus.disruption import TEXT_DAMAGES
from drf_core.model.modeling_drf import DRFModel
from drf_core.model.processing_drf import DRFProcessor
from drf_core.runtimes.precision import learning_autocast
from drf_core.training.batches import batches_of
from drf_core.training.settings import Track, TrainingError
from drf_core.write_whole import write_whole

# The task that is not auxiliary, and its head.
SENTIMENT = "sentiment"


@dataclass(frozen=True)
class TextTask:
    """Labelled texts of one corpus, and what is asked of them.

    targets (texts,): label indices among `labels`, None where nobody gave them. judged (texts,
    sentiment labels): what a larger checkpoint says of their sentiment under a uniform prior,
    learned in equal parts with the targets. passes: how often each text is seen.
    ends: the share of the training by whose end they are; an auxiliary task that ends early
    leaves the last word to the others. adjusted: whether the corpus's own shares of labels are
    kept out of the logits (logit adjustment, Menon et al., ICLR 2021: the loss adds the log prior,
    so the logits speak for a uniform one); head: tasks with one name share a head.
    """

    head: str
    texts: Sequence[str]
    targets: Tensor | None
    labels: tuple[str, ...]
    passes: PositiveInt = 3
    weight: NonNegativeFloat = 1.0
    ends: float = 1.0
    adjusted: bool = True
    judged: Tensor | None = None

    @property
    def prior(self) -> Tensor:
        """Shares of the targets' labels, smoothed by one text each; (labels,)."""
        assert self.targets is not None
        counts = torch.bincount(self.targets, minlength=len(self.labels)).float() + 1.0
        return counts / counts.sum()


@dataclass(frozen=True)
class TaskSettings:
    """Of one task: see `TextTask`. posts: how many are drawn at random, 0 for all."""

    passes: PositiveInt = 3
    weight: NonNegativeFloat = 1.0
    ends: float = 1.0
    posts: int = 0


@dataclass(frozen=True)
class TextExpertSettings:
    """Learning rates at the peak of a linear schedule; damaged_share: of the texts of a batch.

    save_steps: how often the state is written, in steps. tasks: by name.
    """

    batch_size: PositiveInt = 64
    learning_rate: NonNegativeFloat = 7e-5
    head_learning_rate: NonNegativeFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.01
    damaged_share: NonNegativeFloat = 0.15
    damage_kinds: tuple[str, ...] = ("corrupt", "typos", "no_vowels")
    max_tokens: PositiveInt = 64
    save_steps: PositiveInt = 100
    seed: int = 0
    tasks: Mapping[str, Mapping[str, int | float]] = field(default_factory=dict)

    def task(self, name: str) -> TaskSettings:
        """Settings of a task; raises TrainingError for a value that it has not."""
        try:
            return TaskSettings(**self.tasks.get(name, {}))  # type: ignore[arg-type]
        except TypeError as error:
            raise TrainingError(f"text_expert.tasks.{name}: {error}") from error


def schedule_batches(
    tasks: Sequence[TextTask], lengths: Sequence[np.ndarray], batch_size: int, seed: int
) -> list[tuple[int, Tensor]]:
    """(task, rows) of every step of the training, in order.

    A pass of a task is spread evenly over its part of the training.
    """
    rng = np.random.default_rng(seed)
    placed: list[tuple[float, int, Tensor]] = []
    for number, task in enumerate(tasks):
        part = task.ends / task.passes
        for turn in range(task.passes):
            batches = batches_of(len(task.texts), batch_size, rng, lengths[number])
            for rows, where in zip(batches, rng.random(len(batches)), strict=True):
                placed.append(((turn + float(where)) * part, number, rows))
    placed.sort(key=lambda item: item[0])
    return [(number, rows) for _, number, rows in placed]


class TextExpert:
    """One tuning of a model's text encoder: tasks, heads, optimiser and where it stands."""

    def __init__(
        self,
        model: DRFModel,
        processor: DRFProcessor,
        tasks: Sequence[TextTask],
        settings: TextExpertSettings,
    ) -> None:
        self.model, self.processor, self.tasks, self.settings = model, processor, tasks, settings
        torch.manual_seed(settings.seed)
        size = model.config.encoded_sizes["text"]
        labels = {task.head: task.labels for task in tasks}
        self.heads = nn.ModuleDict(
            {
                name: nn.Sequential(nn.Dropout(0.1), nn.Linear(size, len(of)))
                for name, of in labels.items()
            }
        ).to(model.device)
        self.batches = schedule_batches(
            tasks,
            [np.array([len(text) for text in task.texts]) for task in tasks],
            settings.batch_size,
            settings.seed,
        )
        self.optimizer = torch.optim.AdamW(
            [
                {"params": list(model.text_encoder.parameters()), "lr": settings.learning_rate},
                {"params": list(self.heads.parameters()), "lr": settings.head_learning_rate},
            ],
            weight_decay=settings.weight_decay,
            fused=True,
        )
        total, warm = len(self.batches), max(1, len(self.batches) // 20)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer,
            lambda step: min((step + 1) / warm, max(0.0, (total - step) / max(1, total - warm))),
        )
        self.step = 0

    def _plain_attention(self) -> None:
        # Of texts of some thirty tokens on a CPU it takes a fifth less than the fused kernel.
        if self.model.device.type == "cpu" and hasattr(
            self.model.text_encoder, "set_attn_implementation"
        ):
            self.model.text_encoder.set_attn_implementation("eager")

    def run(
        self,
        state: str | None,
        report: Callable[[str], None] = print,
        track: Track = lambda figures, step: None,
    ) -> None:
        """Tune to the end; state: file to go on from and to save to.

        report, track: told the losses, whenever the state is written.
        """
        if state is not None and os.path.exists(state):
            self._load(state)
            report(f"text encoder: resuming after step {self.step} of {len(self.batches)}")
        # Without dropout: of two or three passes little is learned by heart.
        self._plain_attention()
        self.model.text_encoder.eval().requires_grad_(True)
        progress = tqdm(total=len(self.batches), initial=self.step, unit="batch", disable=None)
        losses: dict[str, float] = {}
        while self.step < len(self.batches):
            number, rows = self.batches[self.step]
            loss = self._learn(self.tasks[number], rows)
            name = self.tasks[number].head
            losses[name] = 0.98 * losses.get(name, loss) + 0.02 * loss
            self.step += 1
            progress.update()
            progress.set_postfix({name: f"{value:.3f}" for name, value in losses.items()})
            ended = self.step == len(self.batches)
            if state is not None and (ended or self.step % self.settings.save_steps == 0):
                self._save(state)
                track(losses, self.step)
                report(
                    f"text encoder: step {self.step} of {len(self.batches)}, loss "
                    + ", ".join(f"{name} {value:.3f}" for name, value in losses.items())
                )
        progress.close()
        self.model.text_encoder.eval()

    def _learn(self, task: TextTask, rows: Tensor) -> float:
        settings, device = self.settings, self.model.device
        # Of the step alone, so that a training that was stopped goes on as it would have.
        rng = np.random.default_rng((settings.seed, self.step))
        ids = []
        for row in rows.tolist():
            text = task.texts[row]
            if rng.random() < settings.damaged_share:
                kind = settings.damage_kinds[rng.integers(len(settings.damage_kinds))]
                text = TEXT_DAMAGES[kind](text, rng, self.processor.mask_token)
            ids.append(self.processor.token_ids(text, settings.max_tokens))
        inputs = self.processor.collate(ids, [None] * len(ids), device)
        with learning_autocast(device):
            features = self.model.encode_text(inputs["input_ids"], inputs["attention_mask"])
        losses = []
        if task.judged is not None:
            logits = self.heads[SENTIMENT](features)
            losses.append(functional.cross_entropy(logits, task.judged[rows].to(device)))
        if task.targets is not None:
            logits = self.heads[task.head](features)
            if task.adjusted:
                logits = logits + task.prior.log().to(device)
            losses.append(functional.cross_entropy(logits, task.targets[rows].to(device)))
        loss = torch.stack(losses).mean()
        self.optimizer.zero_grad(set_to_none=True)
        (task.weight * loss).backward()
        nn.utils.clip_grad_norm_(self.model.text_encoder.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        return float(loss.detach())

    def _save(self, path: str) -> None:
        state: dict[str, Any] = {
            "step": self.step,
            "encoder": self.model.text_encoder.state_dict(),
            "heads": self.heads.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "rng": torch.get_rng_state(),
        }
        write_whole(Path(path), lambda unfinished: torch.save(state, unfinished))

    def _load(self, path: str) -> None:
        state = torch.load(path, map_location=self.model.device, weights_only=True)
        self.step = state["step"]
        self.model.text_encoder.load_state_dict(state["encoder"])
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        torch.set_rng_state(state["rng"].cpu())
