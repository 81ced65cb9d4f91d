"""What a classifier says of the images, told by the groups that a user has made of its clusters."""

from __future__ import annotations

import dataclasses

import numpy as np

from scan_tf.explorer.corrections import NONE, UNSURE, State
from scan_tf.features.rows import unit

# What an image is marked as, on the page.
LABELLED, MARKED_UNSURE, MARKED_NONE = 1, 2, 3
# A split is by k-means on at most so many images; the rest goes to the nearer half.
_MOST_SPLIT = 20_000
_RESTARTS = 4


@dataclasses.dataclass(frozen=True, eq=False)
class Findings:
    """Of N images.

    Attributes:
        group: int32 [N], the group that each is shown in.
        second: int32 [N], the next group by probability; -1 where there is one group alone.
        confidence: float32 [N], the probability of the group; 1 where a user has said it.
        lead: float32 [N], by how much it leads over the next one, negative where it does not.
        mark: uint8 [N]: 0, LABELLED, MARKED_UNSURE or MARKED_NONE.
    """

    group: np.ndarray
    second: np.ndarray
    confidence: np.ndarray
    lead: np.ndarray
    mark: np.ndarray

    def packed(self, distance: np.ndarray | None) -> bytes:
        """All of it as bytes, little-endian, with the distance float32 [N] after `lead`.

        The order is that of the attributes; without a distance there are zeros.
        """
        far = np.zeros(len(self.group)) if distance is None else distance
        parts = [
            *(self.group.astype("<i4"), self.second.astype("<i4")),
            *(self.confidence.astype("<f4"), self.lead.astype("<f4"), far.astype("<f4")),
            self.mark.astype("u1"),
        ]
        return b"".join(part.tobytes() for part in parts)


def find(state: State, probs: np.ndarray, columns: np.ndarray) -> Findings:
    """What is to be shown of the images.

    Args:
        state: the corrections.
        probs: float32 [N,C] of the classifier.
        columns: int32 [C], the group of each of its clusters.
    """
    groups = np.array(state.groups)
    place = np.full(groups.max() + 1, 0)
    place[groups] = np.arange(len(groups))
    mass = np.zeros((len(probs), len(groups)), np.float32)
    for column, group in enumerate(state.resolved(columns).tolist()):
        mass[:, place[group]] += probs[:, column]
    predicted = columns[probs.argmax(axis=1)].astype(np.int32)
    shown, rows = state.shown(predicted), np.arange(len(probs))
    # A group that a split has made has no probability of its own yet, but what it came from has.
    said = place[np.where(state.soft >= 0, state.resolved(predicted), shown)]
    confidence = mass[rows, said].copy()
    mass[rows, said] = mass[rows, place[shown]] = -1
    second = groups[mass.argmax(axis=1)] if len(groups) > 1 else np.full(len(probs), -1)
    lead = confidence - np.maximum(mass.max(axis=1), 0)
    labelled = state.labels >= 0
    confidence[labelled], lead[labelled] = 1, 1
    mark = np.zeros(len(probs), np.uint8)
    mark[labelled] = LABELLED
    mark[state.labels == UNSURE] = MARKED_UNSURE
    mark[state.labels == NONE] = MARKED_NONE
    return Findings(shown, second.astype(np.int32), confidence, lead, mark)


def near(rows_of: np.ndarray, wanted: list[int], count: int) -> tuple[np.ndarray, np.ndarray]:
    """The images that are most like some, the best first; an exact search.

    Args:
        rows_of: float32 [N,D], unit rows.
        wanted: numbers of images; what is looked for is their mean direction.
        count: at most so many, the wanted ones among them.

    Returns:
        rows int64 [n] and their cosines float32 [n].
    """
    target = unit(rows_of[wanted].mean(axis=0, keepdims=True))[0]
    cosine = rows_of @ target
    count = min(count, len(cosine))
    best = np.argpartition(-cosine, count - 1)[:count]
    best = best[np.argsort(-cosine[best], kind="stable")]
    return best, cosine[best]


def halves(features: np.ndarray) -> np.ndarray:
    """The smaller one of two halves by k-means, bool [n], of unit rows float32 [n,D], n at least 2.

    Where k-means finds one half alone, because all rows are equal, it is the second half.
    """
    from sklearn.cluster import KMeans

    some = np.random.default_rng(0).permutation(len(features))[:_MOST_SPLIT]
    if (features[some] == features[some[0]]).all():
        return np.arange(len(features)) >= len(features) // 2
    model = KMeans(2, n_init=_RESTARTS, random_state=0).fit(features[some])
    second = model.predict(features).astype(bool)
    return second if second.sum() * 2 <= len(second) else ~second
