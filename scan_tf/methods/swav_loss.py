"""The objective of SwAV, as pure functions: float32 scalars, compiled by XLA as they stand."""

from __future__ import annotations

from collections.abc import Sequence

from scan_tf.lazy import tf
from scan_tf.methods.losses import check_temperature


def swav_loss(
    views: Sequence[tf.Tensor],
    prototypes: tf.Tensor,
    *,
    others: Sequence[tf.Tensor] = (),
    temperature: float = 0.1,
    epsilon: float = 0.05,
    steps: int = 3,
) -> tf.Tensor:
    """Tell from every view what another one is assigned to (SwAV, equation 2).

    Args:
        views: V times [B,P] of any length, which are assigned and tell of each other.
        prototypes: [C,P], unit rows.
        others: more views [B,P], which only tell (multi-crop, section 3.2).
        temperature: tau, divides the cosines that tell.
        epsilon: divides the cosines that are assigned.
        steps: rounds of `swav_codes`.

    Returns:
        Mean cross-entropy over the pairs of an assigned view and another one, scalar f32.

    Raises:
        ValueError: a temperature or epsilon that is not positive.
    """
    check_temperature(temperature)
    check_temperature(epsilon, "epsilon")
    rows = [tf.math.l2_normalize(tf.cast(x, tf.float32), axis=-1) for x in (*views, *others)]
    scores = [tf.matmul(x, tf.cast(prototypes, tf.float32), transpose_b=True) for x in rows]
    losses = []
    for assigned in range(len(views)):
        codes = swav_codes(scores[assigned], epsilon, steps)
        for telling in (s for i, s in enumerate(scores) if i != assigned):
            losses.append(
                tf.nn.softmax_cross_entropy_with_logits(labels=codes, logits=telling / temperature)
            )
    return tf.reduce_mean(tf.stack(losses))


def swav_codes(scores: tf.Tensor, epsilon: float = 0.05, steps: int = 3) -> tf.Tensor:
    """Assign images to prototypes so that all are used alike (Sinkhorn and Knopp; section 3.1).

    Args:
        scores: [B,C], cosines with the prototypes.
        epsilon: divides them; the smaller, the harder the assignment.
        steps: rounds of evening out prototypes, then images.

    Returns:
        f32 [B,C], rows that sum to 1, without gradient.
    """
    scaled = tf.stop_gradient(tf.cast(scores, tf.float32)) / epsilon
    codes = tf.exp(scaled - tf.reduce_max(scaled))  # a common factor changes nothing
    for _ in range(steps):
        codes = tf.math.divide_no_nan(codes, tf.reduce_sum(codes, 0, keepdims=True))
        codes = tf.math.divide_no_nan(codes, tf.reduce_sum(codes, 1, keepdims=True))
    return codes
