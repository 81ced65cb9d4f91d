"""How far the confidence of a finished clustering is to be taken at its word, without labels.

Neighbours by the pretext's features are mostly of one class, so that the probability of a cluster
should be how often a neighbour is in it. The temperature that makes it so is found on images that
SCAN has not learnt from, where there are any, and is applied to whatever leaves the run: scores,
predictions, the SavedModel. The weights of the stage stay as they were trained.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from scan_tf.evaluation import calibration


class Calibrated(TypedDict):
    """What was found, for the record of a stage.

    `agreement_ece` is the expected calibration error of the confidence as the probability that a
    neighbour is in the same cluster, 0..1, before and after.
    """

    temperature: float
    agreement_ece: float
    agreement_ece_calibrated: float


def of_clustering(
    probs: np.ndarray, mined: np.ndarray, held_out: np.ndarray, *, k: int
) -> Calibrated:
    """Find the temperature.

    Args:
        probs: float32 [N,C] of all training images.
        mined: int [N,K+1], neighbours among all of them, column 0 the image itself.
        held_out: bool [N], the images to look at; none: all.
        k: how many of the nearest neighbours.
    """
    looked_at = held_out if held_out.any() else np.ones(len(probs), bool)
    near = mined[looked_at, 1 : k + 1]
    clusters = probs.argmax(axis=1)
    found = calibration.temperature(probs[looked_at], clusters[near])

    def error(of: np.ndarray) -> float:
        same = clusters[near] == clusters[looked_at, None]
        confidence = np.repeat(of[looked_at].max(axis=1), near.shape[1])
        return float(calibration.calibration(confidence, same.ravel())["ece"])

    before, after = error(probs), error(calibration.tempered(probs, found))
    print(
        f"  the confidence is off from the agreement of neighbours by {before:.3f}; at temperature "
        f"{found:.2f} by {after:.3f}"
    )
    return {
        "temperature": found,
        "agreement_ece": before,
        "agreement_ece_calibrated": after,
    }
