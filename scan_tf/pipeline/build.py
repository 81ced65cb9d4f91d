"""The networks of a run: new ones as the config says, and those that a stage ended with."""

from __future__ import annotations

from typing import Any

from scan_tf.config import ScanConfig
from scan_tf.methods import catalog
from scan_tf.methods.task import Clustering, Pretext, SelfLabel
from scan_tf.models import backbone
from scan_tf.models.backbone import Backbone
from scan_tf.models.heads import ClusterHeads
from scan_tf.models.heads import new_heads as linear_heads
from scan_tf.models.weights import load_weights
from scan_tf.pipeline import corrected
from scan_tf.pipeline.run_dir import Run


def new_backbone(run: Run) -> Backbone:
    """The backbone of the config, with initial weights or, where the pretext brings it, its own."""
    config, images = run.config, run.facts
    method = catalog.method_class("pretext", config.pretext.name)
    how: dict[str, Any] = {"image_size": images.size, "dtype": run.device.dtype}
    how |= {"mean": images.mean, "std": images.std}
    brought = method.bring_backbone(config.pretext, config.model, num_images=images.count, **how)
    return brought or backbone.build(config.model, **how)


def new_pretext(run: Run) -> Pretext:
    """The pretext task of the config over a new backbone."""
    config = run.config
    return catalog.method_class("pretext", config.pretext.name)(
        config.pretext,
        new_backbone(run),
        projection_dim=config.model.projection_dim,
        num_images=len(run.pretext_images),
    )


def trained_pretext(run: Run) -> Pretext:
    """The pretext task with the weights that its stage ended with."""
    task = new_pretext(run)
    load_weights(run.sealed("pretext", "weights.npz"), task.networks)
    return task


def new_heads(run: Run, network: Backbone, num_heads: int) -> Any:
    """Cluster heads of the kind that the clustering trains, with initial weights."""
    config = run.config.scan
    method = catalog.method_class("clustering", config.name)
    return method.new_heads(config, network.feature_dim, num_heads, run.num_clusters)


def trained_clusters(run: Run, stage: str) -> tuple[Backbone, Any]:
    """Backbone and the one cluster head that `scan` or `selflabel` ended with."""
    network = new_backbone(run)
    if run.config.scan.combine == "best_head":
        heads = new_heads(run, network, 1)
    else:  # whatever it is a consensus of
        heads = linear_heads(network, 1, run.num_clusters)
    load_weights(run.sealed(stage, "weights.npz"), {"backbone": network, "heads": heads})
    return network, heads


def temperature(run: Run, stage: str) -> float:
    """By which the logits of a clustering are divided; 1 where it was never calibrated."""
    found = run.record(stage).result.get("temperature", 1.0)
    return float(found) if run.config.evaluate.calibrate else 1.0


def calibrated_clusters(run: Run, stage: str) -> tuple[Backbone, Any]:
    """`trained_clusters` with the temperature in the head: what is handed out of the run."""
    network, heads = trained_clusters(run, stage)
    return network, heads.cooled(temperature(run, stage))


def shown_clusters(run: Run) -> tuple[Backbone, Any]:
    """What is handed out of the run: the last clustering, or what corrections have made of it."""
    stage, found = run.clusterings()[-1], corrected.load(run, warn=True)
    if found is None:
        return calibrated_clusters(run, stage)
    network, _ = trained_clusters(run, stage)
    return network, ClusterHeads.linear(found.kernel, found.bias)


def new_clustering(
    run: Run,
    network: Backbone,
    heads: ClusterHeads,
    *,
    cached: bool = False,
    config: ScanConfig | None = None,
) -> Clustering:
    """The task of the scan stage; `config`: with other settings of the section."""
    config = config or run.config.scan
    return catalog.method_class("clustering", config.name)(config, network, heads, cached=cached)


def new_selflabel(run: Run, network: Backbone, heads: ClusterHeads) -> SelfLabel:
    """The task of the last stage."""
    config = run.config.selflabel
    return catalog.method_class("selflabel", config.name)(config, network, heads)
