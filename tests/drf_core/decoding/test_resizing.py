"""Resizing and cropping in Pillow gives what the encoders' own image processors give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.convnext.image_processing_pil_convnext import ConvNextImageProcessorPil
from transformers.models.mobilenet_v2.image_processing_pil_mobilenet_v2 import (
    MobileNetV2ImageProcessorPil,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from drf_core.decoding.resizing import resizing_of, whole_pixels

SIZES = [(600, 450), (450, 600), (300, 300), (333, 500), (64, 48), (17, 120), (1, 1)]


def picture(size: tuple[int, int], seed: int = 0) -> Image.Image:
    """Smooth shapes with noise on them: both kinds of content that real images have."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    smooth = np.asarray(small.resize(size, Image.Resampling.BICUBIC), int)
    noisy = smooth + rng.integers(-20, 21, smooth.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "processor",
    [
        MobileNetV2ImageProcessorPil(),
        MobileNetV2ImageProcessorPil(crop_size={"height": 223, "width": 225}),
        BitImageProcessorPil(),
        BitImageProcessorPil(size={"shortest_edge": 144}, crop_size={"height": 128, "width": 128}),
        CLIPImageProcessorPil(),
    ],
    ids=["mobilenet", "odd-crop", "bit", "128-pixels", "clip"],
)
def test_a_cut_out_middle_is_the_same_but_for_single_levels(
    processor: Any, size: tuple[int, int]
) -> None:
    resize = resizing_of(processor)
    assert resize is not None
    image = picture(size)
    expected, got = whole_pixels(processor, image), resize(image)
    assert got.shape == expected.shape and got.dtype == np.uint8 and got.flags.c_contiguous
    difference = np.abs(expected.astype(int) - got)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.003


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_few_pixels_are_covered_too_though_more_of_them_are_a_level_off(
    size: tuple[int, int],
) -> None:
    processor = MobileNetV2ImageProcessorPil(
        size={"shortest_edge": 73}, crop_size={"height": 64, "width": 64}
    )
    resize = resizing_of(processor)
    assert resize is not None
    image = picture(size)
    difference = np.abs(whole_pixels(processor, image).astype(int) - resize(image))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(
    "processor",
    [
        ViTImageProcessorPil(),
        ViTImageProcessorPil(size={"height": 160, "width": 224}, resample=3),
    ],
    ids=["vit", "oblong"],
)
def test_an_image_resized_whole_is_the_same_pixel_for_pixel(
    processor: Any, size: tuple[int, int]
) -> None:
    resize = resizing_of(processor)
    assert resize is not None
    image = picture(size)
    assert np.array_equal(resize(image), whole_pixels(processor, image))


class OtherFilter(MobileNetV2ImageProcessorPil):
    """Does not what its settings say: it resizes by another filter."""

    def resize(self, image: Any, size: Any, resample: Any = None, **kwargs: Any) -> Any:
        return super().resize(image=image, size=size, resample=Image.Resampling.BICUBIC, **kwargs)


class OtherCrop(MobileNetV2ImageProcessorPil):
    """Does not what its settings say: it cuts a pixel beside the middle."""

    def center_crop(self, image: Any, size: Any, **kwargs: Any) -> Any:
        return super().center_crop(np.roll(image, 1, axis=-1), size, **kwargs)


@pytest.mark.parametrize(
    "processor",
    [
        OtherFilter(),
        OtherCrop(),
        # It resizes to another side than its settings say, and crops by itself.
        ConvNextImageProcessorPil(size={"shortest_edge": 224}),
        # It pads: the crop is larger than what it is cut from.
        BitImageProcessorPil(size={"shortest_edge": 100}),
        BitImageProcessorPil(do_resize=False),
        BitImageProcessorPil(do_center_crop=False),
    ],
    ids=["other-filter", "other-crop", "convnext", "padded", "not-resized", "not-cropped"],
)
def test_other_kinds_are_left_to_their_processor(processor: Any) -> None:
    assert resizing_of(processor) is None
