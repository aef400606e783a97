"""Decoding: what opens is used upright and in RGB; what does not has a reason."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from drf_core.decoding.images import decode_image

LIMITS = {"max_pixels": 1_000_000, "max_bytes": 1_000_000}


def gradient(width: int = 64, height: int = 48) -> Image.Image:
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    pixels = np.stack([across, down, across], -1).astype(np.uint8)
    return Image.fromarray(pixels)


def encoded(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header claims width x height pixels, in a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 1000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("data"),
    [
        encoded(gradient(), "JPEG", quality=95),
        encoded(gradient(), "PNG"),
        encoded(gradient(), "WEBP", lossless=True),
        encoded(gradient().convert("CMYK"), "JPEG", quality=95),
        encoded(gradient().convert("RGBA"), "PNG"),
    ],
    ids=["jpeg", "png", "webp", "cmyk", "rgba"],
)
def test_odd_formats_decode_to_the_same_picture(data: bytes) -> None:
    image, reason = decode_image(data, **LIMITS)
    assert reason is None and image is not None
    assert image.mode == "RGB" and image.size == (64, 48)
    assert np.abs(np.asarray(image, int) - np.asarray(gradient(), int)).mean() < 8


def test_palette_grey_and_two_level_images_decode() -> None:
    for image in (gradient().convert("P"), gradient().convert("L"), gradient().convert("1")):
        decoded, reason = decode_image(encoded(image, "PNG"), **LIMITS)
        assert reason is None and decoded is not None and decoded.mode == "RGB"


def test_sixteen_bit_grey_keeps_its_shades() -> None:
    deep = Image.fromarray((np.linspace(0, 65535, 64 * 48).reshape(48, 64)).astype(np.uint16))
    image, reason = decode_image(encoded(deep, "PNG"), **LIMITS)
    assert reason is None and image is not None
    shades = np.asarray(image)[..., 0]
    assert shades.min() < 5 and shades.max() > 250 and 110 < shades.mean() < 145


def test_transparency_becomes_white() -> None:
    image, _ = decode_image(encoded(Image.new("RGBA", (4, 4), (0, 0, 0, 0)), "PNG"), **LIMITS)
    assert image is not None and image.getpixel((0, 0)) == (255, 255, 255)


def test_the_first_frame_of_an_animation_is_used() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    image, reason = decode_image(data, **LIMITS)
    assert reason is None and image is not None
    assert image.getpixel((0, 0))[0] > 200


def test_a_camera_held_sideways_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image, _ = decode_image(encoded(gradient(64, 48), "JPEG", exif=exif), **LIMITS)
    assert image is not None and image.size == (48, 64)


def test_a_single_pixel_is_an_image() -> None:
    image, reason = decode_image(encoded(Image.new("RGB", (1, 1)), "PNG"), **LIMITS)
    assert reason is None and image is not None


@pytest.mark.parametrize("data", [None, b""])
def test_no_bytes_are_a_missing_image(data: bytes | None) -> None:
    assert decode_image(data, **LIMITS) == (None, "missing")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_cut_file_is_truncated(form: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(noise), form)
    image, reason = decode_image(data[: len(data) // 2], **LIMITS)
    assert image is None
    assert reason in (("truncated", "undecodable") if form == "WEBP" else ("truncated",))


@pytest.mark.parametrize("data", [b"<html><body>", b"\x00\x01\x02", b"\xff\xd8\xff\xe0 no jpeg"])
def test_what_is_no_image_is_undecodable(data: bytes) -> None:
    image, reason = decode_image(data, **LIMITS)
    assert image is None and reason in ("undecodable", "truncated")


def test_html_is_undecodable() -> None:
    assert decode_image(b"<html><body>gone</body></html>", **LIMITS) == (None, "undecodable")


@pytest.mark.parametrize("side", [20_000, 60_000])
def test_a_bomb_is_too_large_and_never_decoded(side: int) -> None:
    import tracemalloc

    tracemalloc.start()
    try:
        assert decode_image(bomb(side, side), **LIMITS) == (None, "too_large")
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_a_large_file_is_too_large() -> None:
    data = encoded(gradient(), "PNG")
    assert decode_image(data, max_pixels=10**6, max_bytes=len(data) - 1) == (None, "too_large")
    assert decode_image(data, max_pixels=10**6, max_bytes=len(data))[1] is None


def test_broken_files_never_raise() -> None:
    rng = np.random.default_rng(0)
    files = [encoded(gradient(), f) for f in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")]
    for data in files:
        for _ in range(40):
            broken = bytearray(data)
            for position in rng.integers(0, len(broken), 8):
                broken[position] = rng.integers(256)
            image, reason = decode_image(bytes(broken), **LIMITS)
            assert (image is None) != (reason is None)


def test_a_jpeg_is_decoded_no_larger_than_needed() -> None:
    data = encoded(gradient(1200, 800), "JPEG")
    # Of 256 pixels at least: an encoder of fewer notices how the rest was left out.
    for target, size in ((100, (600, 400)), (256, (600, 400)), (401, (1200, 800))):
        image, _ = decode_image(data, target=target, **LIMITS)
        assert image is not None and image.size == size
