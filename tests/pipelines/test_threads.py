"""Running ahead of the consumer: in order, bounded, and stopped when nobody listens."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from pipelines.threads import look_ahead


def test_items_come_in_order_and_are_produced_on_another_thread() -> None:
    def items() -> Iterator[tuple[int, str]]:
        for number in range(100):
            yield number, threading.current_thread().name

    seen = list(look_ahead(items(), lambda _: 0.2))

    assert [number for number, _ in seen] == list(range(100))
    assert {name for _, name in seen} == {"look-ahead"}


def test_it_rests_while_what_waits_costs_one() -> None:
    produced: list[int] = []

    def items() -> Iterator[int]:
        for number in range(20):
            produced.append(number)
            yield number

    ahead = look_ahead(items(), lambda _: 0.5)
    assert next(ahead) == 0
    time.sleep(0.2)

    # One with the consumer, two that wait, one in the producer's hand.
    assert len(produced) == 4
    assert list(ahead) == list(range(1, 20))


def test_an_error_of_the_producer_comes_where_its_item_would_have() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise ValueError("broken")

    ahead = look_ahead(items(), lambda _: 0.5)

    assert [next(ahead), next(ahead)] == [1, 2]
    with pytest.raises(ValueError, match="broken"):
        next(ahead)


def test_a_consumer_that_stops_stops_the_producer() -> None:
    produced: list[int] = []

    def endless() -> Iterator[int]:
        number = 0
        while True:
            produced.append(number)
            yield number
            number += 1

    ahead = look_ahead(endless(), lambda _: 0.5)
    next(ahead)
    ahead.close()
    count = len(produced)
    time.sleep(0.1)

    assert len(produced) == count
