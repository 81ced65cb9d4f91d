"""The weighted kNN classifier on features (Wu et al., 2018)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from scan_tf.errors import DataError
from scan_tf.evaluation.metrics import ids, same_length
from scan_tf.features.search import exact, others


def knn_predict(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    *,
    k: int = 100,
    temperature: float = 0.1,
    num_classes: int,
    leave_one_out: bool = False,
) -> np.ndarray:
    """Classify by the weighted vote of the `k` nearest features (Wu et al., 2018): int64 [Q].

    Takes a bank float32 [N, P] of unit rows with labels int64 [N], and queries float32 [Q, P]. A
    neighbour's weight is exp(similarity / temperature); k = 100 (at most all there are) and 0.1
    are the official configuration. With `leave_one_out` the queries are the bank, and no image
    votes for itself. Raises DataError where no neighbour is left, lengths differ, or labels are
    out of range.
    """
    bank_labels = _labels(bank, bank_labels, num_classes)
    near, similarity = _nearest(bank, queries, k, leave_one_out)
    return _vote(bank_labels[near], similarity, temperature, num_classes)


def knn_accuracy(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    **options: Any,
) -> float:
    """Accuracy in 0..1 of `knn_predict`, which see for the options and errors.

    Args:
        bank: float32 [N,P], unit rows that vote.
        bank_labels: int [N], their classes.
        queries: float32 [Q,P], unit rows.
        query_labels: int [Q], their true classes.
        options: of `knn_predict`: `k`, `temperature`, `num_classes`, `leave_one_out`.
    """
    same_length(queries=queries, query_labels=query_labels)
    predicted = knn_predict(bank, bank_labels, queries, **options)
    return float((predicted == query_labels).mean())


def knn_accuracies(
    bank: np.ndarray,
    bank_labels: np.ndarray,
    queries: np.ndarray,
    query_labels: np.ndarray,
    *,
    ks: Sequence[int],
    temperature: float = 0.1,
    num_classes: int,
    leave_one_out: bool = False,
) -> dict[int, float]:
    """`knn_accuracy` with each of several numbers of neighbours, from one search.

    Takes what `knn_predict` takes, and the numbers `ks`. Returns the accuracy in 0..1 by the number
    that was asked, in their order; where there are fewer images than that, by all there are.
    """
    same_length(queries=queries, query_labels=query_labels)
    bank_labels = _labels(bank, bank_labels, num_classes)
    near, similarity = _nearest(bank, queries, max(ks), leave_one_out)
    votes = bank_labels[near]
    found = {}
    for k in ks:
        predicted = _vote(votes[:, :k], similarity[:, :k], temperature, num_classes)
        found[min(k, near.shape[1])] = float((predicted == query_labels).mean())
    return found


def _labels(bank: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """The labels of the bank, int64 [N], looked over."""
    same_length(bank=bank, bank_labels=labels)
    return ids(labels, num_classes, "bank_labels")


def _nearest(
    bank: np.ndarray, queries: np.ndarray, k: int, leave_one_out: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The nearest rows of the bank, int64 [Q,K], nearest first, and their cosines [Q,K]."""
    if leave_one_out:
        same_length(bank=bank, queries=queries)
    k = min(k, len(bank) - leave_one_out)
    if k < 1:
        raise DataError(f"kNN: the bank of {len(bank)} image(s) leaves no neighbour to vote.")
    bank, queries = (np.ascontiguousarray(rows, np.float32) for rows in (bank, queries))
    if leave_one_out:
        return others(bank, np.arange(len(bank)), k)
    return exact(bank, queries, k)


def _vote(
    labels: np.ndarray, similarity: np.ndarray, temperature: float, num_classes: int
) -> np.ndarray:
    """The class int64 [Q] that neighbours of these labels and cosines, both [Q,K], vote for."""
    # A cosine is at most 1: subtracting it scales all weights alike and cannot overflow.
    weights = np.exp((similarity.astype(np.float64) - 1) / temperature)
    cell = np.arange(len(labels))[:, None] * num_classes + labels
    votes = np.bincount(cell.ravel(), weights.ravel(), minlength=len(labels) * num_classes)
    return votes.reshape(-1, num_classes).argmax(axis=1)
