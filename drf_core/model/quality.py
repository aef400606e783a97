"""Quality of a modality: where a post stands among held-out posts of the training corpus."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class ShrunkGaussian(nn.Module):
    """Gaussian fitted to a feature queue, covariance shrunk as Ledoit and Wolf (2004).

    The paper approximates a modality's distribution from its queue; Gaussian form and
    shrinkage are our own reading.

    Buffers: mean (size,); whitener (size, size), with |whitener (x - mean)|^2 the squared
    Mahalanobis distance; log_determinant () of the covariance.
    """

    mean: Tensor
    whitener: Tensor
    log_determinant: Tensor

    def __init__(self, size: int, covariance: str = "full") -> None:
        super().__init__()
        self.covariance = covariance
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("whitener", torch.eye(size))
        self.register_buffer("log_determinant", torch.zeros(()))

    @torch.no_grad()
    def fit(self, features: Tensor) -> None:
        """Fit to features (n, size), n >= 2; raises ValueError for fewer."""
        if features.shape[0] < 2:
            raise ValueError(f"a distribution needs at least 2 features, got {features.shape[0]}")
        features = features.double()
        mean = features.mean(0)
        # A second to import, which who only serves need not pay.
        from sklearn.covariance import ledoit_wolf

        shrunk, _ = ledoit_wolf((features - mean).cpu().numpy(), assume_centered=True)
        covariance = torch.from_numpy(shrunk).to(features.device)
        if self.covariance == "diagonal":
            covariance = covariance.diagonal().diag()
        # A dimension that never varies (a dead unit) would leave the covariance singular.
        variance = covariance.diagonal()
        covariance = covariance + (1e-6 * float(variance.mean()) + 1e-12) * torch.eye(
            len(variance), dtype=covariance.dtype, device=covariance.device
        )
        factor = torch.linalg.cholesky(covariance)
        identity = torch.eye(len(variance), dtype=factor.dtype, device=factor.device)
        self.mean.copy_(mean)
        self.whitener.copy_(torch.linalg.solve_triangular(factor, identity, upper=False))
        self.log_determinant.copy_(2 * factor.diagonal().log().sum())

    def whiten(self, features: Tensor) -> Tensor:
        """Features with this distribution's mean at zero and its covariance the identity."""
        return (features.float() - self.mean) @ self.whitener.T

    def log_density(self, features: Tensor) -> Tensor:
        """Log density up to a constant, divided by the feature's size; (n, size) -> (n,)."""
        whitened = self.whiten(features)
        return -0.5 * (whitened.square().sum(-1) + self.log_determinant) / self.mean.shape[0]


class ReferenceRank(nn.Module):
    """Conformal p-value of a score among held-out reference scores (our own reading).

    Buffer scores (length,), ascending quantiles of the reference; posts (), how many scores they
    are quantiles of. The reference must not be what the score was fitted to, or ordinary posts
    look strange.
    """

    scores: Tensor
    posts: Tensor

    def __init__(self, length: int) -> None:
        super().__init__()
        self.register_buffer("scores", torch.linspace(0.0, 1.0, length))
        self.register_buffer("posts", torch.zeros((), dtype=torch.long))

    def set(self, scores: Tensor) -> None:
        """Replace the reference by the quantiles of scores (n,), n >= 1."""
        # Midpoints: with both ends among them, the extremes would count twice.
        length = self.scores.shape[0]
        steps = (torch.arange(length, device=scores.device) + 0.5) / length
        self.scores.copy_(torch.quantile(scores.detach().float(), steps))
        self.posts.fill_(len(scores))

    def forward(self, scores: Tensor) -> Tensor:
        """Share of the reference at most as high, in (0, 1]; (n,) -> (n,)."""
        below = torch.searchsorted(self.scores, scores.float().contiguous(), right=True)
        return (below + 1) / (self.scores.shape[0] + 1)

    def beyond(self, scores: Tensor) -> Tensor:
        """How far below the whole reference, as a share of its lower half's width; (n,) -> (n,)."""
        lowest, median = self.scores[0], self.scores[self.scores.shape[0] // 2]
        return (lowest - scores).clamp_min(0) / (median - lowest).clamp_min(1e-9)


class UsualOfLength(nn.Module):
    """What scores are usual at each length: where they lie and how far they spread (our own).

    Features that are means over few tokens vary more than those over many, which alone is not
    strange. A mean's variance goes with one divided by the length, so curves are drawn in that.

    Buffers: ends (2,), the smallest and largest l = 1 / length that are known; middle, spread
    (powers, scores), of 1, l and l^2 for l from 0 to 1 between these; least (scores,) spread.
    """

    middle: Tensor
    spread: Tensor
    least: Tensor
    ends: Tensor

    def __init__(self, scores: int) -> None:
        super().__init__()
        self.register_buffer("middle", torch.zeros(3, scores))
        self.register_buffer("spread", torch.zeros(3, scores))
        self.register_buffer("least", torch.ones(scores))
        self.register_buffer("ends", torch.zeros(2))

    def fit(self, scores: Tensor, lengths: Tensor) -> None:
        """Fit to scores (n, scores) of lengths (n,), n >= 1, by least absolute deviations."""
        self.ends.copy_(torch.stack([lengths.min(), lengths.max()]))
        powers = self._powers(lengths)
        self.middle.copy_(_least_deviations(powers, scores))
        off = (scores - powers @ self.middle).abs()
        # Where lengths explain all, as of few different texts, what is left is the runtime's noise.
        self.least.copy_((0.1 * scores.std(0, correction=0)).clamp_min(1e-3))
        self.spread.copy_(_least_deviations(powers, off))

    def forward(self, scores: Tensor, lengths: Tensor) -> Tensor:
        """Scores (n, scores), less what is usual at lengths (n,), in units of its spread."""
        powers = self._powers(lengths)
        return (scores - powers @ self.middle) / torch.maximum(powers @ self.spread, self.least)

    def _powers(self, lengths: Tensor) -> Tensor:
        # What is shorter than all that is known is compared with the shortest that is.
        known = torch.minimum(torch.maximum(lengths, self.ends[0]), self.ends[1])
        share = (known - self.ends[0]) / (self.ends[1] - self.ends[0]).clamp_min(1e-6)
        return torch.stack([torch.ones_like(share), share, share.square()], 1)


# How many rows' worth of evidence says that there is no curve.
_ROWS_AGAINST_A_CURVE = 1.0


def _least_deviations(given: Tensor, wanted: Tensor) -> Tensor:
    """Coefficients (k, m) that bring given (n, k) closest to wanted (n, m), by absolute deviation.

    By least squares that weigh each row by how far it was off before. All coefficients but the
    first are drawn to zero, as by one row more: of few rows hardly a curve is learned.
    """
    given, wanted = given.double(), wanted.double()
    ridge = torch.diag(torch.full_like(given[0], _ROWS_AGAINST_A_CURVE))
    ridge[0, 0] = 1e-9
    columns = []
    for column in wanted.T:
        weights = torch.ones_like(column)
        for _ in range(20):
            weighted = given.T * weights
            found = torch.linalg.solve(weighted @ given + ridge, weighted @ column)
            off = (column - given @ found).abs()
            weights = off.mean() / off.clamp_min(0.1 * float(off.mean()) + 1e-9)
        columns.append(found)
    return torch.stack(columns, 1).float()


# The ways in which a post can be strange; see QualityEstimator.
RATIO, DENSITY, STATISTICS = range(3)


class QualityEstimator(nn.Module):
    """Quality of one modality's raw features, in (0, 1].

    A post can be strange in more than one way: like the queue of disrupted posts (the
    log-likelihood ratio of two Gaussians, one fitted to the queue of undisrupted posts, one to that
    of disrupted ones), or far from all that was seen (the density under the first alone, and that
    of the statistics that no encoder made). The sum of the logarithms of the post's ranks in all
    three among held-out undisrupted posts is the score (after Fisher), and its own rank among them
    the quality: 0.02 says "stranger than 98 % of them".
    Quality estimated from the queue's distribution is the paper's; ratio, ranks and their
    combination are our own reading, since one-sided distances call many disruptions typical and
    the ratio alone says nothing of what is far from both.

    size: of the raw features, the last of which no encoder made: statistics, of which signs say
    which side is ordinary (1 high, -1 low, 0 neither). kinds: how many kinds of damage are told
    apart. knows_length: whether the last feature is beside these, one divided by the post's length;
    scores are then compared with what is usual of that length.

    Buffers: kind_means (kinds, size), of posts damaged in each kind, whitened as disrupted posts
    are; kind_reach (kinds,), how far from them nearly all such posts lie.
    """

    kind_means: Tensor
    kind_reach: Tensor

    def __init__(
        self,
        size: int,
        signs: Sequence[float],
        reference_length: int,
        covariance: str = "full",
        kinds: int = 0,
        knows_length: bool = False,
    ) -> None:
        super().__init__()
        size -= knows_length
        self.statistics = len(signs)
        # No tensor: what is no buffer has no values in a model that is loaded.
        self.signs = tuple(signs)
        self.undisrupted = ShrunkGaussian(size, covariance)
        self.disrupted = ShrunkGaussian(size, covariance)
        self.undisrupted_statistics = ShrunkGaussian(len(signs), covariance)
        self.of_length = UsualOfLength(3) if knows_length else None
        self.ways = nn.ModuleList(ReferenceRank(reference_length) for _ in range(3))
        self.reference = ReferenceRank(reference_length)
        self.register_buffer("kind_means", torch.zeros(kinds, size))
        self.register_buffer("kind_reach", torch.zeros(kinds))

    def make_room(self, kinds: int) -> None:
        """Forget the kinds of damage, and make room for so many."""
        self.kind_means = self.kind_means.new_zeros(kinds, self.kind_means.shape[1])
        self.kind_reach = self.kind_reach.new_zeros(kinds)

    def fit(self, undisrupted: Tensor, disrupted: Tensor) -> None:
        """Fit the distributions; (n, size) and (k, size) standardised raw features."""
        undisrupted, disrupted = map(self._without_length, (undisrupted, disrupted))
        self.undisrupted.fit(undisrupted)
        self.disrupted.fit(disrupted)
        self.undisrupted_statistics.fit(self._oriented(undisrupted))

    @torch.no_grad()
    def fit_kinds(self, damaged: Sequence[Tensor]) -> None:
        """Learn to name damage: standardised raw features (n, size) of posts of each kind."""
        for number, features in enumerate(damaged):
            rows = self.disrupted.whiten(self._without_length(features))
            self.kind_means[number] = rows.mean(0)
            distances = (rows - self.kind_means[number]).norm(dim=1)
            self.kind_reach[number] = torch.quantile(distances, 0.9)

    def scores(self, features: Tensor) -> Tensor:
        """How ordinary posts are in each way, high for ordinary; (n, size) -> (n, 3)."""
        scores = self._scores_of_any_length(features)
        return scores if self.of_length is None else self.of_length(scores, features[:, -1])

    def _scores_of_any_length(self, features: Tensor) -> Tensor:
        features = self._without_length(features)
        undisrupted = self.undisrupted.log_density(features)
        return torch.stack(
            [
                undisrupted - self.disrupted.log_density(features),
                undisrupted,
                self.undisrupted_statistics.log_density(self._oriented(features)),
            ],
            1,
        )

    def _without_length(self, features: Tensor) -> Tensor:
        return features if self.of_length is None else features[:, :-1]

    def _oriented(self, features: Tensor) -> Tensor:
        """The statistics; those with a strange side no stranger than usual on the other one.

        A short plain sentence of common words is not strange for being plainer than most.
        """
        statistics = features[:, -self.statistics :]
        signs = torch.tensor(self.signs, device=statistics.device)
        return torch.where(signs == 0, statistics, (signs * statistics).clamp(max=0.0))

    def ranks(self, features: Tensor) -> Tensor:
        """Rank in each way among the reference, in (0, 1]; (n, size) -> (n, 3)."""
        scores = self.scores(features)
        return torch.stack([way(scores[:, n]) for n, way in enumerate(self.ways)], 1)

    def set_reference(self, features: Tensor) -> None:
        """Take held-out undisrupted features (n, size) as reference."""
        if self.of_length is not None:
            self.of_length.fit(self._scores_of_any_length(features), features[:, -1])
        scores = self.scores(features)
        for number, way in enumerate(self.ways):
            way.set(scores[:, number])
        self.reference.set(self.ranks(features).log().sum(1))

    def forward(self, features: Tensor) -> Tensor:
        """Quality of standardised raw features; (n, size) -> (n,)."""
        return self.reference(self.ranks(features).log().sum(1))

    @torch.no_grad()
    def unbounded_score(self, features: Tensor) -> Tensor:
        """The score that a post's quality is the rank of, but without an end; (n, size) -> (n,).

        Ranks end at the strangest post of the reference, and so does quality: among posts that are
        stranger, this still tells which is. Beyond it each way counts on in its own unit, the
        distance of that post from the median.
        """
        beyond = torch.stack(
            [
                way.beyond(score)
                for way, score in zip(self.ways, self.scores(features).T, strict=True)
            ]
        )
        return self.ranks(features).log().sum(1) - beyond.sum(0)

    @torch.no_grad()
    def nearest_kind(self, features: Tensor) -> Tensor:
        """The kind of damage that posts resemble most, -1 where none; (n, size) -> (n,) int.

        None where a post lies farther from every kind than nearly all damaged posts do.
        """
        if not len(self.kind_means):
            # Not of a length that tracing would take for a constant.
            return torch.full_like(features[:, 0], -1, dtype=torch.long)
        whitened = self.disrupted.whiten(self._without_length(features))
        nearest = torch.cdist(whitened, self.kind_means).min(1)
        within = nearest.values <= self.kind_reach[nearest.indices]
        return torch.where(within, nearest.indices, -1)


# Qualities at which a modality's trust is learned: between them it follows the logarithm of the
# quality, so that a small change of the input never changes much; beyond them it stays the same.
TRUST_QUALITIES = (0.005, 0.025, 0.1, 0.5)

# What training starts with, at TRUST_QUALITIES: damaged text is still worth reading, images
# hardly are.
FIRST_TRUST = ((0.85, 0.9, 0.95, 0.95), (0.4, 0.6, 0.7, 0.7))


def trust(quality: Tensor, levels: Tensor) -> Tensor:
    """How far a modality is believed, by its quality.

    quality (n,); levels (4,), trust at each of TRUST_QUALITIES, learned on validation posts.
    Returns (n,).
    """
    known = torch.tensor(TRUST_QUALITIES, device=quality.device).log()
    # No quality is below 1 / (n + 1), but that of what is absent is 0.
    at = quality.clamp_min(TRUST_QUALITIES[0]).log()[:, None]
    # By slices: OpenVINO converts no diff().
    climbed = ((at - known[:-1]) / (known[1:] - known[:-1])).clamp(0, 1)
    return levels[0] + (climbed * (levels[1:] - levels[:-1])).sum(1)
