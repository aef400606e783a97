"""Texts and images prepared in child processes; what one of them cannot bear costs itself alone."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from drf_core.decoding.children import Child, ChildLostError, Children, Limits
from drf_core.decoding.link import Buffer
from drf_core.decoding.preparation import Preparation, as_message
from schemas.reasons import ModalityReason

# What decodes beside others has this much memory; what needs more has more, one at a time. So
# the whole is bounded, and what is too large does not depend on how many decode at once.
_BESIDE_OTHERS = 256 << 20
_ALONE = 1 << 30
# Below this a child that the system killed is not what filled its memory.
_SUSPICIOUS_BYTES = 256 << 20

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
    """Token ids, int32 (tokens,), or pixels, uint8 (3, height, width); or why there are none."""

    array: np.ndarray | None
    reason: ModalityReason | None


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

    def decode(self, items: Sequence[Item]) -> list[Decoded]:
        """Prepare items, in their order.

        Raises MemoryError where the machine, not an item, lacks memory, and
        ChildrenStoppedError.
        """
        done: list[Decoded] = []
        short_of_memory: list[int] = []
        limits = Limits(self._seconds, _BESIDE_OTHERS)
        while len(done) < len(items):
            suspect = None
            with self._children.borrow() as child:
                try:
                    for answer in self._answers(child, items[len(done) :], limits):
                        if answer is None:
                            short_of_memory.append(len(done))
                        done.append(answer or _TOO_LARGE)
                except ChildLostError as error:
                    suspect = error
            if suspect is not None:
                done.append(self._alone(items[len(done)], suspect))
        for place in short_of_memory:
            done[place] = self._alone(items[place], ChildLostError("memory"))
        return done

    def _answers(
        self, child: Child, items: Sequence[Item], limits: Limits
    ) -> Iterator[Decoded | None]:
        """Yield the items' answers, None for one that ran out of memory."""
        if child.setup is not self._preparation:
            child.ask(_SET_UP, as_message(self._preparation), limits=_SET_UP_LIMITS)
            child.answer()
            child.setup = self._preparation
        message = {"kinds": [item.kind for item in items], "alone": limits.memory == _ALONE}
        child.ask(_PREPARE, message, [item.data for item in items], limits)
        for item in items:
            answer, buffers = child.answer()
            yield None if answer.get("memory") else _decoded(item.kind, answer, buffers)

    def _alone(self, item: Item, suspect: ChildLostError) -> Decoded:
        seconds = self._seconds
        if suspect.why == "timed_out":
            if suspect.used >= seconds / 4:
                return Decoded(None, ModalityReason.TIMED_OUT)
            # The machine had something else to do for most of that time.
            seconds *= 3
        with self._one_alone, self._children.borrow() as child:
            try:
                (answer,) = self._answers(child, [item], Limits(seconds, _ALONE))
            except ChildLostError as error:
                return Decoded(None, _reason(error))
        return answer or _TOO_LARGE


def _decoded(kind: str, answer: dict[str, Any], buffers: Sequence[Any]) -> Decoded:
    if not buffers:
        return Decoded(None, ModalityReason(answer["reason"]))
    array = np.frombuffer(buffers[0], np.int32 if kind == "text" else np.uint8)
    return Decoded(array.reshape(answer["shape"]), None)


def _reason(error: ChildLostError) -> ModalityReason:
    """Why an item that ended its child although it was alone cannot be used."""
    if error.why == "timed_out":
        return ModalityReason.TIMED_OUT
    if error.why == "memory":
        return ModalityReason.TOO_LARGE
    if error.signal == signal.SIGKILL:
        if error.peak < _SUSPICIOUS_BYTES:
            raise MemoryError(
                "the system ended a process that decodes, which held little memory itself: "
                "the machine has too little, run again with fewer workers or more memory"
            )
        return ModalityReason.TOO_LARGE
    return ModalityReason.UNDECODABLE
