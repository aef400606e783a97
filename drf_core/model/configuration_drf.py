"""Configuration of a DRF model."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig, PretrainedConfig

from drf_core.model.designs import DESIGNS
from drf_core.model.input_statistics import IMAGE_STATISTICS, TEXT_STATISTICS


class DRFConfig(PretrainedConfig):
    """Everything that shapes a DRF model; saved as config.json.

    text_config, vision_config: configurations of any `AutoModel` text and vision encoder.
    text_feature_size, image_feature_size: size of each encoder's pooled features.
    text_pooling, image_pooling: "mean" over tokens, or "first" token.
    image_reduction: image features are reduced linearly to so many, None for as many as there are;
        distributions and queues of many features make a checkpoint large.
    projection_size: d of the shared feature space.
    design: which of `drf_core.model.designs.DESIGNS` this is; everything but "drf" is there to be
        compared with it.
    trained_kinds: kinds of damage per modality that training used, None where unknown.
    queue_length: posts in each feature queue (paper: a feature queue per modality).
    reference_length: quantiles kept of the held-out scores that qualities are ranks among.
    prior: share of each label that probabilities assume, by name; uniform where None. Training
        keeps the labels' shares in its corpora out of the logits, so that the prior is explicit.
    quality_threshold: below it a modality is called low_quality.
    memory_sharpness: inverse temperature of the attention over the paired queue.
    reference_files: source files, in date folders, of the posts that qualities are ranked among.
    adapted: what `drf adapt` did to it, None where it did nothing.
    """

    model_type = "drf"
    sub_configs = {"text_config": AutoConfig, "vision_config": AutoConfig}  # noqa: RUF012

    def __init__(
        self,
        text_config: PretrainedConfig | dict[str, Any] | None = None,
        vision_config: PretrainedConfig | dict[str, Any] | None = None,
        text_feature_size: int = 768,
        image_feature_size: int = 512,
        text_pooling: str = "mean",
        image_pooling: str = "mean",
        image_reduction: int | None = None,
        max_text_tokens: int = 96,
        projection_size: int = 128,
        design: str = "drf",
        trained_kinds: dict[str, list[str]] | None = None,
        queue_length: int = 1024,
        reference_length: int = 512,
        quality_threshold: float = 0.05,
        prior: dict[str, float] | None = None,
        memory_sharpness: float = 10.0,
        text_dropout: float = 0.5,
        image_dropout: float = 0.7,
        hidden_dropout: float = 0.3,
        reference_files: list[str] | None = None,
        adapted: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        self.text_config = _sub_config(text_config, "bert")
        self.vision_config = _sub_config(vision_config, "resnet")
        self.text_feature_size = text_feature_size
        self.image_feature_size = image_feature_size
        self.text_pooling = text_pooling
        self.image_pooling = image_pooling
        self.image_reduction = image_reduction
        self.max_text_tokens = max_text_tokens
        self.projection_size = projection_size
        if design not in DESIGNS:
            raise ValueError(f"design {design!r} is not among {', '.join(DESIGNS)}")
        self.design = design
        self.trained_kinds = trained_kinds
        self.queue_length = queue_length
        self.reference_length = reference_length
        self.quality_threshold = quality_threshold
        self.prior = prior
        self.memory_sharpness = memory_sharpness
        self.text_dropout = text_dropout
        self.image_dropout = image_dropout
        self.hidden_dropout = hidden_dropout
        self.reference_files = reference_files
        self.adapted = adapted
        super().__init__(**kwargs)

    @property
    def encoded_sizes(self) -> dict[str, int]:
        """Size of each modality's features as they are encoded, pooled and reduced."""
        return {
            "text": self.text_feature_size,
            "image": self.image_reduction or self.image_feature_size,
        }

    @property
    def raw_sizes(self) -> dict[str, int]:
        """Size of each modality's raw features: what is encoded, then its statistics."""
        encoded = self.encoded_sizes
        return {
            "text": encoded["text"] + TEXT_STATISTICS,
            "image": encoded["image"] + IMAGE_STATISTICS,
        }

    @property
    def label_prior(self) -> tuple[float, ...]:
        """Share of each label that probabilities assume, in the order of the logits."""
        if self.prior is None:
            return (1 / len(self.labels),) * len(self.labels)
        return tuple(self.prior[label] for label in self.labels)

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names in the order of the logits."""
        assert self.id2label is not None
        return tuple(self.id2label[index] for index in sorted(self.id2label))


def _sub_config(given: PretrainedConfig | dict[str, Any] | None, default: str) -> PretrainedConfig:
    if given is None:
        return AutoConfig.for_model(default)
    if isinstance(given, PretrainedConfig):
        return given
    values = dict(given)
    return AutoConfig.for_model(values.pop("model_type"), **values)


AutoConfig.register("drf", DRFConfig)
