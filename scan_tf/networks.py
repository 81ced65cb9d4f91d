"""The networks of a run: new ones as the config says, and those that a stage ended with."""

from __future__ import annotations

import tensorflow as tf

from scan_tf import backbones, checkpoint, pretext
from scan_tf.backbones import ResNet
from scan_tf.heads import ClusterHeads
from scan_tf.runs import Run
from scan_tf.task import Pretext


def new_backbone(work: Run) -> ResNet:
    """The backbone of the config, with initial weights."""
    size = work.train_images.image_size
    return backbones.build(work.config.model, dtype=work.device.dtype, image_size=size)


def new_heads(backbone: ResNet, num_heads: int, num_clusters: int) -> ClusterHeads:
    """H cluster heads for a backbone, with initial weights."""
    heads = ClusterHeads(num_heads, num_clusters)
    heads(tf.zeros([1, backbone.feature_dim]))
    return heads


def new_pretext(work: Run) -> Pretext:
    """The pretext task of the config over a new backbone."""
    config = work.config
    return pretext.method_class(config.pretext.name)(
        config.pretext,
        new_backbone(work),
        projection_dim=config.model.projection_dim,
        num_images=len(work.pretext_images),
    )


def trained_pretext(work: Run) -> Pretext:
    """The pretext task with the weights that its stage ended with."""
    task = new_pretext(work)
    checkpoint.load_weights(work.folder("pretext") / "weights.npz", task.networks)
    return task


def trained_clusters(work: Run, stage: str) -> tuple[ResNet, ClusterHeads]:
    """Backbone and the one cluster head that `scan` or `selflabel` ended with."""
    backbone = new_backbone(work)
    heads = new_heads(backbone, 1, work.num_clusters)
    networks = {"backbone": backbone, "heads": heads}
    checkpoint.load_weights(work.folder(stage) / "weights.npz", networks)
    return backbone, heads
