"""A memory of every image of the set, for instance discrimination.

Source: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination",
CVPR 2018, section 3.
"""

from __future__ import annotations

from typing import Any

from scan_tf.lazy import tf
from scan_tf.methods.pretext_losses import instance_nce, instance_softmax, nce_normalizer


class MemoryBank:
    """One row for every image, and the loss of recognising an image by it among the others.

    The rows of a batch are compared with the bank as it was before them, and then move it by
    m <- norm(momentum * m + (1 - momentum) * v). Row i belongs to image i in the order of the
    data set, whatever the order of the batches.

    Args:
        num_images: N.
        dim: P.
        temperature: divides the similarities.
        momentum: how much of a row is kept when its image is seen again (section 3.1).
        negatives: K rows drawn uniformly for each image, by noise contrastive estimation; None:
            all N of them, by the softmax itself.

    Attributes:
        rows: float32 [N,P]; at first uniform in +-1/sqrt(P/3), of length 1 on average alone.
    """

    def __init__(
        self,
        num_images: int,
        dim: int,
        *,
        temperature: float,
        momentum: float,
        negatives: int | None,
    ):
        self.temperature, self.momentum, self.negatives = temperature, momentum, negatives
        bound = (dim / 3) ** -0.5
        rows = tf.random.uniform([num_images, dim], -bound, bound)
        self.rows = tf.Variable(rows, trainable=False, name="bank")
        self.variables: list[Any] = [self.rows]
        if negatives is not None:
            # Z; 0 until the first batch has given its estimate. Kept from then on, also on resume.
            self.normalizer = tf.Variable(0.0, trainable=False, name="normalizer")
            # Which rows are drawn follows from this number and from how often they were drawn.
            start = tf.random.uniform([], maxval=2**62, dtype=tf.int64)
            self.draws = tf.Variable(tf.stack([start, 0]), trainable=False, name="draws")
            self.variables += [self.normalizer, self.draws]

    def loss(
        self, rows: tf.Tensor, index: tf.Tensor
    ) -> tuple[tf.Tensor, dict[str, tf.Tensor], Any]:
        """The loss of unit rows f32 [B,P] of the images `index` int32 [B], and what to log.

        The third is for `after_update`.
        """
        num_images = self.rows.shape[0]
        own = tf.gather(self.rows, index)
        metrics = {"positive_similarity": tf.reduce_mean(tf.reduce_sum(rows * own, -1))}
        if self.negatives is None:
            loss = instance_softmax(rows, self.rows, index, self.temperature)
            return loss, metrics, (rows, own, None)
        shape = [index.shape[0], self.negatives]
        # Left to choose, XLA would draw other numbers.
        drawn = tf.random.stateless_uniform(
            shape, self.draws, maxval=num_images, dtype=tf.int32, alg="philox"
        )
        remembered = tf.gather(self.rows, tf.concat([index[:, None], drawn], 1))
        estimate = nce_normalizer(rows, remembered, num_images, self.temperature)
        normalizer = tf.where(self.normalizer > 0, self.normalizer, estimate)
        loss = instance_nce(rows, remembered, normalizer, num_images, self.temperature)
        return loss, {**metrics, "normalizer": normalizer}, (rows, own, normalizer)

    def after_update(self, index: tf.Tensor, seen: Any) -> None:
        """Move the rows of the images `index`; `seen`: what `loss` returned for them."""
        rows, own, normalizer = seen
        moved = self.momentum * own + (1.0 - self.momentum) * rows
        self.rows.scatter_update(tf.IndexedSlices(tf.math.l2_normalize(moved, axis=-1), index))
        if normalizer is not None:
            self.normalizer.assign(normalizer)
            self.draws.assign_add([0, 1])
