"""The objectives of the pretexts beside NT-Xent, as pure functions.

As in `losses`: tensors in, float32 scalars out, computed in float32 whatever comes in, compiled
by XLA as they stand. Row i of two views is of the same image.
"""

from __future__ import annotations

from scan_tf.lazy import tf
from scan_tf.methods.losses import check_temperature, check_unit_rows

# Added to the probabilities of noise contrastive estimation (Wu et al., official code).
_NCE_EPSILON = 1e-7
# Of BatchNorm, as everywhere here.
_BATCH_NORM_EPSILON = 1e-5
# Added to a variance before its root (VICReg, official code).
_VARIANCE_EPSILON = 1e-4


def dcl(
    a: tf.Tensor,
    b: tf.Tensor,
    temperature: float = 0.1,
    *,
    symmetric: bool = True,
    sigma: float | None = None,
) -> tf.Tensor:
    """Decoupled contrastive loss (Yeh et al., ECCV 2022, section 3): only negatives repel.

    NT-Xent without the positive in its denominator: -<a, b>/T + log of the sum of exp(./T) over
    the 2B - 2 vectors of other images.

    Args:
        a: first views [B,P], unit rows, B at least 2.
        b: second views [B,P], unit rows.
        temperature: T, divides the cosines.
        symmetric: all 2B vectors are anchors; False: only those of `a` are.
        sigma: weight the attraction of image i by 2 - B exp(<a_i, b_i>/sigma) / (the sum of that
            over the batch), so that dissimilar pairs count more (official code: 0.5); None: by 1.

    Returns:
        The mean over the anchors, scalar f32, which may be negative; log(2B - 2) where all
        vectors are equal.

    Raises:
        ValueError: no two rows, a temperature or sigma that is not positive, or (eagerly) a row
            that is not of length 1.
    """
    check_temperature(temperature)
    check_unit_rows(a=a, b=b)
    a, b = _views(a, b)
    pull = tf.reduce_sum(a * b, -1) / temperature
    if sigma is not None:
        check_temperature(sigma, "sigma")
        shares = tf.nn.softmax(pull * (temperature / sigma))
        pull *= tf.stop_gradient(2.0 - tf.cast(tf.shape(a)[0], tf.float32) * shares)
    loss = _repulsion(a, b, temperature) - pull
    if symmetric:
        loss = (loss + _repulsion(b, a, temperature) - pull) / 2
    return tf.reduce_mean(loss)


def _repulsion(anchors: tf.Tensor, others: tf.Tensor, temperature: float) -> tf.Tensor:
    """Log of the summed exp of the similarities to all vectors of other images, f32 [B]."""
    logits = tf.matmul(anchors, tf.concat([anchors, others], 0), transpose_b=True) / temperature
    same_image = tf.tile(tf.eye(tf.shape(anchors)[0]), [1, 2])
    return tf.reduce_logsumexp(tf.where(same_image > 0, logits.dtype.min, logits), -1)


def instance_softmax(
    rows: tf.Tensor, bank: tf.Tensor, index: tf.Tensor, temperature: float = 0.1
) -> tf.Tensor:
    """Cross-entropy of recognising each image among all N (Wu et al., CVPR 2018, equation 2).

    Args:
        rows: [B,P], unit rows.
        bank: [N,P], what is remembered of every image; no gradient goes through it.
        index: int [B], the images' places in the bank.
        temperature: divides the similarities.

    Raises:
        ValueError: the temperature is not positive, or (eagerly) a row is not of length 1.
    """
    check_temperature(temperature)
    check_unit_rows(rows=rows)
    bank = tf.stop_gradient(tf.cast(bank, tf.float32))
    logits = tf.matmul(tf.cast(rows, tf.float32), bank, transpose_b=True) / temperature
    return tf.reduce_mean(
        tf.nn.sparse_softmax_cross_entropy_with_logits(labels=index, logits=logits)
    )


def instance_nce(
    rows: tf.Tensor,
    remembered: tf.Tensor,
    normalizer: tf.Tensor | float,
    num_images: int,
    temperature: float = 0.1,
) -> tf.Tensor:
    """Noise contrastive estimation of `instance_softmax` (Wu et al., section 3.2).

    With P = exp(<v, m>/T) / Z and c = K/N, an image's loss is
    -log(P/(P + c)) of its own row less the sum of log(c/(P + c)) over K rows drawn uniformly.

    Args:
        rows: v, [B,P], unit rows.
        remembered: m, [B,K+1,P], rows of the bank: column 0 the image's own; no gradient.
        normalizer: Z, scalar, as `nce_normalizer` estimates it.
        num_images: N.
        temperature: T.

    Returns:
        The mean over the batch, scalar f32.

    Raises:
        ValueError: the temperature is not positive, or (eagerly) a row is not of length 1.
    """
    check_unit_rows(rows=rows)
    table = tf.exp(_instance_logits(rows, remembered, temperature)) / normalizer
    noise = (remembered.shape[1] - 1) / num_images
    bounded = table + noise + _NCE_EPSILON
    own = tf.math.log(table[:, 0] / bounded[:, 0])
    drawn = tf.reduce_sum(tf.math.log(noise / bounded[:, 1:]), -1)
    return -tf.reduce_mean(own + drawn)


def nce_normalizer(
    rows: tf.Tensor, remembered: tf.Tensor, num_images: int, temperature: float = 0.1
) -> tf.Tensor:
    """Z = N * mean exp(<v, m>/T) over a whole batch, f32 scalar (Wu et al., section 3.2).

    Estimated once, from the first batch, and a constant from then on; arguments as for
    `instance_nce`, the mean takes in column 0.
    """
    table = tf.exp(_instance_logits(rows, remembered, temperature))
    return tf.stop_gradient(num_images * tf.reduce_mean(table))


def _instance_logits(rows: tf.Tensor, remembered: tf.Tensor, temperature: float) -> tf.Tensor:
    check_temperature(temperature)
    remembered = tf.stop_gradient(tf.cast(remembered, tf.float32))
    return tf.einsum("bp,bkp->bk", tf.cast(rows, tf.float32), remembered) / temperature


def byol_loss(predictions: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Mean of 2 - 2 cos (BYOL, equation 2), scalar f32 in 0..4, about 2 at random.

    Args:
        predictions: [B,P] of one view by the online network; any length.
        targets: [B,P] of the other view by the target network; no gradient goes through them.
    """
    return 2.0 - 2.0 * _cosine(predictions, targets)


def simsiam_loss(
    predictions_a: tf.Tensor,
    projections_a: tf.Tensor,
    predictions_b: tf.Tensor,
    projections_b: tf.Tensor,
) -> tf.Tensor:
    """-(cos(p_a, z_b) + cos(p_b, z_a)) / 2 (SimSiam, equation 4), scalar f32 in -1..1.

    All [B,P] of any length; no gradient goes through the projections.
    """
    both = _cosine(predictions_a, projections_b) + _cosine(predictions_b, projections_a)
    return -both / 2


def _cosine(moving: tf.Tensor, fixed: tf.Tensor) -> tf.Tensor:
    """Mean cosine of the rows; no gradient through `fixed`."""
    moving, fixed = tf.cast(moving, tf.float32), tf.stop_gradient(tf.cast(fixed, tf.float32))
    rows = (tf.math.l2_normalize(x, axis=-1) for x in (moving, fixed))
    return tf.reduce_mean(tf.reduce_sum(tf.multiply(*rows), -1))


def barlow_twins_loss(
    a: tf.Tensor, b: tf.Tensor, redundancy_weight: float = 0.0051
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Make the cross-correlation of two views the identity (Barlow Twins, equation 1).

    Args:
        a: first views [B,P], B at least 2; standardised here, by the batch.
        b: second views [B,P].
        redundancy_weight: lambda (official code: 0.0051).

    Returns:
        (total, invariance, redundancy), f32 scalars: the sum of (1 - C_ii)^2, that of C_ij^2 for
        i != j, and total = invariance + lambda * redundancy. About P at the start.

    Raises:
        ValueError: the views differ in shape, or have less than two rows.
    """
    a, b = (_standardise(x) for x in _views(a, b))
    correlation = tf.matmul(a, b, transpose_a=True) / tf.cast(tf.shape(a)[0], tf.float32)
    invariance = tf.reduce_sum((1.0 - tf.linalg.diag_part(correlation)) ** 2)
    redundancy = _off_diagonal(correlation)
    return invariance + redundancy_weight * redundancy, invariance, redundancy


def vicreg_loss(
    a: tf.Tensor,
    b: tf.Tensor,
    *,
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Invariance, variance and covariance of two views (VICReg, equations 1 to 6).

    Args:
        a: first views [B,P], B at least 2, as they leave the network.
        b: second views [B,P].
        invariance_weight: of the mean squared difference of the views.
        variance_weight: of the mean over both views of max(0, 1 - standard deviation).
        covariance_weight: of the sum over both views of the squared covariances, over P.

    Returns:
        (total, invariance, variance, covariance), f32 scalars; only the total is weighted.

    Raises:
        ValueError: the views differ in shape, or have less than two rows.
    """
    a, b = _views(a, b)
    invariance = tf.reduce_mean((a - b) ** 2)
    dims = tf.cast(tf.shape(a)[1], tf.float32)
    variance = covariance = tf.constant(0.0)
    for view in (a, b):
        centred = view - tf.reduce_mean(view, 0)
        spread = tf.matmul(centred, centred, transpose_a=True)
        spread /= tf.cast(tf.shape(a)[0], tf.float32) - 1.0
        deviation = tf.sqrt(tf.linalg.diag_part(spread) + _VARIANCE_EPSILON)
        variance += tf.reduce_mean(tf.nn.relu(1.0 - deviation)) / 2
        covariance += _off_diagonal(spread) / dims
    weighted = (
        invariance_weight * invariance,
        variance_weight * variance,
        covariance_weight * covariance,
    )
    return tf.add_n(weighted), invariance, variance, covariance


def spread(rows: tf.Tensor) -> tf.Tensor:
    """How far from collapse rows [B,P] are: 1 where they fill the sphere evenly, 0 where all agree.

    The standard deviation of each dimension of the rows at length 1, times sqrt(P), on average
    (SimSiam, section 4.1). Scalar f32; an alarm to log, without gradient.
    """
    rows = tf.math.l2_normalize(tf.stop_gradient(tf.cast(rows, tf.float32)), axis=-1)
    deviations = tf.math.reduce_std(rows, axis=0)
    return tf.reduce_mean(deviations) * tf.sqrt(tf.cast(tf.shape(rows)[1], tf.float32))


def _views(a: tf.Tensor, b: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Both as float32; refuses views whose batch statistics would not exist."""
    a, b = tf.cast(a, tf.float32), tf.cast(b, tf.float32)
    same = a.shape.rank == b.shape.rank == 2 and a.shape.is_compatible_with(b.shape)
    if not same or (a.shape[0] or 2) < 2:
        raise ValueError(
            "`a` and `b` should have the same shape [B,P] with B of 2 or more. "
            f"Received: a.shape={a.shape}, b.shape={b.shape}"
        )
    return a, b


def _standardise(x: tf.Tensor) -> tf.Tensor:
    """BatchNorm by the batch, without scale and offset; the variance is the biased one."""
    mean, variance = tf.nn.moments(x, [0])
    return (x - mean) * tf.math.rsqrt(variance + _BATCH_NORM_EPSILON)


def _off_diagonal(matrix: tf.Tensor) -> tf.Tensor:
    """Sum of the squares beside the diagonal, which would round them away."""
    return tf.reduce_sum(tf.linalg.set_diag(matrix, tf.zeros(tf.shape(matrix)[0])) ** 2)
