from __future__ import annotations

import numpy as np
import pytest

from drf_core.evaluation.bootstrap import holm
from pipelines.annotate.report.significance import (
    NIGHTS_PER_FALSE_ALARM,
    Moments,
    drift_chart,
    expected_accuracy,
    means_p,
    reference_band,
    reference_p,
    share_interval,
    shares_p,
)


def test_the_band_counts_the_reference_as_a_sample() -> None:
    low, high = reference_band(10**6, 512)
    assert high - 0.05 == pytest.approx(0.0189, abs=1e-4)
    assert low == pytest.approx(0.05 - 0.0189, abs=1e-4)
    # A hundred times the posts do not narrow it, a hundred times the reference do.
    assert reference_band(10**8, 512)[1] == pytest.approx(high, abs=1e-4)
    assert reference_band(10**6, 51_200)[1] < 0.0525


def test_nights_like_the_reference_leave_the_band_once_in_twenty() -> None:
    rng = np.random.default_rng(0)
    outside, alarms, nights = 0, 0, 4_000
    for _ in range(nights):
        threshold = np.quantile(rng.random(512), 0.05)
        below = int((rng.random(300) < threshold).sum())
        low, high = reference_band(300, 512)
        outside += not low <= below / 300 <= high
        alarms += reference_p(below, 300, 512) < 0.01
    assert 0.03 < outside / nights < 0.07
    assert alarms / nights < 0.02


@pytest.mark.parametrize(
    ("one", "other", "p"),
    # Known from textbooks: Fisher's tea, and a table of 10^6 against the normal approximation.
    [
        ((3, 4), (1, 4), 0.4857),
        ((8, 10), (1, 10), 0.0055),
        ((500_000, 10**6), (501_000, 10**6), 0.157),
    ],
)
def test_shares_are_compared_exactly(
    one: tuple[int, int], other: tuple[int, int], p: float
) -> None:
    assert shares_p(*one, *other) == pytest.approx(p, abs=1e-3)
    assert shares_p(*other, *one) == pytest.approx(p, abs=1e-3)


def test_shares_of_nothing_do_not_differ() -> None:
    assert shares_p(0, 0, 3, 4) == shares_p(0, 5, 0, 9) == shares_p(5, 5, 9, 9) == 1.0


def test_means_are_compared_by_their_own_spread() -> None:
    def moments(*values: float) -> Moments:
        return Moments(len(values), sum(values), sum(value**2 for value in values))

    # scipy.stats.ttest_ind([.5, .6, .7], [.7, .8, .8, .9], equal_var=False).pvalue
    assert means_p(moments(0.5, 0.6, 0.7), moments(0.7, 0.8, 0.8, 0.9)) == pytest.approx(
        0.0495, abs=1e-4
    )
    assert means_p(moments(0.5, 0.5), moments(0.5, 0.5)) == 1.0
    assert means_p(moments(0.5), moments(0.9, 0.8)) == 1.0


def test_holm_corrects_for_the_number_of_tests() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


def test_calibrated_confidence_says_what_accuracy_to_expect() -> None:
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(400):
        confidence = rng.uniform(0.4, 0.95, 200)
        value, low, high = expected_accuracy(
            Moments(200, confidence.sum(), np.square(confidence).sum())
        )
        assert value == pytest.approx(confidence.mean())
        inside += low <= (rng.random(200) < confidence).mean() <= high
    assert 0.92 < inside / 400 < 0.98


def test_an_interval_of_a_share_stays_within_its_bounds() -> None:
    low, high = share_interval(0, 20)
    assert low == 0.0 and 0.1 < high < 0.2
    assert share_interval(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize("posts", [275, 5_000])
def test_the_chart_alarms_falsely_as_often_as_it_says(posts: int) -> None:
    shares = np.random.default_rng(2).binomial(posts, 0.05, (300, 600)) / posts
    _, alarms = drift_chart(shares)
    # Two modalities have a chart each, and alarm falsely twice as often.
    nights = alarms[3:].size / alarms.sum() / 2
    assert 0.8 * NIGHTS_PER_FALSE_ALARM < nights < 1.25 * NIGHTS_PER_FALSE_ALARM


def test_the_chart_notices_within_nights_that_a_share_has_doubled() -> None:
    rng = np.random.default_rng(3)
    before = rng.binomial(275, 0.05, (30, 400)) / 275
    after = rng.binomial(275, 0.10, (30, 400)) / 275
    _, alarms = drift_chart(np.concatenate([before, after]))
    first = alarms[30:].argmax(0) + 1
    assert np.median(first) <= 4
    assert alarms[30:].any(0).mean() > 0.99


def test_the_chart_takes_nights_that_differ_by_nature_as_they_are() -> None:
    rng = np.random.default_rng(4)
    shares = rng.binomial(10**5, rng.uniform(0.03, 0.09, (200, 200))) / 10**5
    _, alarms = drift_chart(shares)
    assert alarms[3:].mean() < 1.5 / NIGHTS_PER_FALSE_ALARM


def test_few_nights_say_nothing() -> None:
    sums, alarms = drift_chart(np.array([0.05, 0.9, 0.0]))
    assert not sums.any() and not alarms.any()
    assert len(drift_chart(np.empty(0))[0]) == 0
