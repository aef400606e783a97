"""From image bytes to RGB pixels, or to the reason why there are none."""

from __future__ import annotations

import dataclasses
import functools
import io
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from drf_core.decoding import MORE_FORMATS
from drf_core.decoding.containers import (
    Container,
    covers_all_rows,
    open_container,
    orientation_of,
    without_sum,
)
from schemas.reasons import ModalityReason

# Our own limit is checked before any pixel is decoded. Not in a `catch_warnings`: images are
# decoded on threads, which share the filters.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# What posts have. Others start a program on a stranger's bytes (EPS), hold images of any size
# beyond every limit (ICNS), or take minutes for kilobytes (FITS).
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")

# What Pillow raises for broken files, seen by fuzzing its decoders: beside OSError (truncated,
# bad data) several plug-ins leak lower-level errors.
_BROKEN = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RuntimeError,
    struct.error,
    zlib.error,
)

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Rows are converted so many pixels at a time: the whole picture in its old and its new form, and
# what lies between, would be several times its size.
_PIXELS_AT_ONCE = 1 << 20
# JPEG's own scales are coarser than resizing: an encoder of 128 pixels gave qualities .02 off on
# average from images that were decoded at just its size, .003 from twice that.
_LEAST_DRAFT = 256

_END_OF_JPEG = b"\xff\xd9"
_FILLER = bytes(range(7, 247, 5)) * 8

# What no picture is full of, so that rows that a decoder never reached can be told.
_UNTOUCHED = {"RGB": (1, 254, 3), "RGBA": (1, 254, 3, 7), "CMYK": (1, 254, 3, 7), "LA": (253, 7)}


def decode_image(
    data: bytes | memoryview | None,
    *,
    max_pixels: int,
    max_bytes: int,
    target: int | None = None,
    more_formats: Sequence[str] = (),
    memory: int | None = None,
) -> tuple[Image.Image | None, ModalityReason | None]:
    """Decode to an upright RGB image, first frame, transparency on white.

    data: the encoded file. max_pixels, max_bytes: limits checked before any pixel is
    decoded. target: shortest side needed; JPEGs are decoded at the smallest of their built-in
    scales (1/2, 1/4, 1/8) that is at least as large, and 256. more_formats: of MORE_FORMATS.
    Returns (image, None), or (None, reason) with reason one of missing, too_large, truncated (rows
    are lacking), undecodable. Raises MemoryError where the process has not enough, or less than
    `memory` bytes may do: libraries call a lack of it by many names.
    """
    if data is None or len(data) == 0:
        return None, ModalityReason.MISSING
    if len(data) > max_bytes:
        return None, ModalityReason.TOO_LARGE
    container = open_container(data)
    if container.size is not None and container.size[0] * container.size[1] > max_pixels:
        return None, ModalityReason.TOO_LARGE
    if memory is not None and container.memory > memory:
        raise MemoryError
    try:
        try:
            image = _open(container, more_formats)
        except _BROKEN:
            # Of a format that nobody asked for, how it ends does not matter.
            if (container.cut and more_formats) or _ends_early(container):
                return None, ModalityReason.TRUNCATED
            raise
        if image.size[0] * image.size[1] > max_pixels:
            return None, ModalityReason.TOO_LARGE
        if memory is not None and container.size is None:
            container = dataclasses.replace(container, size=image.size)
            if container.memory > memory:
                raise MemoryError
        orientation = container.orientation if container.format else _orientation(image)
        rgb = _rgb(_loaded(image, container, target, more_formats), container.bits)
        turn = _TURNS.get(orientation)
        return rgb if turn is None else rgb.transpose(turn), None
    except Image.DecompressionBombError:
        return None, ModalityReason.TOO_LARGE
    except _TruncatedError:
        return None, ModalityReason.TRUNCATED
    except _BROKEN:
        return None, ModalityReason.UNDECODABLE


class _TruncatedError(Exception):
    """Rows of the picture are lacking."""


def _open(container: Container, more_formats: Sequence[str]) -> Image.Image:
    formats = [*FORMATS, *(form for name in more_formats for form in MORE_FORMATS[name])]
    if "HEIF" in formats:
        _register_heic()
    return Image.open(io.BytesIO(container.data), formats=formats)


@functools.cache
def _register_heic() -> None:
    from pillow_heif import register_heif_opener

    register_heif_opener(thumbnails=False)


def _loaded(
    image: Image.Image, container: Container, target: int | None, more_formats: Sequence[str]
) -> Image.Image:
    """The image with its pixels decoded, where no row of them is lacking."""
    _draft(image, target)
    try:
        image.load()
        return image
    except _BROKEN:
        pass

    def open_again(data: bytes | memoryview) -> Image.Image:
        again = _open(dataclasses.replace(container, data=data), more_formats)
        _draft(again, target)
        return again

    again = open_again(without_sum(container.data) if image.format == "PNG" else container.data)
    missing = _missing_rows(again)
    if missing == 0:
        again.tile = []  # type: ignore[attr-defined]
        return again
    if image.format == "JPEG" and (whole := _without_end_mark(open_again, container)) is not None:
        return whole
    if missing < again.size[1] or container.cut or _ends_early(container):
        raise _TruncatedError
    raise OSError("no row could be decoded")


def _draft(image: Image.Image, target: int | None) -> None:
    if target is not None and image.format == "JPEG":
        side = max(target, _LEAST_DRAFT)
        image.draft("RGB", (side, side))


def _missing_rows(image: Image.Image) -> int:
    """Decode what can be, and count the rows at an end that the decoder never reached.

    That is the lower end, but for BMP, which mostly begins there.
    """
    prepare = image.load_prepare  # type: ignore[attr-defined]
    untouched = _UNTOUCHED.get(image.mode, 253 if image.mode in ("L", "P") else 1)
    boxes = [tile[1] for tile in image.tile]  # type: ignore[attr-defined]
    left, top, right, bottom = boxes[0] if len(boxes) == 1 else (0, 0, *image.size)

    def prepare_and_mark() -> None:
        prepare()
        image.im.paste(untouched, (left, top, right, bottom))

    image.load_prepare = prepare_and_mark  # type: ignore[attr-defined]
    # What comes in passes or tiles leaves holes in rows that were reached.
    with_holes = bool(image.info.get("interlace")) or image.format in ("JPEG2000", "TIFF")
    try:
        image.load()
        return 0
    except _BROKEN:
        image.tile = []  # type: ignore[attr-defined]
    if not hasattr(image, "_im") or image._im is None:
        return image.size[1]
    marked = np.asarray(image)[top:bottom, left:right] == np.asarray(untouched)
    rows = marked.reshape(len(marked), -1).all(axis=1)
    reached = np.flatnonzero(~rows)
    if len(reached) == 0:
        return image.size[1]
    if with_holes:
        return int(marked.reshape(*marked.shape[:2], -1).all(-1).any(1).sum())
    return int(reached[0]) + len(rows) - 1 - int(reached[-1])


def _without_end_mark(
    open_again: Callable[[bytes], Image.Image], container: Container
) -> Image.Image | None:
    """A JPEG that lacks nothing but its end; None where rows are lacking, too.

    What is lacking the decoder makes up from whatever follows: so what follows must not matter.
    """
    # The first half of the mark may be there.
    whole = bytes(container.data).rstrip(b"\xff")
    pictures = [open_again(whole + filler + _END_OF_JPEG) for filler in (b"", _FILLER)]
    if pictures[0].info.get("progressive"):
        if not covers_all_rows(container.data):
            return None
        pictures[0].load()
        return pictures[0]
    for picture in pictures:
        picture.load()
    return pictures[0] if pictures[0].tobytes() == pictures[1].tobytes() else None


def _ends_early(container: Container) -> bool:
    """Whether a file is shorter than its header says, or ends before its first pixel."""
    data = memoryview(container.data)
    if container.format == "WEBP":
        return int.from_bytes(data[4:8], "little") + 8 > len(data)
    if container.format == "PNG":
        return not bytes(data[-12:]).endswith(b"IEND\xaeB`\x82")
    is_whole = bytes(data[-64:]).rstrip(b"\0\r\n").endswith(_END_OF_JPEG)
    return container.format == "JPEG" and container.size is not None and not is_whole


def _orientation(image: Image.Image) -> int:
    exif = image.info.get("exif")
    if isinstance(exif, bytes):
        return orientation_of(exif)
    tag = getattr(image, "tag_v2", {}).get(0x0112, 1)
    return tag if isinstance(tag, int) else 1


def _rgb(image: Image.Image, bits: int) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    _scale_transparency(image, bits)
    width, height = image.size
    step = max(1, _PIXELS_AT_ONCE // max(1, width))
    if image.mode.startswith("I;16"):
        convert = _sixteen_bits
    elif image.mode in ("I", "F"):
        convert = functools.partial(_by_range, bounds=_bounds(image, step))
    elif image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        convert = _on_white
    else:
        return image.convert("RGB")
    if step >= height:
        return convert(image)
    whole = Image.new("RGB", image.size)
    for top in range(0, height, step):
        strip = image.crop((0, top, width, min(top + step, height)))
        strip.info = image.info
        whole.paste(convert(strip), (0, top))
    return whole


def _scale_transparency(image: Image.Image, bits: int) -> None:
    """Bring a PNG's transparent grey or colour to the scale that Pillow brings the pixels to."""
    value: Any = image.info.get("transparency")
    if image.format != "PNG" or image.mode == "P" or value is None or isinstance(value, bytes):
        return
    if bits < 8 and image.mode == "L":
        image.info["transparency"] = min(255, value * 255 // (2**bits - 1))
    if bits == 16 and image.mode == "RGB":
        image.info["transparency"] = tuple(level >> 8 for level in value)


def _on_white(image: Image.Image) -> Image.Image:
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
    return Image.alpha_composite(white, layer).convert("RGB")


def _sixteen_bits(image: Image.Image) -> Image.Image:
    levels = np.asarray(image).astype(np.uint16)
    grey = np.rint(levels / 257).astype(np.uint8)
    if (transparent := image.info.get("transparency")) is not None:
        grey[levels == transparent] = 255
    return Image.fromarray(grey).convert("RGB")


def _bounds(image: Image.Image, step: int) -> tuple[float, float]:
    """Lowest and highest level, of numbers alone."""
    lowest, highest = np.inf, -np.inf
    for top in range(0, image.size[1], step):
        strip = image.crop((0, top, image.size[0], min(top + step, image.size[1])))
        levels = np.asarray(strip, np.float64)
        levels = levels[np.isfinite(levels)]
        if levels.size:
            lowest, highest = min(lowest, levels.min()), max(highest, levels.max())
    return lowest, highest


def _by_range(image: Image.Image, bounds: tuple[float, float]) -> Image.Image:
    lowest, highest = bounds
    levels = np.nan_to_num(np.asarray(image, np.float64), nan=0.0, posinf=highest, neginf=lowest)
    if not highest > lowest:
        return Image.new("RGB", image.size)
    scaled = np.clip((levels - lowest) * (255.0 / (highest - lowest)), 0, 255)
    return Image.fromarray(scaled.astype(np.uint8)).convert("RGB")
