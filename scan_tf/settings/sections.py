"""The sections of a config: every setting that is not of one method alone."""

from __future__ import annotations

import dataclasses
from typing import Literal

from scan_tf.settings.schema import Section, setting

_POLICIES = ("none", "simclr", "strong", "weak")


@dataclasses.dataclass(frozen=True)
class DataConfig(Section):
    """Which images."""

    name: str = setting(
        "digits",
        help="the data set: digits, folder, array, cifar10, cifar20, stl10, imagenet, "
        "or any image data set that tensorflow-datasets knows",
    )
    path: str | None = setting(
        None,
        is_path=True,
        help="a folder of images (folder), a file of them (array), or the data directory of "
        "tensorflow-datasets",
    )
    classes: Literal["all", "imagenet50", "imagenet100", "imagenet200"] = setting(
        "all", help="of ImageNet: the subsets of SCAN"
    )
    image_size: int | None = setting(
        None, low=4, high=1024, help="side in pixels of the images; null: the data set's own"
    )
    strict: bool = setting(
        False, help="refuse a folder with unreadable images instead of listing and skipping them"
    )
    max_megapixels: float = setting(
        89.0, above=0, high=178, help="image files of more megapixels are not read"
    )
    decode_mib: int | None = setting(
        None, low=1, help="MiB for all files decoded at a time; null: a quarter of the memory"
    )
    streaming: Literal["auto", "always", "never"] = setting(
        "auto",
        help="always: images are decoded once into a file of data.cache, of which rows are read as "
        "they are needed; never: they are held in memory; auto: always above 2 GiB",
    )
    cache: str | None = setting(
        None,
        is_path=True,
        help="the folder of decoded images; null: scan_tf/images in the user's cache "
        "(XDG_CACHE_HOME or ~/.cache)",
    )


@dataclasses.dataclass(frozen=True)
class ModelConfig(Section):
    """The backbone and the projection head (reference: SCAN, ResNet-18, 512 -> 128)."""

    backbone: str = setting(
        "resnet18",
        names=("resnet10", "resnet18", "resnet34", "resnet50"),
        help="a ResNet, or the dotted name of a module with a function `build` like theirs",
    )
    stem: Literal["cifar", "strided", "stl", "imagenet"] = setting(
        "cifar", help="the first layers, by the size of the images that they were made for"
    )
    width: int = setting(64, low=1, high=512, help="channels of the first of the four stages")
    projection_dim: int = setting(
        128, low=2, high=4096, help="dimensions of the pretext's projection, P"
    )


@dataclasses.dataclass(frozen=True)
class AugmentConfig(Section):
    """Parameters of the augmentation policies; the defaults are the official SCAN settings."""

    backend: Literal["device", "host"] = setting(
        "device",
        help="device: batched TensorFlow operations inside the step; host: the same policies in "
        "albumentations",
    )
    flip: float = setting(0.5, low=0, high=1, help="probability of a horizontal flip")
    crop_scale: tuple[float, float] = setting(
        (0.2, 1.0), help="least and greatest share of the area that a random crop keeps"
    )
    crop_ratio: tuple[float, float] = setting(
        (3 / 4, 4 / 3), help="least and greatest width / height of a random crop"
    )
    jitter: tuple[float, float, float, float] = setting(
        (0.4, 0.4, 0.4, 0.1), help="brightness, contrast, saturation and hue of the colour jitter"
    )
    jitter_probability: float = setting(0.8, low=0, high=1, help="probability of the colour jitter")
    grayscale_probability: float = setting(
        0.2, low=0, high=1, help="probability that a view loses its colours"
    )
    weak_padding: int = setting(
        4, low=0, high=64, help="reflect padding of the weak policy's random crop, in pixels"
    )
    rotate: float = setting(
        0.0,
        low=0,
        high=180,
        help="random rotation of the simclr and weak views, +- degrees (0: none, as in the paper)",
    )
    strong_ops: int = setting(
        4, low=0, high=14, help="random operations of the strong policy for each image"
    )
    cutout: int | None = setting(
        None,
        low=0,
        help="longest side of the strong policy's hole in pixels; null: 16, 32, 75 at 32, 96, 224 "
        "pixels",
    )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Section):
    """Optimiser and schedule."""

    name: Literal["sgd", "adam"] = setting("adam", help="the optimiser")
    lr: float = setting(1e-4, above=0, help="learning rate, the highest of the schedule")
    momentum: float = setting(0.9, low=0, high=1, help="momentum of SGD")
    nesterov: bool = setting(False, help="Nesterov's form of the momentum of SGD")
    l2: float = setting(
        1e-4, low=0, help="coupled weight decay, added to the gradient of every parameter"
    )
    schedule: Literal["constant", "cosine", "constant_cosine"] = setting(
        "constant", help="course of the rate; constant_cosine: constant first, see constant_share"
    )
    constant_share: float = setting(
        0.5, low=0, high=0.99, help="of constant_cosine: share of the epochs before the cosine"
    )
    schedule_per: Literal["epoch", "step"] = setting(
        "epoch", help="epoch moves the cosine once an epoch, as the official code does"
    )
    final_fraction: float = setting(
        1e-3, low=0, high=1, help="the cosine ends at lr times this (official: 0.1^3)"
    )
    warmup_epochs: float = setting(0.0, low=0, help="epochs of a linear rise to lr at the start")
    clip_norm: float = setting(0.0, low=0, help="greatest global norm of the gradient; 0: any")


@dataclasses.dataclass(frozen=True)
class TrainConfig(Section):
    """What every training stage has."""

    epochs: int = setting(1, low=1, help="passes over the images")
    batch_size: int = setting(128, low=2, help="images of a step, B")
    optimizer: OptimizerConfig = OptimizerConfig()


@dataclasses.dataclass(frozen=True)
class PretextConfig(TrainConfig):
    """What every pretext has; each file in `scan_tf/methods/pretext/` adds its own fields."""

    name: str = setting("", help="the pretext task: a file in scan_tf/methods/pretext/")
    knn_every: int = setting(
        0,
        low=0,
        help="score the features by kNN every so many epochs, for the curves alone; 0: never",
    )


@dataclasses.dataclass(frozen=True)
class NeighborsConfig(Section):
    """Neighbour mining."""

    index: Literal["annoy", "exact", "hnsw", "auto"] = setting(
        "auto", help="how neighbours are searched; hnsw needs the extra of that name"
    )
    features: Literal["auto", "backbone", "projection"] = setting(
        "auto", help="what neighbours are found by; auto: what the pretext finds them by"
    )
    k: int = setting(20, low=1, help="neighbours of every image, K")
    k_validation: int = setting(
        5, low=1, help="neighbours of each image that epoch and head are chosen on, without labels"
    )
    n_trees: int = setting(100, low=1, help="trees of Annoy; more: better recall, slower")
    search_k: int = setting(
        -1, low=-1, help="nodes that Annoy inspects for a query; -1: its default, n_trees * k"
    )
    recall_sample: int = setting(
        1000, low=1, help="queries that are compared with the exact search to estimate the recall"
    )


@dataclasses.dataclass(frozen=True)
class ScanConfig(TrainConfig):
    """What every clustering has; each file in `scan_tf/methods/clustering/` adds its own fields."""

    name: str = setting("", help="the clustering: a file in scan_tf/methods/clustering/")
    epochs: int = setting(50, low=1)
    num_clusters: int | Literal["auto"] | None = setting(
        None,
        low=2,
        help="clusters, C; auto: decided on the features, without labels, and recorded; null: the "
        "number of classes, where the data set knows it, else auto",
    )
    num_clusters_range: tuple[int, int] = setting(
        (2, 80), low=2, high=1000, help="least and greatest number that auto looks at"
    )
    num_heads: int = setting(1, low=1, help="cluster heads, H; see scan.combine")
    augmentation: str = setting(
        "strong",
        names=_POLICIES,
        help="policy of the views, or the dotted name of a function that makes one",
    )
    freeze_backbone: bool = setting(
        False, help="train the heads alone; the backbone stays in inference mode, without gradient"
    )
    cached_views: int = setting(
        0,
        low=0,
        help="augmented views of every feature kept for training heads alone; 0: augment each time",
    )
    head_epochs: int = setting(
        0, low=0, help="epochs of the heads alone, on cached views, before those of the network"
    )
    head_lr: float = setting(1e-3, above=0, help="learning rate of head_epochs")
    selection: Literal["heldout", "test", "train"] = setting(
        "heldout", help="images that the choice of epoch and head, without labels, looks at"
    )
    heldout_fraction: float = setting(
        0.1, above=0, high=0.5, help="share of the training images that heldout sets aside"
    )
    patience: int = setting(
        0, low=0, help="end once the consistency fell by less than 1 % in so many epochs; 0: never"
    )
    combine: Literal["best_head", "consensus"] = setting(
        "best_head",
        help="the head of the lowest selection loss, or a classifier of what all heads agree on",
    )


@dataclasses.dataclass(frozen=True)
class SelfLabelConfig(TrainConfig):
    """What every last stage has; each file in `scan_tf/methods/selflabel/` adds its own fields."""

    name: str = setting("", help="the last stage's method: a file in scan_tf/methods/selflabel/")
    epochs: int = setting(
        200, low=0, help="passes over the images; 0 leaves the stage out of the run"
    )
    batch_size: int = setting(1000, low=2)
    augmentation: str = setting(
        "strong",
        names=_POLICIES,
        help="policy of the views that learn, or the dotted name of a function that makes one",
    )
    cached_views: int = setting(
        0, low=0, help="views of every frozen feature kept to train the head; 0: augment each time"
    )
    guard: Literal["none", "warn", "keep", "refuse"] = setting(
        "warn",
        help="where the stage does harm, which is told without labels: warn; keep also goes back "
        "an epoch, or to SCAN; refuse also does not start unsure; none does not look",
    )


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(Section):
    """Scores and pictures."""

    split: Literal["auto", "train", "test"] = setting(
        "auto", help="the split to score; auto: test, where the data set has it"
    )
    batch_size: int = setting(500, low=1, help="images at a time, here and wherever none learns")
    knn_k: int = setting(100, low=1, help="neighbours that the kNN classifier asks")
    kmeans_restarts: int = setting(10, low=1, help="k-means runs from so many starts")
    linear_probe: bool = setting(
        True,
        help="fit linear classifiers on backbone and projection: one more pass over the images",
    )
    calibrate: bool = setting(
        True, help="hand out probabilities at the temperature that the agreement of neighbours asks"
    )
    formulas: bool = setting(
        False, help="names that begin like a formula stay so in tables; false: they get a quote"
    )
    pictures: bool = setting(True, help="draw clusters, confusions, curves and the map")
    abstain: float | None = setting(
        None, low=0, high=1, help="less sure is none of the kinds; null: chosen without labels"
    )
    map_points: int = setting(2000, low=10, help="images on the 2-D map of the features")


@dataclasses.dataclass(frozen=True)
class RuntimeConfig(Section):
    """How to compute. `auto` picks what measured fastest on the platform; it is written down."""

    dtype: Literal["auto", "float32", "mixed_bfloat16"] = setting(
        "auto", help="precision of the networks; losses and updates are float32 in both"
    )
    jit_compile: Literal["auto", "always", "never"] = setting(
        "auto", help="compile with XLA what gains by it, all, or nothing"
    )
    strategy: Literal["auto", "none", "mirrored", "multi_worker"] = setting(
        "auto",
        help="mirrored: stages that train a backbone divide each batch among devices, with the "
        "numbers of one; multi_worker: among processes, too, by TF_CONFIG, which share the exact "
        "search for neighbours as well; auto: one device, whose steps XLA compiles "
        "(docs/scaling.md)",
    )
    replicas: int | None = setting(
        None,
        low=1,
        help="devices among which mirrored divides a batch; null: every GPU; on a CPU, where it "
        "gains nothing, logical devices. XLA compiles their augmentation, not their whole step",
    )
    resident_mib: int = setting(
        4096,
        low=0,
        help="images are kept on the device up to this size in MiB, and streamed above it",
    )
    log_every: int = setting(50, low=1, help="steps between two rows of metrics")
    checkpoint_minutes: float = setting(2.0, above=0, help="minutes between two checkpoints")
    progress: bool = setting(True, help="show how far a stage is")
    tensorboard: bool = setting(True, help="write scalars for TensorBoard")
    profile: bool = setting(False, help="write a profile of a few steps of every trained stage")
