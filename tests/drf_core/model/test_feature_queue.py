"""Feature queues keep the last features, pairs together."""

from __future__ import annotations

import torch

from drf_core.model.feature_queue import FeatureQueue


def numbered(start: int, count: int) -> dict[str, torch.Tensor]:
    rows = torch.arange(start, start + count, dtype=torch.float32)[:, None]
    return {"text": rows.repeat(1, 2), "image": 100 + rows.repeat(1, 3)}


def test_it_fills_then_drops_the_oldest() -> None:
    queue = FeatureQueue(4, {"text": 2, "image": 3})
    queue.push(numbered(0, 3), torch.arange(0, 3))
    assert queue.filled == 3 and queue.rows("text")[:, 0].tolist() == [0, 1, 2]
    queue.push(numbered(3, 3), torch.arange(3, 6))
    assert queue.filled == 4
    assert sorted(queue.rows("text")[:, 0].tolist()) == [2, 3, 4, 5]


def test_text_and_image_of_a_post_stay_paired() -> None:
    queue = FeatureQueue(5, {"text": 2, "image": 3})
    for start in range(0, 23, 3):
        queue.push(numbered(start, 3), torch.arange(start, start + 3))
    assert torch.equal(queue.rows("text")[:, 0] + 100, queue.rows("image")[:, 0])
    assert torch.equal(queue.rows("text")[:, 0].long(), queue.post)


def test_more_rows_than_it_holds_leave_the_last() -> None:
    queue = FeatureQueue(3, {"text": 2, "image": 3})
    queue.push(numbered(0, 8), torch.arange(8))
    assert sorted(queue.post.tolist()) == [5, 6, 7]


def test_features_are_detached() -> None:
    queue = FeatureQueue(2, {"text": 2})
    queue.push({"text": torch.ones(1, 2, requires_grad=True)}, torch.zeros(1, dtype=torch.long))
    assert not queue.rows("text").requires_grad
