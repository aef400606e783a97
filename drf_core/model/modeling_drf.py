"""The DRF model: encoders, and what is done with their features (see `head`)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel

from drf_core.model.configuration_drf import DRFConfig
from drf_core.model.head import DRFOutput, FeatureModel


class DRFModel(FeatureModel, PreTrainedModel):
    """Robust multimodal sentiment model; see the module for its source."""

    config_class = DRFConfig
    base_model_prefix = "drf"
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
        # Registering the sub-configurations resets their attention implementation, and an
        # encoder without one applies its padding mask wrongly.
        for encoder, part in (
            (self.text_encoder, "text_config"),
            (self.image_encoder, "vision_config"),
        ):
            getattr(config, part)._attn_implementation = encoder.config._attn_implementation
            encoder.config = getattr(config, part)
        self.add_parts(config)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        # Every part initialises itself; encoders come from pre-training or their own config.
        return

    def encode_text(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Raw text features; (n, tokens) each -> (n, text size) float32."""
        output = self.text_encoder(input_ids=input_ids, attention_mask=attention_mask)
        hidden = output.last_hidden_state
        if self.config.text_pooling == "first":
            return hidden[:, 0].float()
        mask = attention_mask[..., None].to(hidden.dtype)
        return ((hidden * mask).sum(1) / mask.sum(1).clamp_min(1.0)).float()

    def encode_image(self, pixel_values: Tensor) -> Tensor:
        """Raw image features; (n, channels, height, width) -> (n, image size) float32."""
        hidden = self.image_encoder(pixel_values=pixel_values).last_hidden_state
        if hidden.ndim == 4:
            return hidden.float().mean((2, 3))
        return (
            hidden[:, 0].float() if self.config.image_pooling == "first" else hidden.float().mean(1)
        )

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        pixel_values: Tensor | None = None,
        text_present: Tensor | None = None,
        image_present: Tensor | None = None,
    ) -> DRFOutput:
        """Annotate a batch with any mixture of present and absent modalities.

        input_ids, attention_mask: (present texts, tokens); pixel_values: (present images,
        channels, height, width): absent modalities are not encoded. text_present,
        image_present: (batch,) bool; without them every post has what the inputs hold.
        Each post needs at least one. Raises ValueError for a post with none.
        """
        text = (
            None
            if input_ids is None or attention_mask is None or not len(input_ids)
            else self.encode_text(input_ids, attention_mask)
        )
        image = (
            None
            if pixel_values is None or not len(pixel_values)
            else self.encode_image(pixel_values)
        )
        present = self._present(text, image, text_present, image_present)
        return self.forward_features(text, image, present)

    def _present(
        self,
        text: Tensor | None,
        image: Tensor | None,
        text_present: Tensor | None,
        image_present: Tensor | None,
    ) -> Tensor:
        batch = max(len(x) for x in (text_present, image_present, text, image, ()) if x is not None)
        columns = []
        for given, features in ((text_present, text), (image_present, image)):
            if given is None:
                given = torch.full((batch,), features is not None)
            columns.append(given.bool().to(self.device))
        present = torch.stack(columns, -1)
        if not bool(present.any(-1).all()):
            raise ValueError("every post needs at least one modality")
        return present


AutoModel.register(DRFConfig, DRFModel)
