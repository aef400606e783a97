"""What a DRF model does with features: queues, quality, recovery and quality-aware fusion.

After "Robust Multimodal Sentiment Analysis of Image-Text Pairs by Distribution-Based
Feature Recovery and Fusion" (arXiv:2511.18751). Its abstract names the parts; the formulas
are this project's own reading. Without the encoders, and without transformers' model classes,
which take as long to import as torch does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from drf_core.model.configuration_drf import DRFConfig
from drf_core.model.designs import DESIGNS
from drf_core.model.feature_queue import FeatureQueue
from drf_core.model.fusion import (
    ConcatenationFusion,
    EvidenceFusion,
    average_fusion,
    expert,
    single_fusion,
)
from drf_core.model.projection import Projection, Standardiser
from drf_core.model.quality import QualityEstimator, trust
from drf_core.model.recovery import Recovery
from schemas.annotations import MODALITIES

OTHER = {"text": "image", "image": "text"}
# The queues of disrupted posts are this many times as long as the other. Chosen by how well
# qualities tell a kind of damage that is not in the queue (tests/benchmarks/left_out_damage.py):
# image features are many and take more rows; text distributions get too sharp with more.
DAMAGED_PER_UNDISRUPTED = {"text": 1, "image": 3}


@dataclass
class DRFOutput(ModelOutput):
    """What the model says of a batch; pairs of columns are text, image.

    logits (batch, labels). quality, weight (batch, 2). unimodal_logits (batch, 2, labels): the
    evidence of each modality as it came. hidden, recovered (batch, 2, d): projected features
    and those recovered from the other modality, zero where the source is absent.
    """

    logits: Tensor | None = None
    quality: Tensor | None = None
    weight: Tensor | None = None
    unimodal_logits: Tensor | None = None
    hidden: Tensor | None = None
    recovered: Tensor | None = None


class FeatureModel(nn.Module):
    """The parts that a DRF model has beside its encoders; DRFModel adds those."""

    config: DRFConfig

    def add_parts(self, config: DRFConfig) -> None:
        """Add them, with the initial weights of training."""
        sizes = {"text": config.text_feature_size, "image": config.image_feature_size}
        d, dropout = config.projection_size, config.hidden_dropout
        self.undisrupted_queue = FeatureQueue(config.queue_length, sizes)
        self.disrupted_queues = nn.ModuleDict(
            {
                m: FeatureQueue(damaged * config.queue_length, {m: sizes[m]})
                for m, damaged in DAMAGED_PER_UNDISRUPTED.items()
            }
        )
        self.standardise = nn.ModuleDict({m: Standardiser(sizes[m]) for m in MODALITIES})
        self.quality = nn.ModuleDict(
            {
                m: QualityEstimator(
                    sizes[m], config.reference_length, DESIGNS[config.design].covariance
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
        labels = len(config.labels)
        self.unimodal_heads = nn.ModuleDict({m: expert(d, labels, dropout) for m in MODALITIES})
        self.design = DESIGNS[config.design]
        self.fusion = (
            ConcatenationFusion(d, labels, dropout)
            if self.design.fusion == "concatenation"
            else EvidenceFusion(labels)
        )
        self.register_buffer("temperature", torch.ones(()))
        self._memory: dict[str, Tensor] | None = None
        self._memory_errors: dict[str, Tensor] | None = None

    def train(self, mode: bool = True) -> FeatureModel:
        """Switch mode, and forget the projected memory, which training changes."""
        self.forget_memory()
        super().train(mode)
        return self

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

        text: (present texts, text size), image: (present images, image size), None where the
        batch has none; present: (batch, 2) bool, columns text, image. own: (batch,) training
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
            mask = own[:, None] == self.undisrupted_queue.post[: self.undisrupted_queue.filled]
        recovered, trusted = {}, {}
        for column, m in enumerate(MODALITIES):
            n, rows = OTHER[m], present[:, column]
            source = present[:, 1 - column, None]
            recovered[m] = self._recover(m, hidden[n], memory, mask) * source
            if not bool(rows.all()):
                of_recovered = self._quality_of_recovered(m, undropped[n], memory)
                quality[m] = torch.where(rows, quality[m], of_recovered)
            trusted[m] = trust(
                quality[m], self.config.quality_threshold, self.config.trust_floor[m]
            )
        logits, weight = self._fuse(hidden, unimodal, recovered, _pair(trusted), present)
        return DRFOutput(
            logits=logits / self.temperature,
            quality=_pair(quality),
            weight=weight,
            unimodal_logits=_pair(unimodal),
            hidden=_pair(hidden),
            recovered=_pair(recovered),
        )

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

    def _fuse(
        self,
        hidden: dict[str, Tensor],
        unimodal: dict[str, Tensor],
        recovered: dict[str, Tensor],
        trusted: Tensor,
        present: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Logits (batch, labels) and weights (batch, 2)."""
        kind = self.design.fusion
        if kind == "average":
            return average_fusion(_pair(unimodal), present)
        if kind in MODALITIES:
            return single_fusion(_pair(unimodal), present, kind, self.fusion.bias)
        if not self.design.quality_weights:
            trusted = torch.ones_like(trusted)
        own = torch.where(present, trusted, torch.zeros_like(trusted))
        # What was recovered from a distrusted source is not believed more than the source.
        of_recovered = torch.where(present, torch.ones_like(trusted), trusted) * own.flip(1)
        if self.design.recovery == "none":
            of_recovered = torch.zeros_like(of_recovered)
        if kind == "concatenation":
            return self.fusion(_pair(hidden), _pair(recovered), own, of_recovered)
        evidence = {m: self.unimodal_heads[m](recovered[m]) for m in MODALITIES}
        return self.fusion(_pair(unimodal), _pair(evidence), own, of_recovered)

    def _look_at(
        self, modality: str, raw: Tensor | None, rows: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Projected features as learned from, the same without dropout, and quality.

        raw (present, size), rows (batch,) bool: where they belong. Returns (batch, d),
        (batch, d), (batch,), zero elsewhere.
        """
        features = torch.zeros(len(rows), self.config.projection_size, device=rows.device)
        quality = torch.zeros(len(rows), device=rows.device)
        if raw is None:
            return features, features, quality
        standard = self.standardise[modality](raw)
        projection = self.projection[modality]
        hidden = features.index_put((rows,), projection(standard))
        if not self._wants_quality:
            return hidden, features, quality
        with torch.no_grad():
            quality = quality.index_put((rows,), self.quality[modality](standard))
            if self.training:
                return hidden, features, quality
            # What is compared with a reference must be computed as the reference was.
            undropped = features.index_put((rows,), projection.without_dropout(standard))
        return hidden, undropped, quality

    def memory(self) -> dict[str, Tensor]:
        """The paired queue, projected; {modality: (filled, d)}. Kept until it is forgotten."""
        if self._memory is not None:
            return self._memory
        # Read, not learned through: a gradient for every entry would cost more than the rest.
        with torch.no_grad():
            self._memory = {
                m: self.projection[m].without_dropout(
                    self.standardise[m](self.undisrupted_queue.rows(m))
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
            undisrupted = self.undisrupted_queue.rows(m)
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

        text (n, text size), image (k, image size): raw features, n and k at least 1;
        paired (p, 2) int: rows of text and image that belong to one post. Their recovered
        features are the reference of recovered features.
        """
        raw = {"text": text, "image": image}
        for m in MODALITIES:
            self.quality[m].set_reference(self.standardise[m](raw[m]))
        training = self.training
        self.eval()
        memory = self.memory()
        for column, m in enumerate(MODALITIES):
            n = OTHER[m]
            source = self.projection[n](self.standardise[n](raw[n][paired[:, 1 - column]]))
            errors = self.memory_errors()[m]
            self.recovery[m].reference.set(self.recovery[m].score(source, memory[n], errors))
        self.train(training)


class DRFHead(FeatureModel):
    """A DRF model without encoders: serves beside a runtime that has its own."""

    def __init__(self, config: DRFConfig) -> None:
        super().__init__()
        self.config = config
        self.add_parts(config)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.temperature.device


def _pair(values: dict[str, Tensor]) -> Tensor:
    return torch.stack([values[m] for m in MODALITIES], 1)
