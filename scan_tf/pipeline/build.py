"""The networks of a run: new ones as the config says, and those that a stage ended with."""

from __future__ import annotations

from scan_tf.methods import catalog
from scan_tf.methods.task import Clustering, Pretext, SelfLabel
from scan_tf.models import backbone
from scan_tf.models.backbone import Backbone
from scan_tf.models.heads import ClusterHeads, new_heads
from scan_tf.models.weights import load_weights
from scan_tf.pipeline.run_dir import Run


def new_backbone(work: Run) -> Backbone:
    """The backbone of the config, with initial weights."""
    images = work.train_images
    return backbone.build(
        work.config.model,
        dtype=work.device.dtype,
        image_size=images.image_size,
        mean=images.mean,
        std=images.std,
    )


def new_pretext(work: Run) -> Pretext:
    """The pretext task of the config over a new backbone."""
    config = work.config
    return catalog.method_class("pretext", config.pretext.name)(
        config.pretext,
        new_backbone(work),
        projection_dim=config.model.projection_dim,
        num_images=len(work.pretext_images),
    )


def trained_pretext(work: Run) -> Pretext:
    """The pretext task with the weights that its stage ended with."""
    task = new_pretext(work)
    load_weights(work.folder("pretext") / "weights.npz", task.networks)
    return task


def trained_clusters(work: Run, stage: str) -> tuple[Backbone, ClusterHeads]:
    """Backbone and the one cluster head that `scan` or `selflabel` ended with."""
    network = new_backbone(work)
    heads = new_heads(network, 1, work.num_clusters)
    load_weights(work.folder(stage) / "weights.npz", {"backbone": network, "heads": heads})
    return network, heads


def new_clustering(
    work: Run, network: Backbone, heads: ClusterHeads, *, cached: bool = False
) -> Clustering:
    """The task of the scan stage."""
    config = work.config.scan
    return catalog.method_class("clustering", config.name)(config, network, heads, cached=cached)


def new_selflabel(work: Run, network: Backbone, heads: ClusterHeads) -> SelfLabel:
    """The task of the last stage."""
    config = work.config.selflabel
    return catalog.method_class("selflabel", config.name)(config, network, heads)
