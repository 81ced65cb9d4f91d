"""What many cluster heads have in common: one clustering of all, and how far they agree.

Heads of the same loss differ by tens of points in accuracy, and the lowest loss is sometimes the
worst choice; what most of them agree on is steadier than any one of them. Their agreement is also
the honest measure of doubt where there are no labels.
"""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from scan_tf.evaluation.head_scores import pairwise_nmi
from scan_tf.evaluation.metrics import match

# Features of unit length are multiplied by this, so that the regression's penalty is a light one.
_SCALE = 10.0
# Share of the images of each cluster, the surest, that the classifier is fitted on.
_SURE = 1.0
_RESTARTS = 5
# Soft assignments that are enough to tell how far the heads agree: 1 GiB.
_VALUES = 2**28
# Temperatures tried, where 1 is the regression as it is.
_TEMPERATURES = np.geomspace(0.1, 10, 41)


@dataclasses.dataclass(frozen=True, eq=False)
class Consensus:
    """A clustering that heads agree on.

    Attributes:
        clusters: int64 [N].
        support: float64 [N] in 0..1, the mean probability that the heads give to the cluster.
        agreement: mean NMI of the clusterings of two heads, 0..1.
        spread: standard deviation over the heads of their NMI with the consensus.
    """

    clusters: np.ndarray
    support: np.ndarray
    agreement: float
    spread: float


def of_heads(probs: np.ndarray, *, seed: int) -> Consensus:
    """k-means on the square roots of all soft assignments side by side.

    Square roots make the squared distance of two rows that of Hellinger, summed over the heads;
    which number a head gives to a cluster does not matter.

    Args:
        probs: float32 [H,N,C], N at least C.
        seed: of k-means.
    """
    heads, _, num_clusters = probs.shape
    rows = np.sqrt(np.concatenate(list(probs), axis=1))
    with warnings.catch_warnings():
        # Fewer different rows than clusters: heads that have collapsed, which is told elsewhere.
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = KMeans(num_clusters, n_init=_RESTARTS, random_state=seed).fit(rows).labels_
    clusters = found.astype(np.int64)
    support = np.zeros(len(clusters))
    for head in probs:
        mapping, _ = match(clusters, head.argmax(axis=1), num_clusters, num_clusters)
        aligned = np.zeros_like(head)
        aligned[:, mapping] = head
        support += aligned[np.arange(len(clusters)), clusters]
    choices = np.concatenate([probs.argmax(axis=2), clusters[None]])
    nmi = pairwise_nmi(np.eye(num_clusters, dtype=np.float32)[choices])
    others = nmi[:-1, :-1].sum() - heads
    agreement = float(others / (heads * (heads - 1))) if heads > 1 else 1.0
    return Consensus(clusters, support / heads, agreement, float(nmi[-1, :-1].std()))


def enough(count: int, heads: int, num_clusters: int, *, seed: int) -> np.ndarray:
    """Which images to ask the heads about where their agreement alone is wanted.

    Args:
        count: N.
        heads: H.
        num_clusters: C.
        seed: of the sample.

    Returns:
        Indices int64 [M] that rise: of all images where their H * C probabilities fit into 1 GiB,
        else of so many as do, and of no fewer than there are clusters.
    """
    most = max(num_clusters, _VALUES // (heads * num_clusters))
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def classifier(
    features: np.ndarray, consensus: Consensus, num_clusters: int, *, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """A linear classifier of features that says what the heads agree on.

    It is fitted on the images of each cluster that the heads are surest of. Its temperature is
    that of the lowest cross-entropy, on half of the images by a fit on the other half.

    Args:
        features: float32 [N,D].
        consensus: of the same images.
        num_clusters: C.
        seed: of the halves.

    Returns:
        kernel float32 [D,C] and bias float32 [C]: logits are features @ kernel + bias.
    """
    sure = np.zeros(len(features), bool)
    for cluster in range(num_clusters):
        members = np.flatnonzero(consensus.clusters == cluster)
        count = max(1, round(_SURE * len(members)))
        sure[members[np.argsort(-consensus.support[members], kind="stable")[:count]]] = True
    half = np.random.default_rng(seed).random(len(features)) < 0.5
    kernel, bias = _fit(features[sure], consensus.clusters[sure], num_clusters)
    if all(len(np.unique(consensus.clusters[sure & part])) > 1 for part in (half, ~half)):
        trained = _fit(features[sure & half], consensus.clusters[sure & half], num_clusters)
        logits = features[~half] @ trained[0] + trained[1]
        losses = [_cross_entropy(logits / t, consensus.clusters[~half]) for t in _TEMPERATURES]
        temperature = _TEMPERATURES[int(np.argmin(losses))]
        kernel, bias = kernel / temperature, bias / temperature
    return kernel.astype(np.float32), bias.astype(np.float32)


def _fit(
    features: np.ndarray, clusters: np.ndarray, num_clusters: int
) -> tuple[np.ndarray, np.ndarray]:
    """Logistic regression; a cluster without images is never chosen."""
    model = LogisticRegression(max_iter=1000).fit(_SCALE * features, clusters)
    kernel = np.zeros((features.shape[1], num_clusters))
    bias = np.full(num_clusters, -1e4)
    coefficients, intercepts = model.coef_, model.intercept_
    if len(model.classes_) == 2:  # one row stands for both
        coefficients = np.concatenate([-coefficients, coefficients]) / 2
        intercepts = np.concatenate([-intercepts, intercepts]) / 2
    kernel[:, model.classes_], bias[model.classes_] = _SCALE * coefficients.T, intercepts
    return kernel, bias


def _cross_entropy(logits: np.ndarray, clusters: np.ndarray) -> float:
    top = logits.max(axis=1)
    norm = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    return float((norm - logits[np.arange(len(logits)), clusters]).mean())
