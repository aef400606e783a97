"""From image bytes to RGB pixels, or to the reason why there are none."""

from __future__ import annotations

import io
import struct
import warnings
import zlib

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from schemas.reasons import ModalityReason

# Our own limit is checked before any pixel is decoded. Not in a `catch_warnings`: images are
# decoded on threads, which share the filters.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

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


def decode_image(
    data: bytes | memoryview | None, *, max_pixels: int, max_bytes: int, target: int | None = None
) -> tuple[Image.Image | None, ModalityReason | None]:
    """Decode to an upright RGB image, first frame, transparency on white.

    data: the encoded file. max_pixels, max_bytes: limits checked before any pixel is
    decoded. target: shortest side needed; JPEGs are decoded at the smallest of their built-in
    scales (1/2, 1/4, 1/8) that is at least as large. Returns (image, None), or (None,
    reason) with reason one of missing, too_large, truncated, undecodable.
    """
    if data is None or len(data) == 0:
        return None, ModalityReason.MISSING
    if len(data) > max_bytes:
        return None, ModalityReason.TOO_LARGE
    try:
        image = Image.open(io.BytesIO(data))
        if image.size[0] * image.size[1] > max_pixels:
            return None, ModalityReason.TOO_LARGE
        if target is not None and image.format == "JPEG":
            image.draft("RGB", (target, target))
        image.load()
        # Not a copy, which it makes of every image else.
        ImageOps.exif_transpose(image, in_place=True)
        return _rgb(image), None
    except Image.DecompressionBombError:
        return None, ModalityReason.TOO_LARGE
    except UnidentifiedImageError:
        return None, ModalityReason.UNDECODABLE
    except MemoryError:
        return None, ModalityReason.TOO_LARGE
    except _BROKEN as error:
        truncated = _is_truncation(error)
        return None, ModalityReason.TRUNCATED if truncated else ModalityReason.UNDECODABLE


def _is_truncation(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, EOFError) or "truncated" in text or "incomplete" in text


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        # Pillow clips 16-bit grey at 255 when converting; scale it instead.
        levels = np.asarray(image.convert("F"))
        scaled = levels * (255.0 / max(float(levels.max()), 255.0))
        return Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        layer = image.convert("RGBA")
        white = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layer).convert("RGB")
    return image.convert("RGB")
