"""Why a modality of a post could not be used as it came, or the whole post could not."""

from __future__ import annotations

from enum import Enum


class _Reason(str, Enum):
    """Is the string that stands in the rows."""

    __str__ = str.__str__


class ModalityReason(_Reason):
    """Of text_reason and image_reason, which are null where the modality was usable.

    BLANK: no character that any font shows. TOO_LARGE: pixels, bytes or memory over the limit.
    TRUNCATED: rows of the picture are lacking. TIMED_OUT: decoding took too long.
    NOT_ALLOWED: a URI outside the allowed prefixes.
    """

    MISSING = "missing"
    BLANK = "blank"
    UNDECODABLE = "undecodable"
    TRUNCATED = "truncated"
    TOO_LARGE = "too_large"
    TIMED_OUT = "timed_out"
    NOT_ALLOWED = "not_allowed"
    FETCH_FAILED = "fetch_failed"


class DeadLetterReason(_Reason):
    """Of a post that could not be annotated."""

    NO_USABLE_MODALITY = "no_usable_modality"
    NO_POST_ID = "no_post_id"
    MODEL_FAILED = "model_failed"
