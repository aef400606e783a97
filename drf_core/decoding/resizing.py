"""Resizing and cropping as an image processor does, in Pillow alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image


@dataclass(frozen=True)
class Resizing:
    """Resize to `size` (shortest side, or height and width), then cut the middle out.

    What `transformers`' image processors on their "pil" backend do for most encoders
    (`PilBackend.resize` and `.center_crop` in transformers.image_processing_backends). They
    resize the whole image and go through numpy several times per image; here only what stays
    is computed. That may shift a value by one level where a coordinate is rounded: in one or
    two of a thousand pixels, of few pixels (64 x 64) in up to seven.
    """

    size: int | tuple[int, int]
    crop: tuple[int, int] | None
    resample: int

    def __call__(self, image: Image.Image) -> np.ndarray:
        """RGB image -> uint8 (3, height, width)."""
        height, width = self._resized(image)
        if self.crop is None:
            image = image.resize((width, height), self.resample)
        else:
            rows, columns = self.crop
            top, left = (height - rows) // 2, (width - columns) // 2
            down, across = image.height / height, image.width / width
            box = (left * across, top * down, (left + columns) * across, (top + rows) * down)
            within = (*box[:2], min(box[2], image.width), min(box[3], image.height))
            image = image.resize((columns, rows), self.resample, box=within)
        return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))

    def _resized(self, image: Image.Image) -> tuple[int, int]:
        """Height and width of the whole image, resized."""
        if isinstance(self.size, tuple):
            return self.size
        if image.width <= image.height:
            return int(self.size * image.height / image.width), self.size
        return self.size, int(self.size * image.width / image.height)


def resizing_of(processor: Any) -> Resizing | None:
    """What an image processor does to an image's size; None for a kind that is not covered.

    Its settings say what it should do, a comparison with what it does on two small images says
    whether it is so.
    """
    found = _by_settings(processor)
    if found is None:
        return None
    noise = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    for array in (noise, noise.transpose(1, 0, 2)):
        image = Image.fromarray(np.ascontiguousarray(array))
        expected, got = whole_pixels(processor, image), found(image)
        if expected.shape != got.shape:
            return None
        # Rounding shows most in noise: at some sizes one value of thousands is two levels off.
        if (np.abs(expected.astype(int) - got) > 1).mean() > 0.001:
            return None
    return found


def whole_pixels(processor: Any, image: Image.Image) -> np.ndarray:
    """Pixels as the image processor itself makes them; uint8 (3, height, width)."""
    prepared = processor(image, do_rescale=False, do_normalize=False, return_tensors="np")
    return np.clip(np.rint(prepared["pixel_values"][0]), 0, 255).astype(np.uint8)


def _by_settings(processor: Any) -> Resizing | None:
    size = {name: side for name, side in dict(processor.size or {}).items() if side}
    if not processor.do_resize:
        return None
    if set(size) == {"shortest_edge"}:
        to: int | tuple[int, int] = size["shortest_edge"]
        smallest = (to, to)
    elif set(size) == {"height", "width"}:
        to = smallest = (size["height"], size["width"])
    else:
        return None
    crop = None
    if getattr(processor, "do_center_crop", False):
        crop = (processor.crop_size["height"], processor.crop_size["width"])
        # It pads what is smaller than the crop.
        if crop[0] > smallest[0] or crop[1] > smallest[1]:
            return None
    elif not isinstance(to, tuple):
        # Every image its own size: nothing to batch, and nothing to cover.
        return None
    return Resizing(to, crop, int(processor.resample))


def bounded(image: Image.Image, target: int | None) -> Image.Image:
    """Cut the middle out of an image more than 8 times as long as wide.

    Extreme panoramas would be resized to millions of pixels before the crop.
    """
    short, limit = min(image.size), 8
    if target is None or max(image.size) <= limit * short:
        return image
    width, height = (min(side, limit * short) for side in image.size)
    left, top = (image.size[0] - width) // 2, (image.size[1] - height) // 2
    return image.crop((left, top, left + width, top + height))
