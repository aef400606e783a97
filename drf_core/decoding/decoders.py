"""Texts and images prepared in child processes; what one of them cannot bear costs itself alone."""

from __future__ import annotations

import dataclasses
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from drf_core.decoding.child_messages import Buffer
from drf_core.decoding.children import (
    Child,
    ChildLostError,
    Children,
    ChildrenStoppedError,
    Limits,
)
from drf_core.decoding.containers import open_container
from drf_core.decoding.preparation import ImageLimits, Preparation, as_message
from schemas.reasons import ModalityReason

# What decodes beside others has this much memory; what needs more has more, one at a time. So
# the whole is bounded, and what is too large does not depend on how many decode at once.
_BESIDE_OTHERS = 256 << 20
_ALONE = 1 << 30
# What decodes in less is not what filled the machine's memory when the system killed a child.
_SUSPICIOUS_BYTES = 128 << 20

_IMAGES = ImageLimits()

_SET_UP = "drf_core.decoding.preparation:set_up"
_PREPARE = "drf_core.decoding.preparation:prepare"
_SET_UP_LIMITS = Limits(seconds=120.0, memory=4 << 30)


@dataclass(frozen=True)
class Item:
    """One text (UTF-8) or image file. kind: text or image."""

    kind: str
    data: Buffer


@dataclass(frozen=True)
class Decoded:
    """Token ids, int32 (tokens,), or pixels, uint8 (3, height, width); or why there are none.

    share_read: of a text, the share that its token ids hold.
    """

    array: np.ndarray | None
    reason: ModalityReason | None
    share_read: float | None = None


_TOO_LARGE = Decoded(None, ModalityReason.TOO_LARGE)


class Decoders:
    """Prepares items in children; safe to use from many threads, each of which takes a child.

    seconds: that one item may take. An item that ends its child or overruns is tried once more,
    alone and with more memory; if it does so again, its reason is undecodable, too_large or
    timed_out.
    """

    def __init__(self, preparation: Preparation, seconds: float = 10.0) -> None:
        self._preparation = preparation
        self._seconds = seconds
        self._children = Children()
        self._one_alone = threading.Lock()

    def start(self, count: int) -> None:
        """Start so many children already."""
        self._children.start(count)

    def stop(self) -> None:
        """End all children; what is being decoded ends with ChildrenStoppedError."""
        self._children.stop()

    def decode(self, items: Sequence[Item], images: ImageLimits = _IMAGES) -> list[Decoded]:
        """Prepare items, in their order. images: which of them are decoded at all.

        Raises MemoryError where the machine, not an item, lacks memory, and
        ChildrenStoppedError, which names the item in work.
        """
        done: list[Decoded] = []
        short_of_memory: list[int] = []
        limits = Limits(self._seconds, _BESIDE_OTHERS)
        began, place = time.monotonic(), 0
        try:
            while len(done) < len(items):
                suspect = None
                with self._children.borrow() as child:
                    try:
                        for answer in self._answers(child, items[len(done) :], images, limits):
                            if answer is None:
                                short_of_memory.append(len(done))
                            done.append(answer or _TOO_LARGE)
                            began, place = time.monotonic(), len(done)
                    except ChildLostError as error:
                        suspect = error
                if suspect is not None:
                    done.append(self._alone(items[len(done)], images, suspect))
                    began, place = time.monotonic(), len(done)
            for place in short_of_memory:
                began = time.monotonic()
                done[place] = self._alone(items[place], images, ChildLostError("memory"))
        except ChildrenStoppedError as error:
            raise ChildrenStoppedError(items[place].kind, time.monotonic() - began) from error
        return done

    def _answers(
        self, child: Child, items: Sequence[Item], images: ImageLimits, limits: Limits
    ) -> Iterator[Decoded | None]:
        """Yield the items' answers, None for one that ran out of memory."""
        if child.setup is not self._preparation:
            child.ask(_SET_UP, as_message(self._preparation), limits=_SET_UP_LIMITS)
            child.answer()
            child.setup = self._preparation
        message = {
            "kinds": [item.kind for item in items],
            "images": dataclasses.asdict(images),
            "alone": limits.memory == _ALONE,
        }
        child.ask(_PREPARE, message, [item.data for item in items], limits)
        for item in items:
            answer, buffers = child.answer()
            yield None if answer.get("memory") else _decoded(item.kind, answer, buffers)

    def _alone(self, item: Item, images: ImageLimits, suspect: ChildLostError) -> Decoded:
        if suspect.why == "timed_out" and not self._starved(suspect):
            return Decoded(None, ModalityReason.TIMED_OUT)
        # What killed a child may have done so by what it did for others before.
        fresh = suspect.why == "died"
        with self._one_alone:
            for seconds in (self._seconds, 3 * self._seconds):
                if suspect.why == "timed_out" and seconds == self._seconds:
                    continue
                try:
                    with self._children.borrow(fresh) as child:
                        limits = Limits(seconds, _ALONE)
                        (answer,) = self._answers(child, [item], images, limits)
                    return answer or _TOO_LARGE
                except ChildLostError as error:
                    suspect = error
                    if suspect.why != "timed_out" or not self._starved(suspect):
                        break
        return Decoded(None, _reason(item, suspect))

    def _starved(self, suspect: ChildLostError) -> bool:
        """Whether the machine had something else to do for most of the time that was given."""
        return suspect.used < self._seconds / 4


def _decoded(kind: str, answer: dict[str, Any], buffers: Sequence[Any]) -> Decoded:
    if not buffers:
        return Decoded(None, ModalityReason(answer["reason"]))
    array = np.frombuffer(buffers[0], np.int32 if kind == "text" else np.uint8)
    return Decoded(array.reshape(answer["shape"]), None, answer.get("read"))


def _reason(item: Item, error: ChildLostError) -> ModalityReason:
    """Why an item that ended its child although it was alone cannot be used."""
    if error.why == "timed_out":
        return ModalityReason.TIMED_OUT
    if error.why == "memory":
        return ModalityReason.TOO_LARGE
    if error.signal == signal.SIGKILL:
        size = open_container(memoryview(item.data)) if item.kind == "image" else None
        if size is None or (size.size is not None and size.memory < _SUSPICIOUS_BYTES):
            raise MemoryError(
                "the system ended a process that decodes a small text or image: the machine "
                "has too little memory, run again with fewer workers or more of it"
            )
        return ModalityReason.TOO_LARGE
    return ModalityReason.UNDECODABLE
