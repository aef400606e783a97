"""From one row to something the model can take, or to a dead letter that says why not."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from drf_core.annotator import Annotator, PreparedPost
from pipelines.annotate.job import RowOptions
from pipelines.annotate.work.feature_cache import FeatureCache
from pipelines.annotate.work.rows import DeadLetter
from schemas.image_columns import decode_text, decoded
from schemas.reasons import DeadLetterReason, ModalityReason


def plain_value(value: Any, kinds: tuple[type, ...]) -> Any:
    """A value as posts have it: None for what pandas and others write in its place (NaN, NA).

    kinds: it may have; a value of another becomes its text.
    """
    if value is None or isinstance(value, kinds):
        return value
    # Of all values, only those that stand for none are unlike themselves; NA does not say.
    with contextlib.suppress(Exception):
        if value != value:
            return None
    if type(value).__name__ in ("NAType", "NaTType"):
        return None
    with contextlib.suppress(Exception):
        return str(value)
    return None


def plain_image(value: Any) -> tuple[bytes | None, str | None]:
    """An image's bytes and address, of bytes, of a text, or of Hugging Face's {bytes, path}.

    What is none of them has bytes that do not decode.
    """
    if isinstance(value, Mapping):
        path = plain_value(value.get("path"), (str,))
        return plain_image(value.get("bytes"))[0], path
    if isinstance(value, bytes | bytearray | memoryview):
        return decoded(bytes(value)), None
    if isinstance(value, str):
        return decode_text(value)
    return (None, None) if plain_value(value, ()) is None else (b"no image", None)


def model_failed(error: str) -> DeadLetter:
    """A dead letter for a post on which the model raised `error`, an exception's type name."""
    return DeadLetter("model", DeadLetterReason.MODEL_FAILED, f"the model raised {error}")


def prepare_post(
    annotator: Annotator,
    options: RowOptions,
    text: str | None,
    image: bytes | memoryview | None,
    image_reason: str | None = None,
    cache: FeatureCache | None = None,
    aside: frozenset[str] = frozenset(),
) -> PreparedPost | DeadLetter:
    """Decode, resize and tokenise one post.

    image_reason: why its image could not be fetched. cache: answers for what is known. aside:
    text or image, or both, that is not looked at any more; it was in work when runs were ended.

    Safe to call from many threads. Damaged input is no error here: it ends in a reason of
    its modality, and in a dead letter only where neither modality is left. What the machine does
    (too little memory, an interrupt) is raised: no post is to blame.
    """
    prepare = annotator.prepare if cache is None else partial(cache.prepare, annotator)
    prepared = prepare(
        None if "text" in aside else text,
        image,
        image_reason=ModalityReason.TIMED_OUT if "image" in aside else image_reason,
        max_image_pixels=options.max_image_pixels,
        max_image_bytes=options.max_image_bytes,
        image_formats=options.image_formats,
    )
    if "text" in aside:
        prepared = replace(prepared, text_reason=ModalityReason.TIMED_OUT)
    if prepared.usable:
        return prepared
    lost = (str(prepared.text_reason), str(prepared.image_reason))
    return DeadLetter(
        "check" if {*lost} <= {ModalityReason.MISSING, ModalityReason.BLANK} else "decode",
        DeadLetterReason.NO_USABLE_MODALITY,
        f"text is {lost[0]}, image is {lost[1]}",
        lost,
    )
