"""Networks that follow others slowly: MoCo's key encoder, BYOL's target network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from scan_tf.lazy import keras, tf


class MomentumEncoder:
    """Copies of networks, without gradient: w <- m w + (1 - m) w of the network (MoCo, equation 2).

    It runs in training mode, by the statistics of its own batches, of which it keeps averages of
    its own. The copies are float32 whatever the networks compute in: a step of 1 - m = 0.004 is
    lost in bfloat16.

    Args:
        networks: name -> network, in the order in which they are applied; all built.

    Attributes:
        copies: for each network its trainable and its other variables, as they are here.
    """

    def __init__(self, networks: Mapping[str, keras.Model]):
        self.networks = dict(networks)
        self.copies = {
            name: (_copies(network.trainable_variables), _copies(network.non_trainable_variables))
            for name, network in self.networks.items()
        }

    @property
    def variables(self) -> list[Any]:
        """All copies, in a fixed order, for checkpoints."""
        return [v for parts in self.copies.values() for part in parts for v in part]

    def __call__(self, images: tf.Tensor, groups: int = 1) -> tf.Tensor:
        """What the last network makes of `images`, float32 [B,P], without gradient."""
        x = images
        for name, (weights, statistics) in self.copies.items():
            x = grouped_call(self.networks[name], weights, statistics, x, groups)
        return tf.stop_gradient(x)

    def follow(self, momentum: tf.Tensor | float) -> None:
        """Move every weight towards that of the network; 1 leaves it where it is."""
        for name, (weights, _) in self.copies.items():
            for copy, weight in zip(weights, self.networks[name].trainable_variables, strict=True):
                copy.assign(weight + momentum * (copy - weight))


def grouped_call(
    network: keras.Model,
    weights: Sequence[Any],
    statistics: Sequence[Any],
    inputs: tf.Tensor,
    groups: int,
) -> tf.Tensor:
    """Call a network in training mode with variables of one's own, on groups of the batch apart.

    BatchNorm sees the rows of one group at a time, as on several devices; its running averages
    move as they would for one batch, to the mean over the groups.

    Args:
        network: what to call.
        weights: in place of its trainable variables; gradients reach them.
        statistics: in place of its other variables; assigned.
        inputs: [B,...], B a multiple of `groups`.
        groups: how many parts of the same size the batch is cut into, in its order.
    """
    outputs, after = zip(
        *(
            network.stateless_call(weights, statistics, part, training=True)
            for part in tf.split(inputs, groups)
        ),
        strict=True,
    )
    for variable, *values in zip(statistics, *after, strict=True):
        variable.assign(tf.add_n(values) / groups)
    return tf.concat(outputs, 0)


def _copies(variables: list[keras.Variable]) -> list[tf.Variable]:
    return [tf.Variable(v, trainable=False, name=f"momentum/{v.path}") for v in variables]
