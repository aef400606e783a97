"""What chance does to shares and means: bands, tests, and a chart over nights.

Every function is pure. A night calls for attention where something happens that chance brings
about in fewer than one night in a hundred (ALARM_RATE), or where the chart over nights alarms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# Not scipy.stats, which takes longer to import than a night with nothing to do takes to end.
from scipy.special import gammaln, ndtri, stdtr

# Of nights in which nothing changed, the share that a family of tests calls all the same.
ALARM_RATE = 0.01

# The share of posts whose quality lies below .05 where they are like the reference.
EXPECTED_BELOW = 0.05

_NORMAL_95 = 1.959964

# Allowance and threshold of the chart, in standard deviations of a night. One modality's chart,
# up and down, alarms once in 950 nights by Siegmund's approximation; two once in 475.
_ALLOWANCE = 0.5
_THRESHOLD = 5.7
NIGHTS_PER_FALSE_ALARM = 475

# The chart takes its measure from the nights before; with fewer it says nothing.
_NIGHTS_TO_LEARN = 3


def reference_band(posts: int, reference: int) -> tuple[float, float]:
    """Between what limits chance keeps 95 % of the nights' shares of the lowest qualities.

    posts: that have the modality. reference: posts that qualities are ranked among; a sample,
    too, so that the band of the largest night is not narrower than the reference allows.
    """
    chance = 1 / max(posts, 1) + 1 / max(reference, 1)
    half = _NORMAL_95 * math.sqrt(EXPECTED_BELOW * (1 - EXPECTED_BELOW) * chance)
    return max(0.0, EXPECTED_BELOW - half), EXPECTED_BELOW + half


def reference_p(below: int, posts: int, reference: int) -> float:
    """How often chance takes the share below as far from what is expected, either way."""
    if not posts:
        return 1.0
    # By the arcsine of the root: so near to 0 a share's own distribution leans to one side.
    distance = 2 * (math.asin(math.sqrt(below / posts)) - math.asin(math.sqrt(EXPECTED_BELOW)))
    return _two_sided(distance / math.sqrt(1 / posts + 1 / max(reference, 1)))


def uniform_band(posts: int, reference: int) -> float:
    """How far chance lets the whole distribution stray from the diagonal in 95 % of nights.

    Half the width of the two-sample Kolmogorov-Smirnov band, which holds everywhere at once.
    """
    return 1.358 * math.sqrt(1 / max(posts, 1) + 1 / max(reference, 1))


def lower_p(excess: float, posts: int, reference: int) -> float:
    """How often chance lets qualities lie so far below those of the reference.

    excess: the most by which their cumulated distribution exceeds the diagonal (the one-sided
    two-sample Kolmogorov-Smirnov test, by its limit).
    """
    if not posts:
        return 1.0
    return math.exp(-2 * max(excess, 0.0) ** 2 / (1 / posts + 1 / max(reference, 1)))


def share_interval(count: float, posts: float) -> tuple[float, float]:
    """Wilson's 95 % interval of a share; (0, 1) of no posts."""
    if not posts:
        return 0.0, 1.0
    share, z2 = count / posts, _NORMAL_95**2
    centre = (share + z2 / (2 * posts)) / (1 + z2 / posts)
    half = (
        _NORMAL_95 * math.sqrt(share * (1 - share) / posts + z2 / (4 * posts**2)) / (1 + z2 / posts)
    )
    return max(0.0, centre - half), min(1.0, centre + half)


def shares_p(count: int, posts: int, other_count: int, other_posts: int) -> float:
    """How often chance makes two shares as different (Fisher's exact test, two-sided)."""
    if not posts or not other_posts or count + other_count in (0, posts + other_posts):
        return 1.0
    whole, have = posts + other_posts, count + other_count
    # Every count this night could have had, were the posts shuffled, and how likely each is.
    possible = np.arange(max(0, have - other_posts), min(have, posts) + 1)
    logs = (
        _log_choose(have, possible)
        + _log_choose(whole - have, posts - possible)
        - _log_choose(whole, np.array(posts))
    )
    as_rare = logs <= logs[count - possible[0]] + 1e-7
    return float(min(1.0, np.exp(logs[as_rare]).sum()))


def _log_choose(items: int, chosen: np.ndarray) -> np.ndarray:
    return gammaln(items + 1) - gammaln(chosen + 1) - gammaln(items - chosen + 1)


def _two_sided(z: float) -> float:
    return math.erfc(abs(z) / math.sqrt(2))


@dataclass(frozen=True)
class Moments:
    """Of numbers between 0 and 1: how many, their sum, and the sum of their squares."""

    count: int
    total: float
    squares: float

    @property
    def mean(self) -> float:
        """Their mean; 0 of none."""
        return self.total / self.count if self.count else 0.0

    @property
    def variance(self) -> float:
        """Their variance."""
        return max(0.0, self.squares / self.count - self.mean**2) if self.count else 0.0


def means_p(one: Moments, other: Moments) -> float:
    """How often chance makes two means as different (Welch's test, two-sided)."""
    if one.count < 2 or other.count < 2:
        return 1.0
    parts = [m.variance / (m.count - 1) for m in (one, other)]
    error = math.sqrt(sum(parts))
    if error == 0:
        return 1.0 if one.mean == other.mean else 0.0
    freedom = sum(parts) ** 2 / (
        parts[0] ** 2 / (one.count - 1) + parts[1] ** 2 / (other.count - 1)
    )
    return float(2 * stdtr(freedom, -abs(one.mean - other.mean) / error))


def expected_accuracy(confidence: Moments) -> tuple[float, float, float]:
    """Accuracy to expect of calibrated confidences, and its 95 % interval.

    Each label is right with its own confidence: a sum of coins of known bias.
    """
    if not confidence.count:
        return 0.0, 0.0, 1.0
    variance = max(0.0, confidence.total - confidence.squares)
    half = _NORMAL_95 * math.sqrt(variance) / confidence.count
    mean = confidence.mean
    return mean, max(0.0, mean - half), min(1.0, mean + half)


def drift_chart(shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A self-starting CUSUM over nights (Hawkins 1987), in both directions.

    shares (nights, ...): of each night, in order. Returns (sums, alarms), both (nights, ...):
    the larger of the two sums in units of the alarm threshold, and whether it alarms, after
    which it starts again from 0.

    Each night is measured against the mean and the spread of the nights before it, so that
    nothing need be known beforehand and nights that differ by nature widen the measure. Of
    nights drawn alike from a normal distribution, what is summed is standard normal.
    """
    values = 2 * np.arcsin(np.sqrt(np.clip(shares, 0.0, 1.0)))
    up = np.zeros(values.shape[1:])
    down = np.zeros(values.shape[1:])
    sums, alarms = np.zeros(values.shape), np.zeros(values.shape, bool)
    for night in range(_NIGHTS_TO_LEARN, len(values)):
        before = values[:night]
        spread = np.maximum(before.std(0, ddof=1), 1e-6)
        distance = math.sqrt(night / (night + 1)) * (values[night] - before.mean(0)) / spread
        z = ndtri(np.clip(stdtr(night - 1, distance), 1e-12, 1 - 1e-12))
        up = np.maximum(0.0, up + z - _ALLOWANCE)
        down = np.maximum(0.0, down - z - _ALLOWANCE)
        sums[night] = np.maximum(up, down) / _THRESHOLD
        alarms[night] = sums[night] >= 1.0
        up, down = np.where(alarms[night], 0.0, up), np.where(alarms[night], 0.0, down)
    return sums, alarms
