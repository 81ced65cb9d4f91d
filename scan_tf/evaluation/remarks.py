"""What somebody who looks at a clustering should be warned of, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scan_tf.evaluation import abstention

# A mean confidence below this says that the clusters do not part the images clearly.
_UNSURE = 0.6
# A cluster this many times an equal share is large, and below one over it small.
_UNEQUAL = 3.0
# The mean over calibration bins that is worth a warning, 0..1.
_MISCALIBRATED = 0.1
# With fewer images than this per cluster hardly anything can be learned.
_FEW = 20


def of_heads(used: Sequence[int], best: int, num_clusters: int) -> list[str]:
    """What stands out of cluster heads, in sentences, the gravest first.

    Args:
        used: the number of clusters with images, of each head.
        best: the head that is kept.
        num_clusters: how many clusters each has.
    """
    found = []
    if used[best] == 1:
        found.append(
            "The head that is kept puts all images into one cluster: the clustering has collapsed. "
            "A larger scan.entropy_weight, a smaller scan.optimizer.lr or better features may help."
        )
    elif used[best] < num_clusters:
        empty = num_clusters - used[best]
        found.append(
            f"The head that is kept leaves {empty} of {num_clusters} clusters empty: there may be "
            "fewer kinds than clusters, or scan.entropy_weight is too small."
        )
    dead = sum(count == 1 for count in used)
    if dead and len(used) > 1:
        found.append(
            f"{dead} of {len(used)} heads put all images into one cluster, so that there were "
            f"{len(used) - dead} to choose from."
        )
    return found


def remarks(
    clusters: np.ndarray,
    confidence: np.ndarray,
    *,
    num_clusters: int,
    ece: float | None = None,
    skipped: int = 0,
    exact_duplicates: int = 0,
    backbone: Mapping[str, Any] | None = None,
    abstain: Mapping[str, Any] | None = None,
) -> list[str]:
    """Sentences, the gravest first; none where nothing stands out.

    Args:
        clusters: int [N] in 0..num_clusters-1.
        confidence: float [N] in 0..1.
        num_clusters: how many there are, empty ones included.
        ece: expected calibration error 0..1, where labels tell it.
        skipped: files that could not be read.
        exact_duplicates: images whose pixels are those of another one before them.
        backbone: where pretrained features come from: `name`, `trained`, and `labels`, whether
            human labels were used, None: not known.
        abstain: how many are none of the kinds, see `abstention.summary`; None: unknown.
    """
    count, found = len(clusters), []
    sizes = np.bincount(clusters, minlength=num_clusters)
    empty, equal, mean = int((sizes == 0).sum()), count / num_clusters, float(confidence.mean())
    used = num_clusters - empty
    if used == 1:
        found.append("All images are in one cluster: the clustering has collapsed.")
    elif empty:
        found.append(
            f"{empty} of {num_clusters} clusters {'has' if empty == 1 else 'have'} no images: "
            "there may be fewer kinds than clusters."
        )
    large, small = sizes > _UNEQUAL * equal, (sizes > 0) & (sizes < equal / _UNEQUAL)
    if used > 1 and (large.any() or small.any()):
        found.append(
            f"The clusters are of very unequal size, {sizes[sizes > 0].min():,} to "
            f"{sizes.max():,} images where equal shares would be {equal:,.0f}. The method is built "
            "for kinds that are about equally frequent; look at the borderline images of the "
            "largest and the smallest cluster. scan.entropy_weight=2 (with scan.name=scan) asks "
            "less for equal sizes."
        )
    if mean < _UNSURE:
        found.append(
            f"The assignments are unsure: the mean confidence is {mean:.2f}. Another number of "
            "clusters or a longer training may part the images more clearly."
        )
    if ece is not None and ece > _MISCALIBRATED:
        found.append(
            f"The confidence is not to be taken at its word: it is off by {100 * ece:.0f} "
            "percentage points on average (expected calibration error)."
        )
    if equal < _FEW:
        found.append(
            f"There are only {equal:.1f} images for each cluster; with fewer clusters each would "
            "rest on more."
        )
    if backbone is not None and backbone["labels"] is not False:
        found.append(
            f"The features are those of {backbone['name']} ({backbone['trained']}), so that this "
            "is no result of learning without labels."
            if backbone["labels"]
            else f"The features are those of {backbone['name']}; whether labels were used to train "
            "it is not known."
        )
    if exact_duplicates:
        is_one = exact_duplicates == 1
        found.append(
            f"{exact_duplicates:,} {'image is' if is_one else 'images are'} the same, pixel by "
            f"pixel, as {'another' if is_one else 'others'}."
        )
    if abstain is not None and abstain["unsure"] + abstain["unlike"]:
        found.append(f"None of these kinds: {abstention.sentence(abstain)}.")
    if skipped:
        files = "file" if skipped == 1 else "files"
        found.append(f"{skipped:,} {files} could not be read and took no part; they are listed.")
    return found
