"""Training a DRF model under disruption."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from drf_core.corpus.disruption import (
    Disruption,
    draw_training_disruptions,
)
from drf_core.corpus.posts import TrainingCorpus
from drf_core.corpus.views import FeatureViews, encode_undisrupted, encode_views
from drf_core.evaluation.protocol import CLEAN
from drf_core.evaluation.quick import evaluate, mean_accuracy
from drf_core.model.modeling_drf import DRFModel
from drf_core.runtimes.choice import available_cores
from drf_core.training.batches import batches_of, encode_batch
from drf_core.training.fitting import (
    fill_queues,
    fit_confidence,
    fit_kinds,
    push_to_queues,
    set_reference,
)
from drf_core.training.losses import distillation_loss, recovery_loss, sentiment_loss
from drf_core.training.rival_losses import PastLosses, confidence_loss
from drf_core.training.settings import Track, TrainingSettings
from drf_core.write_whole import write_whole
from schemas.annotations import MODALITIES

STATE_FILE = "training_state.pt"
# One damage for every epoch and model, or scores would differ by chance.
EVALUATION_SEED = 0
# How many steps read the same projected memory: projections move little in a few, and the queue
# is long.
MEMORY_STEPS = 4
# How often the progress bar is told the loss, in steps: on a GPU it waits for each.
_TOLD_STEPS = 10


class Trainer:
    """One training: student, its moving average, optimiser and schedule.

    views, validation_views: of the modalities whose encoders stay as they are, of all kinds
    that settings names; they are encoded once. teacher_logits (posts,
    labels): what a larger checkpoint says of the undisrupted posts; without it the averaged
    model is the teacher. reference: posts that the finished model ranks qualities among;
    without it the validation posts. Runs on a GPU where there is one.
    """

    def __init__(
        self,
        model: DRFModel,
        corpus: TrainingCorpus,
        validation: TrainingCorpus,
        settings: TrainingSettings,
        views: Mapping[str, FeatureViews] | None = None,
        validation_views: Mapping[str, FeatureViews] | None = None,
        teacher_logits: Tensor | None = None,
        reference: TrainingCorpus | None = None,
    ) -> None:
        self.model, self.corpus, self.validation = model, corpus, validation
        self.settings = settings
        self.views, self.validation_views = views or {}, validation_views or {}
        self.teacher_logits = teacher_logits
        self.reference = reference
        model.train_on_kinds(
            self._kinds() if settings.disrupted_share else {m: [] for m in MODALITIES}
        )
        labels = len(model.config.labels)
        self.priors = corpus.priors(labels).to(model.device)
        self.validation_prior = validation.priors(labels).mean(0)
        # Training and fitting add the corpora's own priors; that of the finished model comes last.
        self._assumed, model.config.prior = model.config.prior, None
        self.rng = np.random.default_rng(settings.seed)
        torch.manual_seed(settings.seed)
        model.text_encoder.requires_grad_(settings.train_text_encoder)
        for part in (model.image_encoder, model.image_reduction):
            part.requires_grad_(settings.train_image_encoder)
        fill_queues(model, corpus, self.views, self._kinds(), self.rng)
        model.fit_distributions(standardise=True)
        set_reference(model, self.look_at_validation(model))
        self.averaged = copy.deepcopy(model).eval().requires_grad_(False)
        # Kept: to walk through all modules of the encoders takes longer than a small step.
        self._learned = [p for p in model.parameters() if p.requires_grad]
        self._means = [
            mean
            for mean, p in zip(self.averaged.parameters(), model.parameters(), strict=True)
            if p.requires_grad
        ]
        self.steps = math.ceil(len(corpus) / settings.batch_size)
        self.optimizer = torch.optim.AdamW(
            self._parameter_groups(), weight_decay=settings.weight_decay
        )
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._warm_cosine)
        self.past_losses = PastLosses(len(corpus))
        self.epoch = 0
        self.loss = math.nan
        self.history: list[dict[str, Any]] = []
        self.best_state: dict[str, Tensor] = {}

    @property
    def _encoders_learn(self) -> bool:
        return self.settings.train_text_encoder or self.settings.train_image_encoder

    def _kinds(self) -> dict[str, list[str]]:
        return {"text": self.settings.text_kinds, "image": self.settings.image_kinds}

    def _parameter_groups(self) -> list[dict[str, Any]]:
        encoders = {
            id(p)
            for part in (
                self.model.text_encoder,
                self.model.image_encoder,
                self.model.image_reduction,
            )
            for p in part.parameters()
        }
        return [
            {
                "params": [p for p in self._learned if id(p) in encoders],
                "lr": self.settings.encoder_learning_rate,
            },
            {
                "params": [p for p in self._learned if id(p) not in encoders],
                "lr": self.settings.learning_rate,
            },
        ]

    def _warm_cosine(self, step: int) -> float:
        total = max(1, self.settings.epochs * self.steps)
        warm = max(1, total // 20)
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, total - warm))))

    def run(
        self,
        folder: str | None,
        report: Callable[[str], None] = print,
        track: Track = lambda figures, epoch: None,
    ) -> None:
        """Train to the end, saving after every epoch to folder; continues a saved training.

        folder: None to keep nothing. report, track: told each epoch's loss, accuracies, and how
        often the label that is said most is said and occurs. Leaves the best averaged weights in
        `model`, with queues, distributions, reference and temperature refitted to them.
        """
        state = None if folder is None else os.path.join(folder, STATE_FILE)
        if state is not None and os.path.exists(state):
            self.load(state)
            report(f"resuming after epoch {self.epoch}")
        while self.epoch < self.settings.epochs and not self._out_of_patience():
            self.train_epoch()
            told = {"loss": self.loss}
            if self.settings.choose_epoch:
                told |= self._validate()
            else:
                self.best_state = _on_cpu(self.averaged.state_dict())
            report(
                f"epoch {self.epoch}: "
                + ", ".join(f"{name} {value:.3f}" for name, value in told.items())
            )
            track(told, self.epoch)
            if state is not None:
                self.save(state)
        report("fitting qualities and confidence to the epoch that was best")
        self.finish()

    def _validate(self) -> dict[str, float]:
        figures = evaluate(
            self.averaged,
            self.look_at_validation(self.averaged),
            self.validation.labels.numpy(),
            self.validation_prior.numpy(),
        )
        score = mean_accuracy(figures)
        if score > max((entry["score"] for entry in self.history), default=-1.0):
            self.best_state = _on_cpu(self.averaged.state_dict())
        self.history.append({"epoch": self.epoch, "score": score, "figures": figures})
        known = self.validation.labels[self.validation.labels >= 0]
        return {
            **{name: cell["accuracy"] for name, cell in figures.items()},
            "most said": figures[CLEAN]["most_said"],
            "majority": float(known.bincount().max()) / len(known),
        }

    def look_at_validation(self, model: DRFModel) -> dict[str, FeatureViews]:
        """The validation posts as model encodes them, undisrupted and corrupted."""
        return {
            m: self.validation_views[m]
            if m in self.validation_views
            else encode_views(
                model, self.validation, m, validation_kinds(self._kinds()[m]), EVALUATION_SEED
            )
            for m in MODALITIES
        }

    def _out_of_patience(self) -> bool:
        scores = [entry["score"] for entry in self.history]
        return bool(scores) and len(scores) - 1 - int(np.argmax(scores)) >= self.settings.patience

    def train_epoch(self) -> None:
        """One pass over the corpus, then refit distributions and reference."""
        self._train_mode()
        lengths = None
        if self.settings.train_text_encoder:
            lengths = np.array([len(post.text or "") for post in self.corpus.posts])
        batches = batches_of(len(self.corpus), self.settings.batch_size, self.rng, lengths)
        total = torch.zeros((), device=self.model.device)
        progress = tqdm(batches, f"epoch {self.epoch + 1}", unit="batch", disable=None)
        with ThreadPoolExecutor(available_cores()) as pool:
            for number, index in enumerate(progress, 1):
                total += self._step(index, pool)
                if number % _TOLD_STEPS == 0:
                    progress.set_postfix(loss=f"{float(total) / number:.3f}", refresh=False)
        self.loss = float(total) / len(batches)
        self.epoch += 1
        self.model.eval()
        if self._encoders_learn:
            self.model.fit_distributions(standardise=False)
        set_reference(self.model, self.look_at_validation(self.model))
        self._copy_buffers()

    def _train_mode(self) -> None:
        self.model.train()
        if not self.settings.train_text_encoder:
            self.model.text_encoder.eval()
        if not self.settings.train_image_encoder:
            self.model.image_encoder.eval()

    def _step(self, index: Tensor, pool: ThreadPoolExecutor) -> Tensor:
        """Learn from the posts at index (batch,); return the loss."""
        settings = self.settings
        disruptions = draw_training_disruptions(
            len(index),
            self.rng,
            settings.disrupted_share,
            settings.text_kinds,
            settings.image_kinds,
        )
        device = self.model.device
        batch = encode_batch(
            self.model, self.corpus, self.views, index, disruptions, self.rng, pool
        )
        output = self.model.forward_features(
            batch.text, batch.image, batch.present, index.to(device)
        )
        assert output.logits is not None
        undisrupted = batch.present.all(1) & ~batch.damaged.any(1)
        labels = self.corpus.labels[index].to(device)
        loss = sentiment_loss(
            output,
            labels,
            batch.present,
            settings.unimodal_weight,
            self.priors[self.corpus.corpus[index].to(device)],
        )
        design = self.model.design
        loss = loss + recovery_loss(
            output,
            undisrupted,
            settings.sample_weight * design.sample_loss,
            settings.distribution_weight * design.distribution_loss,
        )
        loss = loss + confidence_loss(
            self.model, output, labels, batch.present, index, self.past_losses
        )
        # Without a larger teacher only disrupted posts have anything to learn from a view that
        # is not; the averaged model need not look at the others.
        taught = torch.tensor(
            [self.teacher_logits is not None or d != Disruption() for d in disruptions]
        )
        if bool(taught.any()):
            teacher = self._teacher(index[taught], pool).to(device)
            distilled = distillation_loss(output.logits[taught.to(device)], teacher)
            loss = loss + settings.distillation_weight * distilled
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._learned, 1.0)
        self.optimizer.step()
        self.schedule.step()
        self._average()
        if self._encoders_learn:
            push_to_queues(self.model, batch, index)
        # Where posts were pushed, the memory's rows are no longer those of the queue.
        if self._encoders_learn or self.schedule.last_epoch % MEMORY_STEPS == 0:
            self.model.forget_memory()
            self.averaged.forget_memory()
        return loss.detach()

    @torch.no_grad()
    def _teacher(self, index: Tensor, pool: ThreadPoolExecutor) -> Tensor:
        if self.teacher_logits is not None:
            return self.teacher_logits[index]
        whole = [Disruption()] * len(index)
        batch = encode_batch(self.averaged, self.corpus, self.views, index, whole, self.rng, pool)
        logits = self.averaged.forward_features(
            batch.text, batch.image, batch.present, index.to(self.averaged.device)
        ).logits
        assert logits is not None
        return logits

    @torch.no_grad()
    def _average(self) -> None:
        # Early averages follow quickly, or the random start would linger.
        seen = self.schedule.last_epoch
        decay = min(self.settings.ema_decay, (1 + seen) / (10 + seen))
        torch._foreach_lerp_(self._means, self._learned, 1 - decay)

    @torch.no_grad()
    def _copy_buffers(self) -> None:
        for mean, value in zip(self.averaged.buffers(), self.model.buffers(), strict=True):
            mean.copy_(value)
        self.averaged.forget_memory()

    def save(self, path: str) -> None:
        """Write the whole state of the training, atomically."""
        state = {
            "epoch": self.epoch,
            "history": self.history,
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "queues": [dict(queue.named_buffers()) for queue in self.model.queues()],
            "best": self.best_state,
            "past_losses": vars(self.past_losses),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "cuda_rng": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "torch_rng": torch.get_rng_state(),
            "numpy_rng": self.rng.bit_generator.state,
        }
        write_whole(Path(path), lambda unfinished: torch.save(state, unfinished))

    def load(self, path: str) -> None:
        """Continue from a state that `save` wrote."""
        state = torch.load(path, map_location=self.model.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        for queue, kept in zip(self.model.queues(), state["queues"], strict=True):
            for name, values in kept.items():
                getattr(queue, name).copy_(values)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.epoch, self.history, self.best_state = state["epoch"], state["history"], state["best"]
        kept = state.get("past_losses", {})
        vars(self.past_losses).update({name: values.cpu() for name, values in kept.items()})
        torch.set_rng_state(state["torch_rng"].cpu())
        if torch.cuda.is_available() and state["cuda_rng"]:
            torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda_rng"]])
        self.rng.bit_generator.state = state["numpy_rng"]

    def finish(self) -> None:
        """Leave the best weights in `model`, everything that hangs on them refitted."""
        if self.best_state:
            self.model.load_state_dict(self.best_state)
        self.model.eval()
        if self._encoders_learn:
            rng = np.random.default_rng(self.settings.seed)
            fill_queues(self.model, self.corpus, self.views, self._kinds(), rng)
            self.model.fit_distributions(standardise=False)
        rng = np.random.default_rng(self.settings.seed)
        fit_kinds(self.model, self.corpus, self.views, self._kinds(), rng)
        seen = self.look_at_validation(self.model)
        if self.reference is None:
            set_reference(self.model, seen)
        else:
            night = encode_undisrupted(self.model, self.reference)
            set_reference(self.model, night, "--reference")
        fit_confidence(self.model, seen, self.validation.labels, self.validation_prior)
        self.model.config.prior = self._assumed


def validation_kinds(trained: Sequence[str]) -> list[str]:
    """The kinds of damage that validation posts are seen in: those trained on, and the paper's."""
    return list(dict.fromkeys(["corrupt", *trained]))


def _on_cpu(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in state.items()}
