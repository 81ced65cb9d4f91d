"""A classifier that somebody has corrected: `corrected/head.npz` of the run directory.

It is a linear head on the features of the last clustering, fitted with what somebody has said of
some images, and takes the place of that clustering in all that leaves the run. It says of which
weights it is: when an earlier stage is made anew, it is left out, with a warning. The stages stay
as they are; without the folder they hold again.
"""

from __future__ import annotations

import dataclasses
import logging

import numpy as np

from scan_tf.evaluation.assignments import Clustering
from scan_tf.pipeline import seen_images
from scan_tf.pipeline.run_dir import Run
from scan_tf.storage import files, writing

FOLDER, FILE = "corrected", "head.npz"
# Its key in the report, and what tables call it.
NAME, LABEL = "corrected", "corrected"
# In place of a cluster: the image is none of the kinds.
NONE = -1
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class Corrected:
    """A corrected classifier.

    Attributes:
        kernel: float32 [D,C]; logits are features @ kernel + bias.
        bias: float32 [C].
        groups: the numbers that the explorer knows the C clusters by.
        split: of the images that something was said of.
        rows: int64 [M], their numbers in the split.
        clusters: int64 [M], the cluster that each is said to be of, or NONE.
        below: the confidence below which an image is none of the kinds, and how it was chosen;
            None: chosen as for any clustering.
        facts: what else is to be remembered of how it was made, JSON-able.
        digest: SHA-256 of the file; "" before it is stored.
    """

    kernel: np.ndarray
    bias: np.ndarray
    groups: tuple[int, ...]
    split: str
    rows: np.ndarray
    clusters: np.ndarray
    below: tuple[float, str] | None
    facts: dict[str, int]
    digest: str = ""

    def probs(self, features: np.ndarray, said: bool) -> np.ndarray:
        """Cluster probabilities float32 [N,C] of features float32 [N,D].

        Args:
            features: of the backbone of the last clustering.
            said: they are those of the images that something was said of, which counts: the cluster
                that an image is said to be of is certain, and one that is none has no cluster that
                is more probable than the others by more than a hair.
        """
        logits = features @ self.kernel + self.bias
        probs = np.exp(logits - logits.max(axis=1, keepdims=True))
        probs = (probs / probs.sum(axis=1, keepdims=True)).astype(np.float32)
        if said:
            best, count = probs[self.rows].argmax(axis=1), probs.shape[1]
            is_none = self.clusters == NONE
            eye = np.eye(count, dtype=np.float32)
            level = (eye[best] * 1e-3 + 1) / (count + 1e-3)
            certain = eye[np.where(is_none, 0, self.clusters)]
            probs[self.rows] = np.where(is_none[:, None], level, certain).astype(np.float32)
        return probs


def own_weights(run: Run) -> dict[str, str]:
    """The last stage that clustered, and the SHA-256 of its weights."""
    stage = run.clusterings()[-1]
    return {"stage": stage, "sha256": files.sha256(run.folder(stage) / "weights.npz")}


def load(run: Run, *, warn: bool = False) -> Corrected | None:
    """The corrected classifier of a run; None where there is none, or it is of other weights.

    Args:
        run: the run.
        warn: say so where it is of other weights.

    Raises:
        StageError: it is damaged, or nothing was clustered.
    """
    path = run.root / FOLDER / FILE
    if not path.exists():
        return None
    way = f"Take it from a copy, or take it away: scan-tf explore {run.root} --discard"
    arrays, manifest = files.read_npz(path, way=way)
    if manifest["of"] != own_weights(run):
        if warn:
            _log.warning(
                "%s: left out: the corrections were made to the clusters of other weights. "
                "To take it away: scan-tf explore %s --discard",
                *(path, run.root),
            )
        return None
    below = manifest["below"]
    return Corrected(
        kernel=arrays["kernel"],
        bias=arrays["bias"],
        groups=tuple(manifest["groups"]),
        split=manifest["split"],
        rows=arrays["rows"],
        clusters=arrays["clusters"],
        below=None if below is None else (float(below[0]), str(below[1])),
        facts=dict(manifest["facts"]),
        digest=files.sha256(path),
    )


def store(run: Run, found: Corrected) -> None:
    """Have a corrected classifier take the place of the last clustering."""
    arrays = {name: getattr(found, name) for name in ("kernel", "bias", "rows", "clusters")}
    manifest = {
        "of": own_weights(run),
        "groups": list(found.groups),
        "split": found.split,
        "images": images_digest(run, found.split),
        "below": found.below,
        "facts": found.facts,
    }
    files.write_npz(run.root / FOLDER / FILE, arrays, manifest)


def remove(run: Run) -> None:
    """Have the last clustering stand for itself again."""
    writing.remove(run.root / FOLDER)


def clustering(found: Corrected, split: str, features: np.ndarray) -> Clustering:
    """What a corrected classifier makes of the images of a split.

    Args:
        found: the classifier.
        split: whose features they are.
        features: float32 [N,D] of the backbone of the last clustering.
    """
    said = split == found.split and (len(found.rows) == 0 or found.rows.max() < len(features))
    probs = found.probs(features, said)
    return Clustering(NAME, LABEL, probs, features, dict(found.facts))


def images_digest(run: Run, split: str) -> str | None:
    """A digest of the images of a split as the run has seen them; None where it has not."""
    known = seen_images.known(run.root).get(split)
    return None if known is None else seen_images.digest(known)
