"""The designs that can be trained and compared: DRF, its ablations, and its rivals.

All share encoders, projections, training disruption, distillation and optimiser; a design
says only what is done with the projected features. `DRFConfig.design` names one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Design:
    """What is done with the projected features of both modalities.

    fusion: "evidence" (DRF: the quality-weighted sum of what each modality says),
    "concatenation" (one head over both modalities' features, each blended with its recovered ones
    by how far it is trusted), "average" (late fusion: the mean of both modalities'
    probabilities), "energy" (QMF) and "predicted" (PDF; late fusion by confidences, see
    `drf_core.model.dynamic_fusion`), "text" or "image" (that modality alone). recovery: what
    stands in for an
    absent or distrusted modality: "memory" (DRF), "mean" (of the queue) or "none" (zero).
    quality_weights: whether low quality lowers a weight. sample_loss, distribution_loss: which
    supervision recovery gets. covariance: "full" or "diagonal", of the distributions.
    """

    fusion: str = "evidence"
    recovery: str = "memory"
    quality_weights: bool = True
    sample_loss: bool = True
    distribution_loss: bool = True
    covariance: str = "full"


def _rival(fusion: str, recovery: str = "none") -> Design:
    return Design(fusion, recovery, False, False, False)


DESIGNS: dict[str, Design] = {
    "drf": Design(),
    "drf_no_quality_weights": Design(quality_weights=False),
    "drf_no_recovery": Design(recovery="none", sample_loss=False, distribution_loss=False),
    "drf_sample_loss_only": Design(distribution_loss=False),
    "drf_distribution_loss_only": Design(sample_loss=False),
    "drf_no_recovery_loss": Design(sample_loss=False, distribution_loss=False),
    "drf_diagonal_covariance": Design(covariance="diagonal"),
    "drf_concatenating": Design(fusion="concatenation"),
    "concatenation": _rival("concatenation"),
    "concatenation_mean_fill": _rival("concatenation", "mean"),
    "late_average": _rival("average"),
    "qmf": _rival("energy"),
    "pdf": _rival("predicted"),
    "text_only": _rival("text"),
    "image_only": _rival("image"),
}
