"""Resampled figures, intervals and corrected p-values, against known answers."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom, bootstrap, spearmanr

from drf_core.evaluation.bootstrap import bootstrap_p, differences, holm, interval, reflected
from drf_core.evaluation.figures import METRICS, Figures, figures
from drf_core.evaluation.metrics import (
    auroc,
    classification,
    resampled_auroc,
    resampled_classification,
    resampled_rank_correlation,
    resampled_share,
    resamples_of,
)
from drf_core.evaluation.predictions import Outcome

POSTS = 120


def predictions(seed: int = 0, skill: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Labels (posts,) and probabilities (posts, 3) that know something of them."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, POSTS, p=[0.3, 0.1, 0.6])
    scores = rng.normal(size=(POSTS, 3)) + skill * np.eye(3)[labels]
    exponents = np.exp(scores)
    return labels, exponents / exponents.sum(1, keepdims=True)


def drawn_rows(weights: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(weights.size), weights.astype(int))


def blocks(posts: int = POSTS, resamples: int = 20, seed: int = 0) -> np.ndarray:
    return np.concatenate(list(resamples_of(posts, resamples, seed)))


def test_a_resample_draws_as_many_posts_as_there_are_with_replacement() -> None:
    weights = blocks(resamples=500)
    assert weights.shape == (500, POSTS) and (weights.sum(1) == POSTS).all()
    # Each count is binomial: a post is left out with (1 - 1/n)^n, drawn once in expectation.
    left_out = (weights == 0).mean()
    assert left_out == pytest.approx(binom.pmf(0, POSTS, 1 / POSTS), abs=0.01)
    assert weights.var(0).mean() == pytest.approx(1 - 1 / POSTS, abs=0.05)
    assert np.array_equal(weights, blocks(resamples=500))
    assert not np.array_equal(weights, blocks(resamples=500, seed=1))


def test_blocks_bound_memory_and_hold_all_resamples() -> None:
    found = list(resamples_of(3_000_000, 3, 0))
    assert [len(block) for block in found] == [1, 1, 1]
    assert not np.array_equal(found[0], found[1])


def test_figures_under_weights_are_those_of_the_posts_drawn() -> None:
    labels, probabilities = predictions()
    weights = blocks()
    found = resampled_classification(weights, labels, probabilities)
    # Of AUROC it is only about so: it follows the weights linearly.
    about = {name: 0.02 if name == "macro_auroc" else 1e-9 for name in found}
    for row, drawn in enumerate(map(drawn_rows, weights)):
        for name, value in classification(labels[drawn], probabilities[drawn]).items():
            assert found[name][row] == pytest.approx(value, abs=about[name]), name


def test_auroc_of_resamples_varies_as_that_of_the_posts_drawn() -> None:
    labels, probabilities = predictions()
    weights = blocks(resamples=300)
    found = resampled_classification(weights, labels, probabilities)["macro_auroc"]
    drawn = [drawn_rows(row) for row in weights]
    exact = [classification(labels[rows], probabilities[rows])["macro_auroc"] for rows in drawn]
    assert np.corrcoef(found, exact)[0, 1] > 0.98
    assert found.std() == pytest.approx(np.std(exact), rel=0.1)


def test_macro_f1_under_weights_leaves_out_a_label_that_was_not_drawn() -> None:
    labels, probabilities = np.array([0, 1, 2]), np.eye(3)
    found = resampled_classification(np.array([[2.0, 1.0, 0.0]]), labels, probabilities)
    assert found["macro_f1"] == pytest.approx([1.0])


def test_auroc_under_weights_is_that_of_the_posts_drawn() -> None:
    rng = np.random.default_rng(0)
    # Rounded, so that there are ties.
    higher, lower = rng.normal(1, 1, POSTS).round(1), rng.normal(0, 1, 50).round(1)
    rows = np.arange(POSTS), rng.permutation(POSTS)[:50]
    weights = blocks()
    found = resampled_auroc(weights, higher, lower, rows)
    for row in range(len(weights)):
        repeated = (
            np.repeat(higher, weights[row, rows[0]].astype(int)),
            np.repeat(lower, weights[row, rows[1]].astype(int)),
        )
        assert found[row] == pytest.approx(auroc(*repeated))


def test_rank_correlation_under_weights_is_that_of_the_posts_drawn() -> None:
    rng = np.random.default_rng(0)
    first = rng.normal(size=POSTS).round(1)
    second = (first + rng.normal(size=POSTS)).round(1)
    weights = blocks()
    found = resampled_rank_correlation(weights, first, second, np.arange(POSTS))
    for row, drawn in enumerate(map(drawn_rows, weights)):
        assert found[row] == pytest.approx(spearmanr(first[drawn], second[drawn]).statistic)


def test_a_share_under_weights_is_that_among_the_posts_drawn() -> None:
    weights = np.array([[2.0, 1.0, 0.0, 1.0]])
    chosen, among = np.array([True, False, True, True]), np.array([True, True, True, False])
    assert resampled_share(weights, chosen, among) == pytest.approx([2 / 3])


def test_a_figure_of_posts_that_were_not_drawn_is_not_a_number() -> None:
    none, score = np.zeros((1, 2)), np.array([1.0, 2.0])
    rows = np.arange(2), np.arange(2)
    assert np.isnan(resampled_auroc(none, score, score, rows)).all()
    assert np.isnan(resampled_rank_correlation(none, score, score, rows[0])).all()
    assert np.isnan(resampled_share(none, score > 1, score > 0)).all()


def test_the_interval_of_accuracy_is_that_of_scipys_bootstrap() -> None:
    labels, probabilities = predictions()
    right = (probabilities.argmax(1) == labels).astype(float)
    replicates = resampled_classification(blocks(resamples=4000), labels, probabilities)
    found = interval(right.mean(), replicates["accuracy"])
    expected = bootstrap(
        (right,), np.mean, n_resamples=4000, method="percentile", rng=np.random.default_rng(5)
    ).confidence_interval
    assert found.value == right.mean()
    assert found.low == pytest.approx(expected.low, abs=0.012)
    assert found.high == pytest.approx(expected.high, abs=0.012)


def test_the_interval_of_a_calibration_error_holds_the_figure_itself() -> None:
    labels, probabilities = predictions()
    replicates = resampled_classification(blocks(resamples=1000), labels, probabilities)
    error = classification(labels, probabilities)["calibration_error"]
    inflated = replicates["calibration_error"]
    # Resampling adds noise to every bin, and noise adds to the error.
    assert inflated.mean() > error + 0.01
    assert reflected(error, inflated).mean() < error - 0.01
    found = interval(error, reflected(error, inflated))
    assert 0 <= found.low <= error <= found.high
    place = METRICS.index("calibration_error")
    column = figures([outcome(0)], labels, 0.05, resamples=500).replicates[:, 0, place]
    assert column.mean() < classification(labels, outcome(0).probabilities)["calibration_error"]


def test_p_is_twice_the_share_on_the_other_side_of_zero() -> None:
    replicates = np.concatenate([np.full(19, -1.0), np.full(980, 2.0)])
    assert bootstrap_p(replicates) == pytest.approx(2 * 20 / 1000)
    assert bootstrap_p(-replicates) == bootstrap_p(replicates)
    assert bootstrap_p(np.ones(1999)) == pytest.approx(0.001)
    assert bootstrap_p(np.zeros(100)) == 1.0


def test_p_of_a_mean_difference_is_about_that_of_a_normal_test() -> None:
    rng = np.random.default_rng(3)
    sample = rng.normal(0.22, 1.0, 100)
    weights = blocks(posts=100, resamples=20_000)
    z = sample.mean() / (sample.std() / 10)
    from scipy.stats import norm

    assert bootstrap_p(weights @ sample / 100) == pytest.approx(2 * norm.sf(z), abs=0.01)


def test_holms_correction_on_a_worked_example() -> None:
    # Sorted .01 .02 .03 .04 times 4 3 2 1: .04 .06 .06 (not below the one before) .06.
    assert holm([0.03, 0.01, 0.04, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]


def test_holms_family_leaves_out_what_was_not_tested() -> None:
    corrected = holm([0.02, float("nan"), 0.04])
    assert corrected[0] == pytest.approx(0.04) and np.isnan(corrected[1])
    assert corrected[2] == pytest.approx(0.04)


def test_pairing_finds_a_small_difference_that_two_intervals_hide() -> None:
    labels, probabilities = predictions()
    better = probabilities.copy()
    wrong = np.flatnonzero(probabilities.argmax(1) != labels)[:8]
    better[wrong] = np.eye(3)[labels[wrong]]
    weights = blocks(resamples=2000)
    one, other = (
        resampled_classification(weights, labels, p)["accuracy"] for p in (better, probabilities)
    )
    values = [np.array([(p.argmax(1) == labels).mean()]) for p in (better, probabilities)]
    [found] = differences(values[0], one[:, None], values[1], other[:, None])
    assert found.value == pytest.approx(8 / POSTS)
    assert found.low > 0 and found.p < 0.01 and found.p_holm == found.p
    alone = [interval(float(v[0]), r) for v, r in zip(values, (one, other), strict=True)]
    assert alone[0].low < alone[1].high


def test_a_model_does_not_differ_from_itself() -> None:
    labels, probabilities = predictions()
    replicates = resampled_classification(blocks(), labels, probabilities)["accuracy"][:, None]
    [found] = differences(np.array([0.5]), replicates, np.array([0.5]), replicates)
    assert (found.value, found.low, found.high, found.p_holm) == (0.0, 0.0, 0.0, 1.0)


def test_under_no_difference_p_is_below_five_percent_in_about_five_percent() -> None:
    rng = np.random.default_rng(11)
    weights = blocks(posts=200, resamples=500)
    found = []
    for _ in range(400):
        # Two models that are right on different posts, equally often in truth.
        difference = (rng.random(200) < 0.7).astype(float) - (rng.random(200) < 0.7)
        found.append(bootstrap_p(weights @ difference / 200))
    assert 0.02 < np.mean(np.array(found) < 0.05) < 0.09


def outcome(seed: int, damaged: float = 0.0, gone: bool = False) -> Outcome:
    rng = np.random.default_rng(seed)
    _, probabilities = predictions(seed)
    quality = rng.uniform(0.06, 1.0, (POSTS, 2))
    present, hit = np.ones((POSTS, 2), bool), np.zeros((POSTS, 2), bool)
    error = np.full((POSTS, 2), np.nan)
    if damaged:
        hit[:, 0] = True
        quality[:, 0] *= damaged
    if gone:
        present[:, 1] = False
        # Where recovery is good, its quality is high: the correlation to find is 1.
        error[:, 1] = 2.0 - quality[:, 1]
    return Outcome(probabilities, quality, present, hit, error)


def test_a_cell_has_the_figures_that_it_can_have() -> None:
    labels, _ = predictions()
    made = [outcome(0), outcome(0, damaged=0.01), outcome(0, gone=True)]
    found = figures(made, labels, 0.05, resamples=50)
    clean, damaged, gone = (dict(zip(METRICS, row, strict=True)) for row in found.values)
    assert clean["accuracy"] == gone["accuracy"] > 0.5
    assert np.isnan(clean["text_quality_auroc"]) and np.isnan(clean["image_recovery_correlation"])
    assert damaged["text_quality_auroc"] == 1.0 and np.isnan(damaged["image_quality_auroc"])
    assert (clean["text_low_quality"], damaged["text_low_quality"]) == (0.0, 1.0)
    assert gone["image_recovery_correlation"] == pytest.approx(1.0)
    assert np.isnan(gone["image_low_quality"])
    assert found.replicates.shape == (50, 3, len(METRICS))
    assert np.array_equal(np.isnan(found.values), np.isnan(found.replicates[0]))


def test_every_model_is_resampled_alike() -> None:
    labels, _ = predictions()
    one, other = (figures([outcome(0)], labels, 0.05, resamples=30, seed=3) for _ in range(2))
    assert np.array_equal(one.replicates, other.replicates, equal_nan=True)


def test_a_mean_over_cells_leaves_out_cells_without_the_figure() -> None:
    values = np.array([[0.5, np.nan], [0.7, 0.9]])
    found = Figures(values, np.repeat(values[None], 4, 0)).means_over([[0, 1], [0]])
    assert found.values[0] == pytest.approx([0.6, 0.9])
    assert found.values[1][0] == 0.5 and np.isnan(found.values[1][1])
    assert found.replicates.shape == (4, 2, 2)
    assert np.array_equal(found.replicates[0], found.values, equal_nan=True)
