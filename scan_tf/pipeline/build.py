"""The networks of a run: new ones as the config says, and those that a stage ended with."""

from __future__ import annotations

from scan_tf.methods import catalog
from scan_tf.methods.task import Pretext
from scan_tf.models import resnet
from scan_tf.models.heads import ClusterHeads, new_heads
from scan_tf.models.resnet import ResNet
from scan_tf.models.weights import load_weights
from scan_tf.pipeline.run_dir import Run


def new_backbone(run: Run) -> ResNet:
    """The backbone of the config, with initial weights."""
    size = run.train_images.image_size
    return resnet.build(run.config.model, dtype=run.device.dtype, image_size=size)


def new_pretext(run: Run) -> Pretext:
    """The pretext task of the config over a new backbone."""
    config = run.config
    return catalog.method_class(config.pretext.name)(
        config.pretext,
        new_backbone(run),
        projection_dim=config.model.projection_dim,
        num_images=len(run.pretext_images),
    )


def trained_pretext(run: Run) -> Pretext:
    """The pretext task with the weights that its stage ended with."""
    task = new_pretext(run)
    load_weights(run.folder("pretext") / "weights.npz", task.networks)
    return task


def trained_clusters(run: Run, stage: str) -> tuple[ResNet, ClusterHeads]:
    """Backbone and the one cluster head that `scan` or `selflabel` ended with."""
    backbone = new_backbone(run)
    heads = new_heads(backbone, 1, run.num_clusters)
    networks = {"backbone": backbone, "heads": heads}
    load_weights(run.folder(stage) / "weights.npz", networks)
    return backbone, heads
