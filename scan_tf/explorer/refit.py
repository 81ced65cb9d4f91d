"""A linear classifier of features that heeds corrections: seconds, on features that are there.

What the run found is taught softly, by its probabilities. What somebody has said of an image is
taught at a higher weight, and spreads to the images that are most like it: a correction says
something of its neighbourhood, which the clustering was mostly as wrong about. Images that are
marked as not sure, or as none of these, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits

from scan_tf.features.rows import unit

# A correction is heard by so many of the nearest images at most, and outweighs what the run found
# of one that is equal by so much.
_HEARD_BY, _LOUD = 20, 4.0
# A cluster is divided at this number of deviations of its images, and this number of corrections is
# trusted by half.
_SHARP, _TRUSTED = 3.0, 1.0
# All corrections together weigh about this share of the rest, each no less and no more than so
# many images.
_SHARE, _LEAST, _MOST = 0.1, 5.0, 100.0
# Images that nothing was said of: more than these teach nothing new to a linear classifier.
_TAUGHT = 10_000
# Share of the images that are of a kind which a threshold may leave out.
_MOST_LEFT_OUT = 0.2
# L2 penalty on the kernel, for features of unit variance; steps at most, and the relative decrease
# of the loss at which they end.
_PENALTY, _STEPS, _SMALL = 1e-7, 100, 1e-7
# Probabilities below this are as good as none.
_TINY = 1e-8


def fit(
    features: np.ndarray,
    found: np.ndarray,
    said: np.ndarray,
    *,
    none: np.ndarray,
    unsure: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the classifier.

    Args:
        features: float32 [N,D].
        found: float32 [N,C], the probabilities that the run gives to the C clusters, rows of sum 1.
        said: int [N], the cluster that somebody has put the image into, or -1.
        none: bool [N], images that are said to be of none of the clusters.
        unsure: bool [N], images that nobody is sure of.

    Returns:
        kernel float32 [D,C] and bias float32 [C]: logits are features @ kernel + bias.
    """
    targets, weights = taught(features, found, said, none=none, unsure=unsure)
    rest = np.flatnonzero((said < 0) & ~none & ~unsure)
    if len(rest) > _TAUGHT:
        rest = np.sort(np.random.default_rng(0).permutation(rest)[:_TAUGHT])
    rows = np.concatenate([np.flatnonzero(said >= 0), rest])
    # Small products: on a busy machine threads wait for each other longer than they compute.
    with threadpool_limits(1):
        return _regression(features[rows], targets[rows], weights[rows])


def taught(
    features: np.ndarray,
    found: np.ndarray,
    said: np.ndarray,
    *,
    none: np.ndarray,
    unsure: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """What each image is to be taken for, float32 [N,C], and its weight, float32 [N]; see `fit`."""
    targets = found.astype(np.float32)
    weights = np.where(none | unsure, 0, 1).astype(np.float32)
    labelled = np.flatnonzero(said >= 0)
    if labelled.size or none.any():
        rows = unit(features)
        _divide(targets, rows, said)
        heard = np.zeros_like(targets)
        for row, loud in zip(
            labelled.tolist(), _hearers(rows, labelled, found.shape[1]), strict=True
        ):
            heard[loud[0], said[row]] += loud[1]
        of_none = np.zeros(len(rows), np.float32)
        for loud in _hearers(rows, np.flatnonzero(none), found.shape[1]):
            of_none[loud[0]] += loud[1]
        total = 1 + heard.sum(axis=1)
        targets = (targets + heard) / total[:, None]
        weights *= total / (total + of_none)
    targets[labelled] = np.eye(found.shape[1], dtype=np.float32)[said[labelled]]
    if len(labelled):
        share = _SHARE * (weights > 0).sum() / len(labelled)
        weights[labelled] = np.clip(share, _LEAST, _MOST)
    return targets, weights


def threshold(confidence: np.ndarray, none: np.ndarray, before: float) -> float:
    """The confidence below which an image is none of the kinds, so that those said to be are.

    Args:
        confidence: float [N], of the classifier itself.
        none: bool [N], images that are said to be none of the kinds; at least one.
        before: the threshold without that, which holds where no other is better.

    Returns:
        The one of the smallest sum of two shares: of the images that are none and not below it, and
        of all others that are. It never leaves out more than a fifth of those, unless `before` does
        already. Of equal ones the lowest.
    """
    of_none, of_kinds = np.sort(confidence[none]), np.sort(confidence[~none])
    over = np.nextafter(of_none.astype(np.float32), np.float32(2))
    tried = np.concatenate([[before], over.astype(np.float64)])
    kept_out = np.searchsorted(of_kinds, tried) / max(1, len(of_kinds))
    cost = 1 - np.searchsorted(of_none, tried) / len(of_none) + kept_out
    cost[kept_out > max(_MOST_LEFT_OUT, kept_out[0])] = np.inf
    return float(min(tried[cost <= cost.min() + 1e-9]))


def _divide(targets: np.ndarray, rows: np.ndarray, said: np.ndarray) -> None:
    """Divide clusters of which images were put into new ones, by what those look like.

    Of an image in such a cluster, a part of the cluster's probability goes to the clusters that
    others of it were put into, as far as it is nearer to the mean of those than to the mean of what
    stays; the more images were put there, the larger the part.

    Args:
        targets: float32 [N,C], changed in place.
        rows: float32 [N,D], unit rows.
        said: int [N], the cluster that somebody has put the image into, or -1.
    """
    was = targets.argmax(axis=1)
    for cluster in np.unique(was[(said >= 0) & (said != was)]).tolist():
        members = np.flatnonzero((was == cluster) & (said < 0))
        spoken = np.flatnonzero((was == cluster) & (said >= 0))
        # To a cluster that the run knows of, single images are put, which tell nothing of others.
        kinds = [
            kind
            for kind in np.unique(said[spoken]).tolist()
            if kind != cluster and (was == kind).sum() <= (said == kind).sum()
        ]
        stay = spoken[said[spoken] == cluster]
        centers = [rows[stay if stay.size else members]]
        centers += [rows[spoken[said[spoken] == kind]] for kind in kinds]
        if not members.size or not kinds:
            continue
        near = rows[members] @ np.stack([part.mean(axis=0) for part in centers]).T
        lead = near[:, 1:] - near[:, :1]
        share = np.exp(_SHARP * lead / np.maximum(lead.std(axis=0), 1e-6))
        share /= 1 + share.sum(axis=1, keepdims=True)
        counts = np.array([len(part) for part in centers[1:]])
        moved = targets[members, cluster][:, None] * share * (counts / (counts + _TRUSTED))
        targets[members, cluster] -= moved.sum(axis=1)
        targets[np.ix_(members, kinds)] += moved


def _hearers(
    rows: np.ndarray, speakers: np.ndarray, num_clusters: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Who hears each speaker, and how loud: the nearest images, the farthest of them not at all.

    Of few images for each cluster fewer hear it. `rows` are unit rows float32 [N,D].
    """
    count = max(1, min(_HEARD_BY, len(rows) // (4 * num_clusters)))
    place = min(count + 1, len(rows) - 1)  # the speaker is its own nearest image
    for row in speakers.tolist():
        distance = 1 - rows @ rows[row]
        nearest = np.argpartition(distance, place)[: place + 1]
        reach = max(float(distance[nearest].max()), 1e-6)
        yield nearest, _LOUD * np.square(1 - np.square(distance[nearest].clip(0) / reach))


def _regression(
    features: np.ndarray, targets: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Multinomial logistic regression on soft targets, with weights."""
    mean = features.mean(axis=0)
    scale = max(float(np.sqrt(((features - mean) ** 2).mean())), 1e-12)
    x = np.concatenate([(features - mean) / scale, np.ones((len(features), 1))], axis=1)
    x = x.astype(np.float32)
    share = (weights / weights.sum()).astype(np.float32)[:, None]
    shape = x.shape[1], targets.shape[1]

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        kernel = flat.reshape(shape)
        logits = x @ kernel.astype(np.float32)
        logits -= logits.max(axis=1, keepdims=True)
        norm = np.log(np.exp(logits).sum(axis=1, keepdims=True))
        penalty = _PENALTY * kernel
        penalty[-1] = 0
        error = -float((share * targets * (logits - norm)).sum(dtype=np.float64))
        gradient = x.T @ (share * (np.exp(logits - norm) - targets))
        return error + float((penalty * kernel).sum()) / 2, (gradient + penalty).ravel()

    options = {"maxiter": _STEPS, "ftol": _SMALL}
    best = minimize(
        loss, _start(x, targets, share).ravel(), jac=True, method="L-BFGS-B", options=options
    )
    kernel, bias = best.x.reshape(shape)[:-1] / scale, best.x.reshape(shape)[-1]
    return kernel.astype(np.float32), (bias - mean @ kernel).astype(np.float32)


def _start(x: np.ndarray, targets: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Least squares on the logarithms of the targets: a linear head says again what it has said."""
    logits = np.log(np.maximum(targets, _TINY))
    logits -= logits.mean(axis=1, keepdims=True)
    square = x.T @ (share * x) + _PENALTY * np.eye(x.shape[1], dtype=np.float32)
    return np.linalg.solve(square.astype(np.float64), x.T @ (share * logits))
