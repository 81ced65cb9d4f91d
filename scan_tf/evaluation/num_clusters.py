"""How many clusters there are, told without labels: the middle of four ways of counting.

Each way scores numbers of clusters (`witnesses.py`): whether the clusters of k-means come back in
other images, whether those of the graph of neighbours do, how compact clusters are, and how many
parts the graph has. Few clusters come back in anything that is longer than it is wide, and more
clusters are always more compact; so what counts is by how much a score surpasses that of features
without groups, normally distributed with the same covariance (the idea of the gap statistic,
Tibshirani et al., 2001). No single way was near the true number on more than six of ten sets of
features; their middle was more often (docs/how-many-clusters.md).
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits

from scan_tf.errors import ConfigError, DataError
from scan_tf.evaluation import witnesses
from scan_tf.features.rows import unit

# Fewer images cannot be halved and clustered.
LEAST_IMAGES = 40
# Images for each cluster at least, in both halves together.
PER_CLUSTER = 10
# Images of a repetition: more cost time and change little.
_SAMPLE = 3000
# Images that the axes are fitted on, and how many axes are kept.
_FITTED, _AXES = 20_000, 64
# Pairs of halves of the images, and sets without groups that they are compared with.
_REPEATS, _GROUPLESS = 4, 2
# Numbers up to here are all tried, greater ones each by so much larger than the one before.
_ALL_UP_TO, _STEP = 12, 1.15
# The smallest number with so much of the best score is what a way says.
_ALIKE = {"k-means, again": 0.95, "silhouette": 0.95, "graph, again": 1.0}
_PARTS = "parts of the graph"
# Clusters that agree so well in two halves are whole.
_WHOLE = 0.98
# What somebody who reads the numbers calls the ways.
_IN_WORDS = {
    "k-means, again": "by what comes back in other images",
    "silhouette": "by how compact clusters are",
    "graph, again": "by what comes back among neighbours",
    _PARTS: "by how the neighbours hang together",
}
# A way that says so many times more or less than all others is not believed; the true number lay
# among the others on 15 of the 17 sets on which the ways were chosen.
_APART = 2.0
# By so much at least something has to come back better than without groups.
_NOTHING = 0.05
# Effective number of clusters, as a share of them, below which their sizes are unequal; and how
# many times the smallest is exceeded by the largest.
_UNEQUAL, _TIMES = 0.85, 3.0


@dataclasses.dataclass(frozen=True)
class Curve:
    """What one way says of every number that was tried.

    Attributes:
        scores: float [K], by how much features without groups are surpassed.
        errors: float [K], their standard errors.
        values: float [K], what it says itself; () where that says nothing.
    """

    scores: tuple[float, ...]
    errors: tuple[float, ...]
    values: tuple[float, ...] = ()


@dataclasses.dataclass(frozen=True)
class Estimate:
    """How many clusters, and how sure that is.

    Attributes:
        num_clusters: the number that is taken.
        low: the least that a way says; where it is less than half of the next, that one.
        high: the greatest; where it is more than twice the one before, that one.
        said: way -> its number.
        numbers: that were tried, K of them.
        curves: way -> its scores of them; the parts of the graph have none.
        sizes: images of the clusters of k-means at the number taken, the largest first.
        num_images: of all images, N.
        groups: whether anything comes back that does not in features without groups.
    """

    num_clusters: int
    low: int
    high: int
    said: Mapping[str, int]
    numbers: tuple[int, ...]
    curves: Mapping[str, Curve]
    sizes: tuple[int, ...]
    num_images: int
    groups: bool

    @property
    def sentence(self) -> str:
        """The recommendation, in words."""
        if not self.groups:
            return (
                "no clusters come back in other images better than in features without groups: "
                f"there may be one kind only; {self.num_clusters} are taken, the least"
            )
        ways = ", ".join(f"{self.said[way]} {text}" for way, text in _IN_WORDS.items())
        alike = f"{self.low} to {self.high} clusters look alike; {self.num_clusters} is taken"
        if self.low == self.high:
            alike = f"{self.num_clusters} clusters"
        return f"{alike}, the middle of {ways}"

    @property
    def unequal(self) -> bool:
        """Whether the clusters look as if kinds were of very unequal size."""
        shares = np.array(self.sizes) / sum(self.sizes)
        even = math.exp(-(shares * np.log(shares)).sum()) / len(shares)
        return even < _UNEQUAL and self.sizes[0] > _TIMES * self.sizes[-1]


def estimate(features: np.ndarray, *, low: int = 2, high: int = 80, seed: int = 0) -> Estimate:
    """Decide how many clusters features have.

    Args:
        features: float [N,D], of any length and offset.
        low: the least number to look at.
        high: the greatest; with fewer than ten images for each cluster it is not looked at.
        seed: of the halves, of k-means and of the features without groups; the same seed gives
            the same answer.

    Raises:
        DataError: there are fewer than LEAST_IMAGES images, or fewer than ten for each of `low`
            clusters, or all features are the same.
        ConfigError: `low` is greater than `high`, or less than 2.
    """
    count = len(features)
    if not 2 <= low <= high:
        raise ConfigError(f"range: expected 2 <= least <= greatest, got {low} and {high}.")
    if count < max(LEAST_IMAGES, PER_CLUSTER * low):
        raise DataError(
            f"deciding the number of clusters takes at least "
            f"{max(LEAST_IMAGES, PER_CLUSTER * low)} images, got {count}."
        )
    random = np.random.default_rng([seed, count])
    rows = _reduced(np.asarray(features), random)
    numbers = _numbers(low, min(high, count // PER_CLUSTER))
    with threadpool_limits(1), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer distinct rows than clusters
        curves, sizes = _curves(rows, numbers, random)
        parts = _parts(rows, numbers, random)
    said = {
        way: next(
            k
            for k, score in zip(numbers, curve.scores, strict=True)
            if score >= max(curve.scores) - (1 - _ALIKE[way]) * abs(max(curve.scores))
        )
        for way, curve in curves.items()
    }
    for way, curve in curves.items():
        # Of clusters that come back as they were, larger ones are these merged.
        whole = [k for k, v in zip(numbers, curve.values, strict=False) if v >= _WHOLE]
        said[way] = max([said[way], *whole])
    said[_PARTS] = parts
    again = curves["k-means, again"]
    best = int(np.argmax(again.scores))
    groups = again.scores[best] > max(_NOTHING, 2 * again.errors[best])
    least, one, other, most = sorted(said.values())
    taken, alike = round(math.sqrt(one * other)), (least, most)
    if most > _APART * other:
        alike = least, other
    elif one > _APART * least:
        alike = one, most
    if not groups:
        taken, alike = low, (low, low)
    nearest = min(range(len(numbers)), key=lambda i: abs(numbers[i] - taken))
    shares = np.sort(sizes[nearest][sizes[nearest] > 0])[::-1] / sizes[nearest].sum()
    return Estimate(
        taken,
        *alike,
        said,
        tuple(numbers),
        curves,
        tuple(np.round(shares * count).astype(int).tolist()),
        count,
        groups=bool(groups),
    )


def _numbers(low: int, high: int) -> list[int]:
    """The numbers to try: all small ones, and ever fewer of the large ones."""
    numbers = [low]
    while numbers[-1] < high:
        last = numbers[-1]
        numbers.append(last + 1 if last < _ALL_UP_TO else min(high, math.ceil(last * _STEP)))
    return numbers


def _curves(
    rows: np.ndarray, numbers: list[int], random: np.random.Generator
) -> tuple[dict[str, Curve], list[np.ndarray]]:
    """What the three ways say that have scores, and the sizes of the clusters of k-means."""
    found: list[dict[str, np.ndarray]] = []
    sizes: list[np.ndarray] = []
    for repeat in range(_REPEATS + _GROUPLESS):
        some = _sample(rows, random) if repeat < _REPEATS else _groupless(rows, random)
        again, compact, counted = witnesses.by_means(some, numbers, random)
        graph = witnesses.by_graph(some, numbers, random)
        found.append(dict(zip(_ALIKE, (again, compact, graph), strict=True)))
        sizes = sizes or counted
    curves = {}
    for way in _ALIKE:
        values = np.array([scores[way] for scores in found])
        scores = values[:_REPEATS].mean(axis=0) - values[_REPEATS:].mean(axis=0)
        errors = values[:_REPEATS].std(axis=0, ddof=1) / math.sqrt(_REPEATS)
        again = values[:_REPEATS].mean(axis=0).tolist() if "again" in way else []
        curves[way] = Curve(tuple(scores.tolist()), tuple(errors.tolist()), tuple(again))
    return curves, sizes


def _parts(rows: np.ndarray, numbers: list[int], random: np.random.Generator) -> int:
    """How many eigenvalues of the graph exceed all that features without groups have, but for 1."""
    values = witnesses.spectrum(_sample(rows, random), numbers[-1] + 1)[0]
    without = witnesses.spectrum(_groupless(rows, random), 2)[0]
    return int(np.clip((values > without[1]).sum(), numbers[0], numbers[-1]))


def _sample(rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
    return rows[np.sort(random.permutation(len(rows))[:_SAMPLE])]


def _reduced(features: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Centred, on the first principal axes, rows of length 1: float32 [N,P]."""
    some = features[np.sort(random.permutation(len(features))[:_FITTED])].astype(np.float64)
    mean = some.mean(axis=0)
    some -= mean
    variances, axes = np.linalg.eigh(some.T @ some / len(some))
    kept = min(_AXES, int((variances > 1e-9 * max(variances[-1], 0)).sum()), len(some) - 1)
    if kept < 1:
        raise DataError(f"features: all {len(features)} rows are the same.")
    axes = axes[:, ::-1][:, :kept].astype(np.float32)
    return unit((features - mean).astype(np.float32) @ axes)


def _groupless(rows: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """As many rows of the same mean and covariance, normally distributed, of length 1."""
    mean, count = rows.mean(axis=0), min(len(rows), _SAMPLE)
    covariance = np.cov(rows.T.astype(np.float64)).reshape(len(mean), len(mean))
    variances, axes = np.linalg.eigh(covariance)
    noise = random.standard_normal((count, len(mean))) * np.sqrt(variances.clip(min=0))
    return unit(noise @ axes.T + mean)
