"""What a DRF model does with features: queues, quality, recovery and quality-aware fusion.

After "Robust Multimodal Sentiment Analysis of Image-Text Pairs by Distribution-Based
Feature Recovery and Fusion" (arXiv:2511.18751). Its abstract names the parts; the formulas
are this project's own reading.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from drf_core.model.configuration_drf import DRFConfig
from drf_core.model.designs import DESIGNS
from drf_core.model.feature_queue import FeatureQueue
from drf_core.model.fusion import Features, expert, fuse, make_fusion
from drf_core.model.input_statistics import KNOWS_LENGTH, STATISTICS_SIGNS, TokenStatistics
from drf_core.model.projection import Projection, Standardiser
from drf_core.model.quality import FIRST_TRUST, QualityEstimator, trust
from drf_core.model.recovery import Recovery
from schemas.annotations import MODALITIES

OTHER = {"text": "image", "image": "text"}
# What a post can have; each has a temperature of its own: an image alone is surer than it should
# be by another factor than a text.
PRESENCE = ("both", *MODALITIES)
# The queues of disrupted posts are this many times as long as the other. Chosen by how well
# qualities tell a kind of damage that is not in the queue (left_out_damage.py in tests/benchmarks):
# image features are many and take more rows; text distributions get too sharp with more.
DAMAGED_PER_UNDISRUPTED = {"text": 1, "image": 3}


@dataclass
class DRFOutput(ModelOutput):
    """What the model says of a batch; pairs of columns are text, image.

    logits (batch, labels), under the configuration's prior but in training. quality (batch, 2).
    evidence (batch, 2, labels): what each modality put into the logits, in logits. damage
    (batch, 2) int: the kind of damage of `config.trained_kinds` that the modality resembles, -1
    where none or absent; None in training. score (batch, 2): see
    `QualityEstimator.unbounded_score`, NaN where absent; None in training. unimodal_logits (batch,
    2, labels): what the expert of each modality says as it came. hidden, recovered (batch, 2, d):
    projected features and those recovered from the other modality, zero where the source is absent.
    """

    logits: Tensor | None = None
    quality: Tensor | None = None
    evidence: Tensor | None = None
    damage: Tensor | None = None
    score: Tensor | None = None
    unimodal_logits: Tensor | None = None
    hidden: Tensor | None = None
    recovered: Tensor | None = None


class FeatureModel(nn.Module):
    """The parts that a DRF model has beside its encoders; DRFModel adds those."""

    config: DRFConfig
    temperature: Tensor

    def add_parts(self, config: DRFConfig) -> None:
        """Add them, with the initial weights of training."""
        sizes, d, dropout = config.raw_sizes, config.projection_size, config.hidden_dropout
        self.paired_queue = FeatureQueue(config.queue_length, sizes)
        # Only to fit distributions to: a checkpoint holds those, and not these.
        self.undisrupted_queues, self.disrupted_queues = (
            nn.ModuleDict(
                {
                    m: FeatureQueue(2 * times[m] * config.queue_length, {m: sizes[m]}, False)
                    for m in MODALITIES
                }
            )
            for times in (dict.fromkeys(MODALITIES, 1), DAMAGED_PER_UNDISRUPTED)
        )
        self.token_statistics = TokenStatistics(config.text_config.vocab_size)
        self.standardise = nn.ModuleDict({m: Standardiser(sizes[m]) for m in MODALITIES})
        self.quality = nn.ModuleDict(
            {
                m: QualityEstimator(
                    sizes[m],
                    STATISTICS_SIGNS[m],
                    config.reference_length,
                    DESIGNS[config.design].covariance,
                    len((config.trained_kinds or {}).get(m, ())),
                    KNOWS_LENGTH[m],
                )
                for m in MODALITIES
            }
        )
        drop = {"text": config.text_dropout, "image": config.image_dropout}
        self.projection = nn.ModuleDict({m: Projection(sizes[m], d, drop[m]) for m in MODALITIES})
        self.recovery = nn.ModuleDict(
            {
                m: Recovery(d, config.memory_sharpness, dropout, config.reference_length)
                for m in MODALITIES
            }
        )
        labels, self.design = len(config.labels), DESIGNS[config.design]
        self.unimodal_heads = nn.ModuleDict({m: expert(d, labels, dropout) for m in MODALITIES})
        self.fusion = make_fusion(self.design.fusion, d, labels, dropout)
        self.register_buffer("temperature", torch.ones(len(PRESENCE)))
        self.register_buffer("trust", torch.tensor(FIRST_TRUST))
        self._memory: dict[str, Tensor] | None = None
        self._memory_errors: dict[str, Tensor] | None = None

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.temperature.device

    def train(self, mode: bool = True) -> FeatureModel:
        """Switch mode, and forget the projected memory, which training changes."""
        self.forget_memory()
        super().train(mode)
        return self

    def queues(self) -> tuple[FeatureQueue, ...]:
        """All feature queues: the paired one, those of undisrupted and of disrupted posts."""
        return (
            self.paired_queue,
            *self.undisrupted_queues.values(),
            *self.disrupted_queues.values(),
        )

    def train_on_kinds(self, kinds: dict[str, list[str]]) -> None:
        """Say which kinds of damage, by modality, training uses; makes room to name them."""
        self.config.trained_kinds = kinds
        for m in MODALITIES:
            self.quality[m].make_room(len(kinds[m]))

    def forget_memory(self) -> None:
        """Project the paired queue anew when it is next read: it or the projections changed."""
        self._memory = self._memory_errors = None

    def forward_features(
        self,
        text: Tensor | None,
        image: Tensor | None,
        present: Tensor,
        own: Tensor | None = None,
    ) -> DRFOutput:
        """Quality, recovery and fusion over raw features.

        text: (present texts, raw text size), image: (present images, raw image size), None where
        the batch has none; present: (batch, 2) bool, columns text, image. own: (batch,) training
        post of each row, so that recovery does not read its own queue entry.
        """
        # In full precision also inside autocast: qualities are ranks among scores that were
        # computed so.
        with torch.autocast(present.device.type, enabled=False):
            return self._forward_features(text, image, present, own)

    def _forward_features(
        self, text: Tensor | None, image: Tensor | None, present: Tensor, own: Tensor | None
    ) -> DRFOutput:
        raw = {"text": text, "image": image}
        hidden, undropped, quality, unimodal = {}, {}, {}, {}
        for column, m in enumerate(MODALITIES):
            rows = present[:, column]
            hidden[m], undropped[m], quality[m] = self._look_at(m, raw[m], rows)
            unimodal[m] = self.unimodal_heads[m](hidden[m])
        memory = self.memory() if self._wants_memory else dict(hidden)
        mask = None
        if own is not None:
            mask = own[:, None] == self.paired_queue.post[: self.paired_queue.filled]
        recovered = {}
        for column, m in enumerate(MODALITIES):
            n, rows = OTHER[m], present[:, column]
            source = present[:, 1 - column, None]
            recovered[m] = self._recover(m, hidden[n], memory, mask) * source
            if not bool(rows.all()):
                of_recovered = self._quality_of_recovered(m, undropped[n], memory)
                quality[m] = torch.where(rows, quality[m], of_recovered)
        output = DRFOutput(
            quality=_pair(quality),
            **({} if self.training else self._described(raw, present)),
            unimodal_logits=_pair(unimodal),
            hidden=_pair(hidden),
            recovered=_pair(recovered),
        )
        output.logits, output.evidence = self.fuse(output, present)
        return output

    def fuse(self, output: DRFOutput, present: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (batch, labels) and evidence (batch, 2, labels) of what else is in an output.

        present (batch, 2) bool. Trust, temperature and prior are those of the moment: fitting them
        need not look at the posts again.
        """
        assert output.quality is not None
        trusted = [trust(output.quality[:, column], self.trust[column]) for column in range(2)]
        logits, evidence = self._fuse(output, torch.stack(trusted, 1), present)
        temperature = self.temperature[presence(present)]
        logits, evidence = logits / temperature[:, None], evidence / temperature[:, None, None]
        if not self.training:
            prior = torch.tensor(self.config.label_prior, device=logits.device)
            logits = logits + (prior * len(prior)).log()
        return logits, evidence

    @torch.no_grad()
    def _described(self, raw: dict[str, Tensor | None], present: Tensor) -> dict[str, Tensor]:
        """Damage and score of what is present (see `DRFOutput`)."""
        damage, score = [], []
        for column, m in enumerate(MODALITIES):
            rows, features, quality = present[:, column], raw[m], self.quality[m]
            if features is None:
                damage.append(torch.full((len(rows),), -1, device=rows.device))
                score.append(torch.full((len(rows),), torch.nan, device=rows.device))
            else:
                standard = self.standardise[m](features)
                damage.append(_placed(quality.nearest_kind(standard), rows, -1))
                score.append(_placed(quality.unbounded_score(standard), rows, torch.nan))
        return {"damage": torch.stack(damage, 1), "score": torch.stack(score, 1)}

    @torch.no_grad()
    def _quality_of_recovered(
        self, modality: str, source: Tensor, memory: dict[str, Tensor]
    ) -> Tensor:
        if self.training:
            # The entries' own errors, which it rests on, change with every step.
            return torch.ones(len(source), device=source.device)
        errors = self.memory_errors()[modality]
        return self.recovery[modality].quality(source, memory[OTHER[modality]], errors)

    @property
    def _wants_memory(self) -> bool:
        return self._wants_quality or self.design.recovery != "none"

    @property
    def _wants_quality(self) -> bool:
        # Half the time of a training step; a design that does not weigh by it learns without.
        return self.design.quality_weights or not self.training

    def _recover(
        self, modality: str, source: Tensor, memory: dict[str, Tensor], mask: Tensor | None
    ) -> Tensor:
        """Features (batch, d) of a modality from the other one's, as the design has it."""
        other = OTHER[modality]
        if self.design.recovery == "memory":
            return self.recovery[modality](source, memory[other], memory[modality], mask)
        if self.design.recovery == "mean":
            return memory[modality].mean(0).expand_as(source)
        return torch.zeros_like(source)

    def _fuse(self, output: DRFOutput, trusted: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (batch, labels) and evidence (batch, 2, labels), as the design has it."""
        hidden, said, recovered = output.hidden, output.unimodal_logits, output.recovered
        assert hidden is not None and said is not None and recovered is not None
        if not self.design.quality_weights:
            trusted = torch.ones_like(trusted)
        own = torch.where(present, trusted, torch.zeros_like(trusted))
        # What was recovered from a distrusted source is not believed more than the source.
        of_recovered = torch.where(present, torch.ones_like(trusted), trusted) * own.flip(1)
        if self.design.recovery == "none":
            of_recovered = torch.zeros_like(of_recovered)
        features = Features(hidden, recovered, said, present)
        return fuse(
            self.design.fusion, self.fusion, features, (own, of_recovered), self.unimodal_heads
        )

    def _look_at(
        self, modality: str, raw: Tensor | None, rows: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Projected features as learned from, the same without dropout, and quality.

        raw (present, size), rows (batch,) bool: where they belong. Returns (batch, d),
        (batch, d), (batch,), zero elsewhere.
        """
        if raw is None:
            nothing = torch.zeros(len(rows), self.config.projection_size, device=rows.device)
            return nothing, nothing, nothing[:, 0]
        standard = self.standardise[modality](raw)
        projection = self.projection[modality]
        hidden = _placed(projection(standard), rows)
        if not self._wants_quality:
            return hidden, torch.zeros_like(hidden), torch.zeros_like(hidden[:, 0])
        with torch.no_grad():
            quality = _placed(self.quality[modality](standard), rows)
            if self.training:
                return hidden, torch.zeros_like(hidden), quality
            # What is compared with a reference must be computed as the reference was.
            undropped = _placed(projection.without_dropout(standard), rows)
        return hidden, undropped, quality

    def memory(self) -> dict[str, Tensor]:
        """The paired queue, projected; {modality: (filled, d)}. Kept until it is forgotten."""
        if self._memory is not None:
            return self._memory
        # Read, not learned through: a gradient for every entry would cost more than the rest.
        with torch.no_grad():
            self._memory = {
                m: self.projection[m].without_dropout(
                    self.standardise[m](self.paired_queue.rows(m))
                )
                for m in MODALITIES
            }
        return self._memory

    @torch.no_grad()
    def memory_errors(self) -> dict[str, Tensor]:
        """How far the recovery of each entry of the paired queue is off; {modality: (filled,)}."""
        memory = self.memory()
        if self._memory_errors is None:
            self._memory_errors = {
                m: self.recovery[m].errors(memory[OTHER[m]], memory[m]) for m in MODALITIES
            }
        return self._memory_errors

    @torch.no_grad()
    def fit_distributions(self, standardise: bool = True) -> None:
        """Fit the distributions of both modalities to their queues (paper).

        standardise: refit input standardisation too; the projections were trained on the
        one they have, so only before training.
        """
        for m in MODALITIES:
            undisrupted = self.undisrupted_queues[m].rows(m)
            if standardise:
                self.standardise[m].fit(undisrupted)
            self.quality[m].fit(
                self.standardise[m](undisrupted),
                self.standardise[m](self.disrupted_queues[m].rows(m)),
            )
        self.forget_memory()

    @torch.no_grad()
    def set_reference(self, text: Tensor, image: Tensor, paired: Tensor) -> None:
        """Rank qualities among these held-out undisrupted posts from now on.

        text (n, raw text size), image (k, raw image size): raw features; paired (p, 2) int: rows of
        text and image that belong to one post. Their recovered features are the reference of
        recovered features. A reference without posts stays as it was.
        """
        raw = {"text": text, "image": image}
        for m in MODALITIES:
            if len(raw[m]):
                self.quality[m].set_reference(self.standardise[m](raw[m]))
        if not len(paired):
            return
        training = self.training
        self.eval()
        memory = self.memory()
        for column, m in enumerate(MODALITIES):
            n = OTHER[m]
            source = self.projection[n](self.standardise[n](raw[n][paired[:, 1 - column]]))
            errors = self.memory_errors()[m]
            self.recovery[m].reference.set(self.recovery[m].score(source, memory[n], errors))
        self.train(training)


def _placed(values: Tensor, rows: Tensor, elsewhere: float = 0.0) -> Tensor:
    """Values of the posts where rows (batch,) is true, elsewhere in the places of the others.

    values: of those posts, or (batch, ...), of which those are taken.
    """
    if len(values) == len(rows):
        return torch.where(rows.reshape(-1, *[1] * (values.ndim - 1)), values, elsewhere)
    whole = values.new_full((len(rows), *values.shape[1:]), elsewhere)
    return whole.index_put((rows,), values)


def presence(present: Tensor) -> Tensor:
    """Which of PRESENCE posts have, by number; present (n, 2) bool -> (n,) int."""
    return (2 - present[:, 0].long()) * (~present.all(1)).long()


def _pair(values: dict[str, Tensor]) -> Tensor:
    return torch.stack([values[m] for m in MODALITIES], 1)
