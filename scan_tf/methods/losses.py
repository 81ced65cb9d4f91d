"""The objectives, as pure functions: tensors in, float32 scalars out, no state and no variables.

Everything is computed in float32, whatever comes in: the logarithm of a bfloat16 probability
destroys these losses. All of them compile under XLA.
"""

from __future__ import annotations

from scan_tf.lazy import tf

# Binary cross-entropy in the official configuration bounds its logarithm here.
_LOG_FLOOR = -100.0
# Lower bound of a mean probability in the entropy (official configuration).
_PROB_FLOOR = 1e-8
# How far from 1 the length of a unit row may be; bfloat16 rounds it by up to 0.004.
_UNIT_TOLERANCE = 0.01


def check_temperature(temperature: float, name: str = "temperature") -> None:
    """Raise ValueError unless what similarities are divided by is positive."""
    if not temperature > 0:
        raise ValueError(f"`{name}` should be greater than 0. Received: {name}={temperature}")


def check_unit_rows(**rows: tf.Tensor) -> None:
    """Raise ValueError where a row [...,P] is not of length 1; in a graph nothing is checked."""
    if not tf.executing_eagerly():
        return
    for name, values in rows.items():
        length = tf.norm(tf.cast(values, tf.float32), axis=-1)
        furthest = float(tf.reduce_max(tf.abs(length - 1)))
        if furthest > _UNIT_TOLERANCE:
            raise ValueError(
                f"`{name}` should have rows of length 1. Received: one that is off by "
                f"{furthest:.3g}. Divide the rows by their length first."
            )


def nt_xent(
    a: tf.Tensor, b: tf.Tensor, temperature: float = 0.1, symmetric: bool = False
) -> tf.Tensor:
    """Normalised-temperature cross-entropy between two views (SimCLR, equation 1).

    Each anchor is to find its other view among the 2B - 1 vectors that are not itself.

    Args:
        a: first views [B,P], unit rows; row i of `a` and `b` are of the same image.
        b: second views [B,P], unit rows.
        temperature: divides the cosines (official configuration: 0.1).
        symmetric: True, the paper: all 2B vectors are anchors; False, the official code: only
            those of `a` are.

    Returns:
        The mean over the anchors, scalar f32; log(2B - 1) where all vectors are equal.

    Raises:
        ValueError: the temperature is not positive, or (eagerly) a row is not of length 1.
    """
    check_temperature(temperature)
    check_unit_rows(a=a, b=b)
    a, b = tf.cast(a, tf.float32), tf.cast(b, tf.float32)
    both = tf.concat([a, b], 0)
    anchors, positives = (both, tf.concat([b, a], 0)) if symmetric else (a, b)
    logits = tf.matmul(anchors, both, transpose_b=True) / temperature
    itself = tf.eye(tf.shape(anchors)[0], tf.shape(both)[0])
    logits = tf.where(itself > 0, logits.dtype.min, logits)
    positive = tf.reduce_sum(anchors * positives, -1) / temperature
    return tf.reduce_mean(tf.reduce_logsumexp(logits, -1) - positive)


def rotation_cross_entropy(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Mean cross-entropy of the four rotations (Gidaris et al., 2018, equation 2).

    Args:
        logits: [4B,4].
        labels: int [4B] in 0..3, the number of quarter turns.
    """
    logits = tf.cast(logits, tf.float32)
    return tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    )


def entropy(probs: tf.Tensor) -> tf.Tensor:
    """Entropy in nats, f32 [...], of distributions [...,C]; each probability is at least 1e-8."""
    probs = tf.maximum(tf.cast(probs, tf.float32), _PROB_FLOOR)
    return -tf.reduce_sum(probs * tf.math.log(probs), -1)


def scan_loss(
    anchor_logits: tf.Tensor, neighbor_logits: tf.Tensor, entropy_weight: float = 5.0
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The SCAN clustering objective (SCAN, equation 2).

    consistency = mean over the batch of -log <p, q>, for p and q the softmax of an anchor and of
    its neighbour; the logarithm is at least -100. entropy = that of the batch mean of p.

    Args:
        anchor_logits: [B,C], or [H,B,C] for H heads at once.
        neighbor_logits: the same shape.
        entropy_weight: lambda (5 in every published configuration).

    Returns:
        (total, consistency, entropy), f32 scalars or [H]; total = consistency - lambda * entropy.
    """
    log_p = tf.nn.log_softmax(tf.cast(anchor_logits, tf.float32))
    log_q = tf.nn.log_softmax(tf.cast(neighbor_logits, tf.float32))
    # log <p, q> without leaving the logarithms: the product underflows below e-87, and then the
    # gradient of its logarithm is not finite.
    log_agreement = tf.maximum(tf.reduce_logsumexp(log_p + log_q, -1), _LOG_FLOOR)
    consistency = -tf.reduce_mean(log_agreement, -1)
    spread = entropy(tf.reduce_mean(tf.exp(log_p), -2))
    return consistency - entropy_weight * spread, consistency, spread


def temi_loss(
    students: tuple[tf.Tensor, tf.Tensor],
    teachers: tuple[tf.Tensor, tf.Tensor],
    prior: tf.Tensor,
    beta: float = 0.6,
    momentum: float = 0.9,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Weighted pointwise mutual information of an image and a neighbour (TEMI, BMVC 2023).

    For s and t the softmax of a student's and of its teacher's logits, and pi the prior of the
    teacher's clusters: l(s, t) = -ln sum_c (s_c t_c)^beta / pi_c, in both cross directions. A pair
    counts by <t_1, t_2>, averaged over the heads, so that likely false neighbours count little.

    Args:
        students: logits of the images and of their neighbours, two of [H,B,C], divided by the
            temperature (0.1 in the paper).
        teachers: the same of the teacher; no gradient goes through them.
        prior: f32 [H,C], running mean of the teacher's probabilities; 1/C at the start.
        beta: in (0, 1]; below 1 the optimum is no longer one cluster each for few images.
        momentum: of the prior, which takes this batch in before it is used.

    Returns:
        The loss of each head, f32 [H], which may be negative, and the new prior, f32 [H,C].
    """
    log_s = [tf.nn.log_softmax(tf.cast(x, tf.float32)) for x in students]
    log_t = [tf.stop_gradient(tf.nn.log_softmax(tf.cast(x, tf.float32))) for x in teachers]
    batch = tf.add_n([tf.reduce_mean(tf.exp(x), -2) for x in log_t]) / 2
    prior = momentum * prior + (1 - momentum) * batch
    log_prior = tf.math.log(tf.maximum(prior, _PROB_FLOOR))[:, None]
    agreement = tf.add_n(
        [
            tf.reduce_logsumexp(beta * (s + t) - log_prior, -1)
            for s, t in zip(log_s, reversed(log_t), strict=True)
        ]
    )
    weights = tf.reduce_mean(tf.reduce_sum(tf.exp(log_t[0] + log_t[1]), -1), 0)
    return -tf.reduce_mean(weights * agreement, -1) / 2, prior


def confident_cross_entropy(
    weak_logits: tf.Tensor, strong_logits: tf.Tensor, threshold: float = 0.99, balanced: bool = True
) -> tuple[tf.Tensor, tf.Tensor]:
    """Self-labelling: learn the confident predictions on another view (SCAN, section 2.3).

    The target of an image is the argmax of its weak logits, if the softmax there exceeds the
    threshold; other images do not count.

    Args:
        weak_logits: [B,C]; no gradient goes through them.
        strong_logits: [B,C].
        threshold: confidence that must be exceeded (official configuration: 0.99).
        balanced: weight each class by the inverse of its share among the targets.

    Returns:
        (loss, num_confident), f32 scalars. Without a confident image both are 0, and so is the
        gradient.
    """
    probs = tf.stop_gradient(tf.nn.softmax(tf.cast(weak_logits, tf.float32)))
    strong_logits = tf.cast(strong_logits, tf.float32)
    confident = tf.cast(tf.reduce_max(probs, -1) > threshold, tf.float32)
    targets = tf.one_hot(tf.argmax(probs, -1), tf.shape(probs)[-1])
    num_confident = tf.reduce_sum(confident)
    weights = confident
    if balanced:
        counts = tf.reduce_sum(targets * confident[:, None], 0)
        class_weights = tf.math.divide_no_nan(num_confident, counts)
        weights = confident * tf.linalg.matvec(targets, class_weights)
    losses = tf.nn.softmax_cross_entropy_with_logits(labels=targets, logits=strong_logits)
    loss = tf.math.divide_no_nan(tf.reduce_sum(weights * losses), tf.reduce_sum(weights))
    return loss, num_confident


def info_nce(
    queries: tf.Tensor, keys: tf.Tensor, queue: tf.Tensor, temperature: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Cross-entropy of finding the key of each query among it and the queue.

    Args:
        queries: float32 `[B, P]`, unit rows.
        keys: float32 `[B, P]`, unit rows, the other view of the same images.
        queue: float32 `[Q, P]`, unit rows, of other images.
        temperature: divides the similarities.

    Returns:
        The loss, float32 scalar, and the mean similarity of queries and their keys.

    Raises:
        ValueError: the temperature is not positive, or (eagerly) a row is not of length 1.
    """
    check_temperature(temperature)
    check_unit_rows(queries=queries, keys=keys, queue=queue)
    queries, keys, queue = (tf.cast(x, tf.float32) for x in (queries, keys, queue))
    positive = tf.reduce_sum(queries * keys, axis=-1, keepdims=True)
    negative = tf.matmul(queries, queue, transpose_b=True)
    logits = tf.concat([positive, negative], axis=-1) / temperature
    loss = tf.reduce_logsumexp(logits, axis=-1) - logits[:, 0]
    return tf.reduce_mean(loss), tf.reduce_mean(positive)
