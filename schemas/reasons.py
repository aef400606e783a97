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
    NOT_ALLOWED: a URI outside the allowed prefixes, or redirected there. GONE and the following:
    what an address gave in place of an image; 404 or 410, 401 or 403, 429 or 5xx, …, and
    FETCH_FAILED for anything else.
    """

    MISSING = "missing"
    BLANK = "blank"
    UNDECODABLE = "undecodable"
    TRUNCATED = "truncated"
    TOO_LARGE = "too_large"
    TIMED_OUT = "timed_out"
    NOT_ALLOWED = "not_allowed"
    GONE = "gone"
    REFUSED = "refused"
    BUSY = "busy"
    FETCH_TIMED_OUT = "fetch_timed_out"
    TLS_FAILED = "tls_failed"
    DNS_FAILED = "dns_failed"
    FETCH_FAILED = "fetch_failed"


# What asking again may mend; `--retry fetch_failed` stands for all of them.
FETCH_REASONS = (
    ModalityReason.GONE,
    ModalityReason.REFUSED,
    ModalityReason.BUSY,
    ModalityReason.FETCH_TIMED_OUT,
    ModalityReason.TLS_FAILED,
    ModalityReason.DNS_FAILED,
    ModalityReason.FETCH_FAILED,
)


class DeadLetterReason(_Reason):
    """Of a post that could not be annotated. BROKEN_RECORD: a line or block of its file is none."""

    BROKEN_RECORD = "broken_record"
    NO_USABLE_MODALITY = "no_usable_modality"
    NO_POST_ID = "no_post_id"
    MODEL_FAILED = "model_failed"
