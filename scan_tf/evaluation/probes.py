"""What simple methods make of frozen features: linear probe, neighbour purity, k-means.

They compare pretexts with each other, and say how much the clustering adds to one. The kNN
classifier is in `knn.py`.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from scan_tf import machine
from scan_tf.data.image_set import Images
from scan_tf.errors import DataError
from scan_tf.evaluation.metrics import cluster_scores, same_length
from scan_tf.features.search import others

# k-means fits on a random subset of the images above this many values (128 MiB of float32).
KMEANS_FIT_VALUES = 2**25
# Numbers of neighbours for which the purity is given.
PURITY_KS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
_PURITY_SAMPLE = 5000
_PROBE_L2 = 1e-3
_PROBE_TOLERANCE = 3e-4
_PROBE_ITERATIONS = 200
# Images whose colours are counted at a time.
_THUMBNAIL = 32
_HISTOGRAM_BLOCK = 1024
# Rows longer than this are cheaper to assign with the triangle inequality (same result).
_ELKAN_COLUMNS = 1024
_PROBE_FOLDS = 5


def linear_probe(
    train_features: np.ndarray,
    train_labels: np.ndarray,
    features: np.ndarray,
    labels: np.ndarray,
) -> float:
    """Accuracy 0..1 of a linear classifier that was fit on the training features.

    The standard protocol: frozen backbone features, standardised by the training ones, and
    multinomial logistic regression, here by L-BFGS: the mean cross-entropy plus 5e-4 times the
    squared weights, until no derivative exceeds 3e-4, at most 200 iterations. With 50,000 features
    of 512 numbers (CIFAR-10) this took 7 s on one busy core; up to ten times weaker penalties and
    smaller tolerances cost more and changed the accuracy by less than 0.1 %.

    Args:
        train_features: float32 [N, D].
        train_labels: int64 [N].
        features: float32 [M, D].
        labels: int64 [M].

    Raises:
        DataError: lengths differ.
    """
    same_length(train_labels=train_labels, train_features=train_features)
    same_length(labels=labels, features=features)
    with _fitting():
        predicted = _fit_and_predict(train_features, train_labels, features)
    return float((predicted == labels).mean())


def cross_validated_probe(
    features: np.ndarray, labels: np.ndarray, *, seed: int, progress: bool = False
) -> float | None:
    """Accuracy 0..1 of `linear_probe` on images that it was not fit on, where there is one split.

    Every image is classified once, by the probe that was fit on the other four of five random
    folds. None for a single image. Raises DataError where lengths differ.
    """
    same_length(labels=labels, features=features)
    if len(features) < 2:
        return None
    folds = KFold(min(_PROBE_FOLDS, len(features)), shuffle=True, random_state=seed)

    def hits(split: tuple[np.ndarray, np.ndarray]) -> int:
        fit, rest = split
        predicted = _fit_and_predict(features[fit], labels[fit], features[rest])
        return int((predicted == labels[rest]).sum())

    splits = [*folds.split(features)]
    with _fitting(), machine.threads() as pool:
        bar = {"total": len(splits), "leave": False, "disable": not progress or None}
        return sum(tqdm(pool.map(hits, splits), "linear probe", **bar)) / len(features)


def purity_by_k(indices: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Share of the first 1, 2, ... K neighbours with the image's own label, float64 [K].

    Column 0 of `indices` int [N, K+1], the image itself, does not count (SCAN, figure 2). Raises
    DataError where lengths differ.
    """
    same_length(labels=labels, indices=indices)
    return _running_purity(labels[indices[:, 1:]] == labels[:, None])


def purity_curve(
    features: np.ndarray, labels: np.ndarray, mined: np.ndarray | None, *, seed: int
) -> dict[int, float]:
    """Neighbour purity 0..1 for the K of PURITY_KS (SCAN, figure 2).

    Up to the mined K it is that of the mined neighbours of all images. Beyond, as far as the mean
    size of a class, it is that of an exact search for at most 5,000 random images; so it is for
    every K where nothing was mined.

    Args:
        features: float32 [N, P] of unit rows.
        labels: int64 [N].
        mined: neighbours int [N, K+1], column 0 the image itself; None: none.
        seed: of the random images.

    Raises:
        DataError: lengths differ.
    """
    same_length(labels=labels, features=features)
    known = np.empty(0) if mined is None else purity_by_k(mined, labels)
    limit = min(len(labels) - 1, len(labels) // len(np.unique(labels)))
    beyond = [k for k in PURITY_KS if len(known) < k <= limit]
    values = {k: float(known[k - 1]) for k in {*PURITY_KS, len(known)} if 0 < k <= len(known)}
    if beyond:
        rows = np.random.default_rng(seed).permutation(len(labels))[:_PURITY_SAMPLE]
        near, _ = others(np.ascontiguousarray(features, np.float32), rows, beyond[-1])
        searched = _running_purity(labels[near] == labels[rows, None])
        values |= {k: float(searched[k - 1]) for k in beyond}
    return dict(sorted(values.items()))


def chance_purity(labels: np.ndarray) -> float:
    """The purity 0..1 of neighbours drawn at random: 1/C for C classes of one size, or more."""
    sizes = np.unique(labels, return_counts=True)[1] / len(labels)
    return float((sizes**2).sum())


def thumbnails(images: Images) -> Images:
    """Images as k-means on pixels looks at them: what has more than 32 pixels a side is shrunk.

    Distances hardly change, and photos would cost minutes for a baseline.

    Args:
        images: uint8 [N,S,S,3].

    Returns:
        uint8 [N,s,s,3], s = min(S, 32); means over the pixels that become one.
    """
    if images.shape[1] <= _THUMBNAIL:
        return images
    small = np.empty((len(images), _THUMBNAIL, _THUMBNAIL, 3), np.uint8)
    for start in range(0, len(images), _HISTOGRAM_BLOCK):
        for row, image in enumerate(images[start : start + _HISTOGRAM_BLOCK], start):
            fitted = Image.fromarray(image).resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.BOX)
            small[row] = np.asarray(fitted)
    return small


def color_histograms(images: Images) -> np.ndarray:
    """What a picture's colours alone tell: the baseline of those who do not look at shapes.

    Args:
        images: uint8 [N,S,S,3].

    Returns:
        float32 [N,64]: the square roots of the shares of 4 x 4 x 4 bins of red, green and blue, so
        that the squared Euclidean distance is twice the squared Hellinger distance.
    """
    rows = np.empty((len(images), 64), np.float32)
    for start in range(0, len(images), _HISTOGRAM_BLOCK):
        block = np.asarray(images[start : start + _HISTOGRAM_BLOCK]) // 64
        bins = (block[..., 0] * 16 + block[..., 1] * 4 + block[..., 2]).reshape(len(block), -1)
        for row, found in enumerate(bins, start):
            rows[row] = np.bincount(found, minlength=64) / bins.shape[1]
    return np.sqrt(rows)


def kmeans_scores(
    train_features: np.ndarray | Images,
    features: np.ndarray | Images,
    labels: np.ndarray | None,
    *,
    num_clusters: int,
    num_classes: int,
    restarts: int,
    seed: int,
    progress: str | None = None,
) -> dict[str, Any]:
    """The k-means baseline: fit on the train features, score on the evaluation ones.

    Features are float [N, P] and [M, P], or uint8 (scaled to 0..1; further axes are flattened),
    labels int64 [M] or None. Every restart is one k-means++ run; their seeds are seed, seed+1, ...
    `progress` names a bar on stderr; None: no bar.

    Returns:
        acc, nmi, ari, num_clusters_used: means over the restarts; acc_std, ...: deviations
        (divisor restarts-1; 0 for one restart); matching; all of these but num_clusters_used are
        None without labels. restarts; fit_images: on how many train images it was fit (all, or a
        random subset of large arrays). Raises DataError where there are fewer train images than
        clusters, or lengths differ.
    """
    columns = int(np.prod(train_features.shape[1:]))
    count = min(len(train_features), max(KMEANS_FIT_VALUES // columns, 10 * num_clusters))
    if count < num_clusters:
        raise DataError(f"k-means with {num_clusters} clusters got {count} images to fit on.")
    fit = np.random.default_rng(seed).permutation(len(train_features))[:count]
    fit_values = _as_rows(train_features[np.sort(fit)])
    how = "elkan" if columns > _ELKAN_COLUMNS else "lloyd"
    centers = [
        KMeans(num_clusters, n_init=1, random_state=seed + run, algorithm=how)
        .fit(fit_values)
        .cluster_centers_
        for run in tqdm(range(restarts), progress, leave=False, disable=progress is None or None)
    ]
    runs = [
        cluster_scores(labels, clusters, num_clusters=num_clusters, num_classes=num_classes)
        for clusters in _nearest(features, centers)
    ]
    result: dict[str, Any] = {"matching": runs[0]["matching"], "restarts": restarts}
    for key in ("acc", "nmi", "ari", "num_clusters_used"):
        values = [run[key] for run in runs]
        known = None not in values
        result[key] = float(np.mean(values)) if known else None
        result[f"{key}_std"] = float(np.std(values, ddof=min(1, restarts - 1))) if known else None
    return {**result, "fit_images": count}


def _fit_and_predict(features: np.ndarray, labels: np.ndarray, others: np.ndarray) -> np.ndarray:
    if (labels == labels[0]).all():
        return np.full(len(others), labels[0])  # logistic regression needs two classes
    # scikit-learn's C weighs the sum of the losses, half the squared weights stand beside it.
    strength = 1 / (_PROBE_L2 * len(features))
    regression = LogisticRegression(C=strength, tol=_PROBE_TOLERANCE, max_iter=_PROBE_ITERATIONS)
    model = make_pipeline(StandardScaler(), regression).fit(features, labels)
    return np.asarray(model.predict(others))


@contextlib.contextmanager
def _fitting() -> Iterator[None]:
    """One thread for each fit, and no warning where the iterations end it."""
    # Its products are small: threads that share one wait for each other, and beside other work
    # made a fit four times as long.
    with threadpool_limits(1), warnings.catch_warnings():
        # The iterations are limited on purpose, for the time that large sets would take.
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def _running_purity(same: np.ndarray) -> np.ndarray:
    """Mean of the first 1, 2, ... K columns of bool [N, K], float64 [K]."""
    return np.asarray(np.cumsum(same.mean(axis=0)) / np.arange(1, same.shape[1] + 1))


def _nearest(features: np.ndarray | Images, centers: list[np.ndarray]) -> np.ndarray:
    """The nearest of the centers [C, P] of each of R restarts: int64 [R, M]."""
    # All restarts in one product: large arrays are read and converted once.
    rows = np.concatenate(centers)
    squares = (rows**2).sum(axis=1)
    parts = []
    for some in np.array_split(np.arange(len(features)), len(features) // 4096 + 1):
        part = features[some]
        distance = squares - 2 * (_as_rows(part) @ rows.T)
        parts.append(distance.reshape(len(part), len(centers), -1).argmin(axis=2).T)
    return np.concatenate(parts, axis=1)


def _as_rows(images: np.ndarray) -> np.ndarray:
    rows = images.reshape(len(images), -1)
    return rows.astype(np.float32) / 255 if images.dtype == np.uint8 else rows.astype(np.float32)
