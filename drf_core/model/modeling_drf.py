"""The DRF model: encoders, and what is done with their features (see `head`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from drf_core.model.configuration_drf import DRFConfig
from drf_core.model.head import DRFOutput, FeatureModel
from drf_core.model.projection import pool_image, pool_text


class DRFModel(FeatureModel, PreTrainedModel):
    """Robust multimodal sentiment model; see the module for its source."""

    config_class = DRFConfig
    base_model_prefix = "drf"
    # Features are pooled here; a text encoder's own pooler would be read by nobody.
    _keys_to_ignore_on_load_unexpected = [r"^text_encoder\.pooler\."]  # noqa: RUF012
    supports_gradient_checkpointing = False
    config: DRFConfig

    def __init__(
        self,
        config: DRFConfig,
        text_encoder: PreTrainedModel | None = None,
        image_encoder: PreTrainedModel | None = None,
    ) -> None:
        super().__init__(config)
        self.text_encoder = text_encoder or AutoModel.from_config(config.text_config)
        self.image_encoder = image_encoder or AutoModel.from_config(config.vision_config)
        if isinstance(getattr(self.text_encoder, "pooler", None), nn.Module):
            self.text_encoder.pooler = None
        self.image_reduction: nn.Module = nn.Identity()
        if config.image_reduction:
            self.image_reduction = nn.Linear(
                config.image_feature_size, config.image_reduction, bias=False
            )
        # Registering the sub-configurations resets their attention implementation, and an
        # encoder without one applies its padding mask wrongly.
        for encoder, part in (
            (self.text_encoder, "text_config"),
            (self.image_encoder, "vision_config"),
        ):
            getattr(config, part)._attn_implementation = encoder.config._attn_implementation
            encoder.config = getattr(config, part)
        self.add_parts(config)
        # Encoders that were given are trained; transformers would begin anew what they were not
        # loaded with, such as the embeddings of one that was shrunk.
        for encoder in (text_encoder, image_encoder):
            for module in encoder.modules() if encoder is not None else ():
                module._is_hf_initialized = True
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Do nothing: parts initialise themselves, encoders come trained or by their config."""

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Encoded texts; (n, tokens) each -> (n, text size) float32."""
        output = self.text_encoder(input_ids=input_ids, attention_mask=attention_mask)
        return pool_text(output.last_hidden_state, attention_mask, self.config.text_pooling)

    def raw_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """What quality and fusion see of texts: encoded, then their tokens' statistics.

        (n, tokens) each -> (n, raw text size) float32.
        """
        encoded = self.encode_text(input_ids, attention_mask)
        return torch.cat([encoded, self.token_statistics(input_ids, attention_mask)], 1)

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """Encoded images; (n, channels, height, width) -> (n, image size) float32."""
        hidden = self.image_encoder(pixel_values=pixel_values).last_hidden_state
        return self.image_reduction(pool_image(hidden, self.config.image_pooling))

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        image_statistics: Tensor | None = None,
        text_present: Tensor | None = None,
        image_present: Tensor | None = None,
    ) -> DRFOutput:
        """Annotate a batch with any mixture of present and absent modalities.

        input_ids, attention_mask: (present texts, tokens); pixel_values: (present images,
        channels, height, width), image_statistics (present images, 10), as the processor makes
        them: absent modalities are not encoded. text_present,
        image_present: (batch,) bool; without them every post has what the inputs hold.
        Each post needs at least one. Raises ValueError for a post with none.
        """
        text = (
            None
            if input_ids is None or attention_mask is None or not len(input_ids)
            else self.raw_text(input_ids, attention_mask)
        )
        image = (
            None
            if pixel_values is None or image_statistics is None or not len(pixel_values)
            else torch.cat([self.encode_image(pixel_values), image_statistics], 1)
        )
        present = presence(text, image, text_present, image_present, self.device)
        return self.forward_features(text, image, present)


def presence(
    text: Tensor | None,
    image: Tensor | None,
    text_present: Tensor | None,
    image_present: Tensor | None,
    device: torch.device,
) -> Tensor:
    """Which modalities each post has, (batch, 2) bool.

    text, image: features of those present; text_present, image_present: (batch,) bool, None where
    every post has what there are features of. Raises ValueError for a post with neither.
    """
    batch = max(len(x) for x in (text_present, image_present, text, image, ()) if x is not None)
    columns = []
    for given, features in ((text_present, text), (image_present, image)):
        if given is None:
            given = torch.full((batch,), features is not None)
        columns.append(given.bool().to(device))
    present = torch.stack(columns, -1)
    if not bool(present.any(-1).all()):
        raise ValueError("every post needs at least one modality")
    return present


AutoModel.register(DRFConfig, DRFModel)
