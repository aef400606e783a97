"""A model that torch runs: f32 on a CPU, bf16 encoders on a GPU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from transformers.utils.logging import disable_progress_bar

from drf_core.model.input_statistics import image_statistics
from drf_core.model.modeling_drf import DRFModel
from drf_core.model.processing_drf import DRFProcessor
from drf_core.model.weights import load_model
from drf_core.runtimes.choice import choose_device
from drf_core.runtimes.interface import Runtime, Said, Served, Traits, traits_of
from drf_core.runtimes.precision import autocast, cast_weights, encode_pixels, weights_dtype
from drf_core.runtimes.text_batches import text_batches

# Texts and tokens per forward: few enough that little padding is computed, enough to fill the
# processor.
_TEXTS_AT_ONCE = {"cpu": 16, "cuda": 256}
_TOKENS_AT_ONCE = {"cpu": 512, "cuda": 1 << 15}
# Images per forward: on a GPU few enough that the next ones are copied while these are encoded.
_IMAGES_AT_ONCE = {"cpu": 64, "cuda": 128}


def serve(folder: str, runtime: Runtime, threads: int, cache: str | None) -> Served:
    """The checkpoint in folder on torch; nothing of it is cached."""
    model, processor = load(folder, threads)
    ready = TorchModel(model.to(choose_device(runtime.device)), processor, for_serving=True)
    return Served(ready, processor, processor.preparation(folder, model.config.max_text_tokens))


def load(folder: str, threads: int) -> tuple[DRFModel, DRFProcessor]:
    """The model and processor of a checkpoint folder; sets torch's threads in this process."""
    torch.set_num_threads(threads)
    # One line per weight file and process is noise in a worker's log.
    disable_progress_bar()
    processor = DRFProcessor.from_pretrained(folder, local_files_only=True)
    return load_model(folder).eval(), processor


class TorchModel:
    """A model where it is, without gradient.

    for_serving: on a GPU the encoders' weights become bf16, which no training goes on with.
    """

    def __init__(
        self, model: DRFModel, processor: DRFProcessor, *, for_serving: bool = False
    ) -> None:
        self.model = model.eval()
        self._processor = processor
        self._device = model.device
        # Convolutions run faster on channels-last weights, on CPU and GPU alike.
        model.image_encoder.to(memory_format=torch.channels_last)
        gpu = self._device.type == "cuda"
        self.runtime = Runtime("torch", "bf16" if gpu else "f32", self._device.type)
        self.batch_size = 256 if gpu else 128
        if gpu and for_serving:
            cast_weights(model.text_encoder)
            cast_weights(model.image_encoder)

    @property
    def traits(self) -> Traits:
        """What is to be known of it."""
        return traits_of(self.model.config)

    @torch.no_grad()
    def encode_texts(self, token_ids: Sequence[list[int]]) -> np.ndarray:
        """Raw features of texts in their order; (texts, raw text size) float32."""
        pad = self._processor.tokenizer.pad_token_id or 0
        places, encoded = [], []
        at_once = (limit[self._device.type] for limit in (_TEXTS_AT_ONCE, _TOKENS_AT_ONCE))
        for rows, *batch in text_batches(token_ids, pad, *at_once):
            ids, mask = (torch.from_numpy(array).to(self._device) for array in batch)
            with autocast(self._device, weights_dtype(self.model.text_encoder)):
                encoded.append(self.model.raw_text(ids, mask).float())
            places.append(rows)
        features = np.empty((len(token_ids), self.model.config.raw_sizes["text"]), np.float32)
        features[np.concatenate(places)] = torch.cat(encoded).cpu().numpy()
        return features

    @torch.no_grad()
    def encode_images(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Raw features of images, each uint8 (3, h, w); (images, raw image size) float32."""
        gpu = self._device.type == "cuda"
        # Pinned, so that copies to a GPU do not wait for what it still computes.
        stacked = torch.empty((len(pixels), *pixels[0].shape), dtype=torch.uint8, pin_memory=gpu)
        encoded = []
        size = _IMAGES_AT_ONCE[self._device.type]
        for start in range(0, len(pixels), size):
            part = stacked[start : start + size]
            np.stack(pixels[start : start + size], out=part.numpy())
            part = part.to(self._device, non_blocking=True)
            features = encode_pixels(self.model, self._processor, part)
            encoded.append(torch.cat([features, image_statistics(part)], 1))
        return torch.cat(encoded).cpu().numpy()

    @torch.inference_mode()
    def conclude(
        self, text: np.ndarray | None, image: np.ndarray | None, present: np.ndarray
    ) -> Said:
        """Quality, recovery and fusion; see `ReadyModel`."""
        given = [
            None if one is None else torch.from_numpy(one).to(self._device)
            for one in (text, image, present)
        ]
        output = self.model.forward_features(*given)
        prior = np.array(self.model.config.label_prior, np.float32)
        logits, quality, evidence, damage, score = (
            found.float().cpu().numpy()
            for found in (
                output.logits,
                output.quality,
                output.evidence,
                output.damage,
                output.score,
            )
        )
        logits -= np.log(prior * len(prior))
        return Said(logits, quality, evidence, damage.astype(int), score)
