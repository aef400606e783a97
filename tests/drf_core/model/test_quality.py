"""Distributions and quality: a rank among held-out posts, low for damaged ones."""

from __future__ import annotations

import pytest
import torch
from sklearn.covariance import ledoit_wolf

from drf_core.model.quality import (
    DENSITY,
    RATIO,
    STATISTICS,
    TRUST_QUALITIES,
    QualityEstimator,
    ReferenceRank,
    ShrunkGaussian,
    trust,
)


def correlated(rows: int, size: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    mixing = torch.randn(size, size, generator=torch.Generator().manual_seed(0)) / size**0.5
    return scale * torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) @ mixing


def test_the_density_is_that_of_the_gaussian() -> None:
    features = correlated(5000, 4, seed=1)
    ours = ShrunkGaussian(4)
    ours.fit(features)
    covariance = torch.from_numpy(ledoit_wolf(features.double().numpy())[0]).float()
    exact = torch.distributions.MultivariateNormal(features.mean(0), covariance)
    points = correlated(10, 4, seed=2)
    difference = ours.log_density(points) * 4 - exact.log_prob(points)
    assert torch.allclose(difference, difference[0].expand(10), atol=1e-3)


def test_shrinkage_makes_a_covariance_of_few_posts_usable() -> None:
    few = ShrunkGaussian(50)
    few.fit(correlated(20, 50, seed=3))
    assert few.whiten(correlated(20, 50, seed=4)).square().mean() < 100


def test_one_feature_is_no_distribution() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        ShrunkGaussian(3).fit(torch.zeros(1, 3))


STATISTIC = 4
# Of those, any is strange on both sides.
SIGNS = (0.0,) * STATISTIC


def ordinary(rows: int, seed: int) -> torch.Tensor:
    """Twelve features and four statistics."""
    return correlated(rows, 16, seed)


def damaged(rows: int, seed: int) -> torch.Tensor:
    return correlated(rows, 16, seed, scale=0.5) + 0.3


@pytest.fixture(scope="module")
def estimator() -> QualityEstimator:
    estimator = QualityEstimator(16, SIGNS, reference_length=500, kinds=2)
    estimator.fit(ordinary(1000, 1), damaged(1000, 2))
    estimator.set_reference(ordinary(4000, 3))
    return estimator


def test_quality_of_undisrupted_posts_is_uniform(estimator: QualityEstimator) -> None:
    quality = estimator(ordinary(4000, 4))
    for share in (0.05, 0.25, 0.5, 0.75):
        assert abs((quality < share).float().mean() - share) < 0.05
    assert 0.03 < (quality < 0.05).float().mean() < 0.07
    assert abs(quality.mean() - 0.5) < 0.05


def test_quality_of_disrupted_posts_is_low(estimator: QualityEstimator) -> None:
    quality = estimator(damaged(1000, 5))
    assert quality.median() < 0.1
    assert (quality < 0.25).float().mean() > 0.8


def test_quality_is_low_of_what_is_far_from_everything(estimator: QualityEstimator) -> None:
    far = 4 * ordinary(200, 6)
    # Where the disrupted posts are narrower, the ratio alone calls the far ones ordinary.
    assert estimator.ranks(far)[:, RATIO].mean() > 0.5
    assert estimator.ranks(far)[:, DENSITY].median() < 0.01
    assert estimator(far).median() < 0.05


def test_quality_is_low_of_what_no_encoder_but_its_statistics_tells(
    estimator: QualityEstimator,
) -> None:
    odd = ordinary(500, 7)
    before = estimator(odd).median()
    odd[:, -STATISTIC:] *= 4
    assert estimator.ranks(odd)[:, STATISTICS].median() < 0.05
    assert estimator(odd).median() < 0.1 < before


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_statistic_can_have_a_side_that_is_never_strange(sign: float) -> None:
    estimator = QualityEstimator(16, (sign,) * STATISTIC, reference_length=500)
    estimator.fit(ordinary(1000, 1), damaged(1000, 2))
    estimator.set_reference(ordinary(4000, 3))
    usual, plainer, stranger = ordinary(500, 7), ordinary(500, 7), ordinary(500, 7)
    plainer[:, -STATISTIC:] += 5 * sign
    stranger[:, -STATISTIC:] -= 5 * sign
    rank, more, less = (estimator.ranks(f)[:, STATISTICS] for f in (usual, plainer, stranger))
    assert more.min() > 0.3
    assert less.median() < 0.01 < rank.median()


def means(lengths: torch.Tensor, seed: int, shift: float = 0.0) -> torch.Tensor:
    """Features and statistics that are means over so many tokens, and one divided by how many."""
    noise = correlated(len(lengths), 16, seed)
    return torch.cat([shift + 3 * noise / lengths[:, None].sqrt(), 1 / lengths[:, None]], 1)


def drawn_lengths(posts: int, seed: int, least: int = 10, most: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(least, most + 1, (posts,), generator=generator).float()


def short_and_long(reference_from: int) -> QualityEstimator:
    """Texts of ten to forty tokens, cropped ones of two to nine; one in fifty came as short."""
    estimator = QualityEstimator(17, SIGNS, reference_length=500, knows_length=True)
    estimator.fit(means(drawn_lengths(2000, 1), 1), means(drawn_lengths(2000, 2, 2, 9), 2))
    lengths = drawn_lengths(4000, 3)
    lengths[:80] = drawn_lengths(80, 3, reference_from, 9)
    estimator.set_reference(means(lengths, 3))
    return estimator


def test_a_text_is_not_strange_for_being_as_short_as_few_are() -> None:
    estimator = short_and_long(reference_from=2)
    short = estimator(means(drawn_lengths(2000, 4, 2, 9), 4))
    assert 0.02 < (short < 0.05).float().mean() < 0.1
    assert abs(short.mean() - 0.5) < 0.1
    # Of one's length one can still be strange.
    odd = estimator(means(drawn_lengths(2000, 5, 2, 9), 5, shift=3.0))
    assert (odd < 0.05).float().mean() > 0.9


def test_of_a_few_texts_that_lengths_tell_apart_noise_is_not_strange() -> None:
    estimator = QualityEstimator(17, SIGNS, reference_length=64, knows_length=True)
    estimator.fit(means(drawn_lengths(2000, 1), 1), means(drawn_lengths(2000, 2, 2, 9), 2))
    texts = means(torch.tensor([10.0, 20.0, 40.0]), 3).repeat(40, 1)
    estimator.set_reference(texts)
    noise = 1e-3 * torch.randn(texts.shape, generator=torch.Generator().manual_seed(0))
    assert (estimator(texts + noise) < 0.05).float().mean() < 0.2


def test_a_text_shorter_than_all_that_is_known_is_strange() -> None:
    estimator = short_and_long(reference_from=9)
    assert estimator(means(torch.full((500,), 2.0), 6)).median() < 0.02


def test_each_way_to_be_strange_lowers_the_quality() -> None:
    estimator = QualityEstimator(16, SIGNS, reference_length=100)
    ranks = torch.full((5, 3), 0.6)
    ranks[[1, 2, 3], [0, 1, 2]] = 0.01
    ranks[4] = 0.9
    estimator.ranks = lambda features: ranks  # type: ignore[method-assign]
    estimator.reference.set(torch.linspace(-10, 0, 100))
    usual, *strange, best = estimator(torch.zeros(5, 16)).tolist()
    assert max(strange) < usual < best
    assert strange[0] == pytest.approx(strange[1]) == pytest.approx(strange[2])


def test_a_score_orders_what_quality_has_no_rank_left_for(estimator: QualityEstimator) -> None:
    stranger = torch.cat([4 * ordinary(1, 6), 8 * ordinary(1, 6), 16 * ordinary(1, 6)])
    assert len(set(estimator(stranger).tolist())) == 1
    far, farther, farthest = estimator.unbounded_score(stranger).tolist()
    assert far > farther > farthest
    usual = ordinary(300, 7)
    quality, score = estimator(usual), estimator.unbounded_score(usual)
    inside = quality > 0.02
    by_quality, by_score = quality[inside].argsort(stable=True), score[inside].argsort(stable=True)
    assert torch.equal(quality[inside][by_quality], quality[inside][by_score])


def test_quality_is_never_zero() -> None:
    rank = ReferenceRank(99)
    rank.set(torch.randn(99))
    quality = rank(torch.tensor([-1e9, 1e9]))
    assert quality[0] == pytest.approx(0.01) and quality[1] == 1.0


def test_a_reference_knows_of_how_many_posts_it_is() -> None:
    rank = ReferenceRank(10)
    assert int(rank.posts) == 0
    rank.set(torch.randn(137))
    assert int(rank.posts) == 137 and len(rank.scores) == 10


@pytest.mark.parametrize("rows", [1, 3])
def test_a_reference_of_few_posts_still_ranks(rows: int) -> None:
    rank = ReferenceRank(9)
    rank.set(torch.linspace(0, 1, rows))
    assert rank(torch.tensor([-1.0, 2.0])).tolist() == pytest.approx([0.1, 1.0])


def test_damage_is_named_by_the_kind_that_it_resembles(estimator: QualityEstimator) -> None:
    shift = torch.zeros(16)
    shift[0] = 3.0
    first, second = (damaged(400, 8 + n) + (1 - 2 * n) * shift for n in range(2))
    estimator.fit_kinds([first[:300], second[:300]])
    assert (estimator.nearest_kind(first[300:]) == 0).float().mean() > 0.8
    assert (estimator.nearest_kind(second[300:]) == 1).float().mean() > 0.8
    # Nine in ten of the damaged ones have a name.
    both = torch.cat([first[:300], second[:300]])
    assert (estimator.nearest_kind(both) >= 0).float().mean() == pytest.approx(0.9, abs=0.03)


def test_what_is_far_from_every_kind_has_no_name(estimator: QualityEstimator) -> None:
    estimator.fit_kinds([damaged(300, 8), damaged(300, 9) + 1])
    assert (estimator.nearest_kind(20 * damaged(50, 10)) == -1).all()


def test_without_kinds_nothing_has_a_name() -> None:
    plain = QualityEstimator(16, SIGNS, reference_length=10)
    assert plain.nearest_kind(ordinary(3, 0)).tolist() == [-1, -1, -1]


def test_trust_is_what_was_learned_and_moves_little_with_a_small_change_of_quality() -> None:
    levels = torch.tensor([0.1, 0.2, 0.2, 0.4])
    learned = torch.tensor([0.0, *TRUST_QUALITIES, 1.0])
    assert trust(learned, levels).tolist() == pytest.approx([0.1, 0.1, 0.2, 0.2, 0.4, 0.4])
    halfway = (TRUST_QUALITIES[2] * TRUST_QUALITIES[3]) ** 0.5
    assert trust(torch.tensor([halfway]), levels).tolist() == pytest.approx([0.3])
    # A rank among a thousand more or less.
    quality = torch.arange(1, 1000) / 1000
    assert float(trust(quality, torch.tensor([0.0, 0.5, 0.5, 1.0])).diff().abs().max()) < 0.06
