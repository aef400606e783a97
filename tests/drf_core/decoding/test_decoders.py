"""Whatever a text or an image does to the process that decodes it costs itself alone."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from drf_core.decoding import children
from drf_core.decoding.children import ChildrenStoppedError
from drf_core.decoding.decoders import Decoders, Item
from drf_core.decoding.preparation import Preparation

_SECONDS = 2.0


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    made = "tests.support.hostile_preparer:make"
    started = Decoders(Preparation("nowhere", made, 96, "", "", None, None), seconds=_SECONDS)
    yield started
    started.stop()


def texts(*values: str) -> list[Item]:
    return [Item("text", value.encode()) for value in values]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("panic", "undecodable"),
        ("crash", "undecodable"),
        ("exit", "undecodable"),
        ("for ever", "timed_out"),
        ("memory", "too_large"),
    ],
)
def test_what_ends_a_process_costs_itself_alone(decoders: Decoders, text: str, reason: str) -> None:
    found = decoders.decode(texts("before", text, "after", "and after"))
    assert [one.reason for one in found] == [None, reason, None, None]
    sound = [one.array for one in found if one.array is not None]
    assert [array.tolist() for array in sound] == [[6], [5], [9]]


def test_no_item_takes_much_longer_than_its_limit(decoders: Decoders) -> None:
    decoders.decode(texts("warm"))
    start = time.monotonic()
    decoders.decode(texts("for ever"))
    # A machine that has other things to do grants the three times of it.
    assert time.monotonic() - start < 4 * _SECONDS + 2


def test_the_machine_is_to_blame_for_what_little_memory_cannot_explain(
    decoders: Decoders,
) -> None:
    with pytest.raises(MemoryError, match="the machine has too little"):
        decoders.decode(texts("killed"))


def test_what_needs_more_memory_than_there_is_beside_others_has_it_alone(
    decoders: Decoders,
) -> None:
    [one] = decoders.decode(texts("more than beside others"))
    assert one.reason is None


def test_a_process_that_decodes_knows_no_secret(
    decoders: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "told to nobody")
    decoders.stop()
    [one] = decoders.decode(texts("environment"))
    assert one.array is not None and not one.array.any()


def test_nothing_that_a_library_writes_reaches_the_terminal(
    decoders: Decoders, capfd: pytest.CaptureFixture[str]
) -> None:
    decoders.decode(texts("noise"))
    assert capfd.readouterr() == ("", "")


def test_decoding_stops_at_once(decoders: Decoders) -> None:
    decoders.decode(texts("warm"))
    raised: list[BaseException] = []

    def decode() -> None:
        try:
            decoders.decode(texts("asleep"))
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=decode)
    thread.start()
    time.sleep(0.5)
    start = time.monotonic()
    decoders.stop()
    thread.join(10)
    assert time.monotonic() - start < 1.5
    assert isinstance(raised[0], ChildrenStoppedError)


def test_pixels_come_as_they_were_made(decoders: Decoders) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (10, 20, 30)).save(buffer, "PNG")
    [one, other] = decoders.decode([Item("image", buffer.getvalue()), Item("image", b"no image")])
    assert one.array is not None and one.array.dtype == np.uint8
    assert one.array[:, 0, 0].tolist() == [10, 20, 30]
    assert other.reason == "undecodable"


def test_a_default_timeout_of_sockets_that_a_library_set_ends_no_child() -> None:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(60)
    try:
        made = "tests.support.hostile_preparer:make"
        started = Decoders(Preparation("nowhere", made, 96, "", "", None, None), seconds=_SECONDS)
        assert [one.reason for one in started.decode(texts("one", "two"))] == [None, None]
        started.stop()
    finally:
        socket.setdefaulttimeout(before)


def test_a_process_that_does_not_start_says_nothing_of_what_it_was_to_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As where a file of the working folder has the name of a module.
    monkeypatch.setattr(children, "_MODULES", "no_such_module")
    started = Decoders(Preparation("nowhere", "", 96, "", "", None, None), seconds=_SECONDS)
    with pytest.raises(OSError, match="did not start"):
        started.decode(texts("a sunny day"))
    started.stop()
