"""The contract between a method and the training loop.

A task declares its views as data, so that every loader can realise every task without knowing
it, and gives the loss of a batch of those views. It never touches data sets, optimisers, files
or the loop.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from scan_tf import models
from scan_tf.config import ModelConfig, PretextConfig, ScanConfig, SelfLabelConfig
from scan_tf.lazy import keras, tf

Batch = Mapping[str, Any]  # view name -> tensor


@dataclasses.dataclass(frozen=True)
class View:
    """One augmented look at an image.

    Attributes:
        policy: name of an augmentation policy: none, weak, simclr or strong.
        of: the anchor itself, or one of its neighbours drawn uniformly from its K+1.
        size: side in pixels; None: that of the images.
        options: of the policy, beyond the config's: what a method wants of this view alone.
        count: so many views, each drawn anew, one after the other in one tensor
            `[count * B, S, S, 3]` (multi-crop).
    """

    policy: str
    of: Literal["anchor", "neighbor"] = "anchor"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    size: int | None = None
    count: int = 1


class Task(abc.ABC):
    """A method: views to look at, a loss to minimise, variables to train.

    Attributes:
        views: name -> View; without any there is nothing to train. A batch holds each as a
            normalised `[B, S, S, 3]` tensor, and `index`, int32 `[B]`, the position of the anchors
            in the data set.
        networks: name -> network; what a stage saves as its weights. Always has "backbone".
    """

    views: Mapping[str, View]
    networks: Mapping[str, keras.Model]

    @property
    def backbone(self) -> models.Backbone:
        """The network whose features the next stages use."""
        return self.networks["backbone"]

    def normalise(self, images: tf.Tensor) -> tf.Tensor:
        """What the loader does to the views, images f32 [B,S,S,3] in 0..1: as the network wants."""
        return self.backbone.normalise(images)

    @property
    def trainable_variables(self) -> list[Any]:
        """The variables that the optimiser updates."""
        return [v for n in self.networks.values() for v in n.trainable_variables]

    @property
    def constant_rate_variables(self) -> list[Any]:
        """Those of them whose learning rate is the config's, without its schedule."""
        return []

    @property
    def extra_state(self) -> list[Any]:
        """Variables beside the networks': queues, banks, moving averages; no two of one name."""
        return []

    @property
    def named_state(self) -> dict[str, Any]:
        """Every variable that a resumed run needs, by a name that is the same in every run.

        Raises:
            ValueError: two variables have one name.
        """
        named = models.named_variables(self.networks)
        for variable in self.extra_state:
            name = f"extra/{getattr(variable, 'path', variable.name).removesuffix(':0')}"
            if name in named:
                raise ValueError(f"two variables of {type(self).__name__} are named '{name}'.")
            named[name] = variable
        return named

    @property
    def state(self) -> list[Any]:
        """The variables of `named_state`, in their order."""
        return list(self.named_state.values())

    @abc.abstractmethod
    def loss(self, batch: Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """The loss of a batch. Graph code: what depends on a value is said by tf.where or tf.cond.

        How many images there are is what `index` and the backbone's features say: a view may be
        only a part of them. The backbone is to be called on whole views, one or several after the
        other. What is kept for `after_update` is an attribute of the task itself.

        Returns:
            loss: float32 scalar to minimise.
            metrics: float32 scalars to log. A metric called `skipped` that is positive keeps
                the optimiser from making this step.
        """

    def after_update(self, batch: Batch) -> None:
        """What follows the optimiser's step, inside the same compiled update.

        Most methods do nothing here.
        """
        return


class Pretext(Task):
    """A task that learns features without labels; one file in `scan_tf/methods/pretext/` each.

    Args:
        config: the section's typed config.
        backbone: the network to train, already built.
        projection_dim: size P of the projection, for methods that have one.
        num_images: size N of the training set, for methods with a memory bank.

    Attributes:
        passes: how often each image goes through the backbone in a step, forward and back (forward
            alone: a third), for estimates of time; None: as many times as it has views.
        projects: whether it has a network "projector" on the backbone's features.
        embedding: what `embed` gives: "backbone", "projection", or in words what else.
    """

    passes: float | None = None
    projects: bool = False
    embedding: str = "backbone"

    @abc.abstractmethod
    def __init__(
        self,
        config: PretextConfig,
        backbone: models.Backbone,
        *,
        projection_dim: int,
        num_images: int,
    ):
        """Build the heads and the variables."""

    @classmethod
    def bring_backbone(
        cls, config: PretextConfig, model: ModelConfig, *, num_images: int, **images: Any
    ) -> models.Backbone | None:
        """A network that the method brings itself; None: that of the model section.

        Args:
            config: the section's typed config.
            model: the model section.
            num_images: size N of the training set.
            images: `image_size`, `mean`, `std` and `dtype`, as for `models.build`.
        """
        return None

    def embed(self, images: tf.Tensor) -> tf.Tensor:
        """Features by which neighbours are mined: the backbone's, unless a method says otherwise.

        Args:
            images: float `[B, S, S, 3]` in 0..1.

        Returns:
            float32 `[B, D]` (or `[B, P]`), rows of unit length.
        """
        return tf.math.l2_normalize(self.backbone.embed(images), axis=-1)

    def project(self, features: tf.Tensor) -> tf.Tensor:
        """Projection f32 `[B, P]`, unit rows, of features `[B, D]`, where the method `projects`."""
        return tf.math.l2_normalize(self.networks["projector"](features, training=False), axis=-1)


class Clustering(Task):
    """A task that trains cluster heads; one file in `scan_tf/methods/clustering/` each.

    Args:
        config: the section's typed config.
        backbone: pretrained network.
        heads: H cluster heads over its features, as `new_heads` makes them.
        cached: the views of a batch are features `[B, D]` of a frozen backbone, not images.

    Attributes:
        draws_itself: whether an image may be drawn as its own neighbour.
    """

    draws_itself = True

    def __init__(
        self,
        config: ScanConfig,
        backbone: models.Backbone,
        heads: models.ClusterHeads,
        *,
        cached: bool = False,
    ):
        self.config, self.heads, self.cached = config, heads, cached
        self.networks = {"backbone": backbone, "heads": heads}
        policy = config.augmentation
        self.views = {"anchor": View(policy), "neighbor": View(policy, of="neighbor")}

    @classmethod
    def new_heads(cls, config: Any, feature_dim: int, num_heads: int, num_clusters: int) -> Any:
        """H new cluster heads for features of D dimensions; linear ones, unless a method differs.

        They give logits f32 `[H, B, C]`, and `keep(head)` one of them with H = 1.
        """
        heads = models.ClusterHeads(num_heads, num_clusters)
        heads.build((None, feature_dim))
        return heads

    @property
    def trainable_variables(self) -> list[Any]:
        """The heads', and the backbone's unless it is frozen."""
        if self.config.freeze_backbone:
            return list(self.heads.trainable_variables)
        return super().trainable_variables

    def features(self, view: tf.Tensor) -> tf.Tensor:
        """Features f32 [B,D] of a view of the batch."""
        if self.cached:
            return tf.cast(view, tf.float32)
        if self.config.freeze_backbone:
            return tf.stop_gradient(self.backbone(view, training=False))
        return self.backbone(view, training=True)


class DirectClustering(Clustering):
    """A clustering of all images at once, without views, loss or steps.

    A linear classifier of the features is fitted on what it finds, which is what the stages after
    it use.
    """

    def __init__(self, *arguments: Any, **options: Any):
        """As for any clustering."""
        super().__init__(*arguments, **options)
        self.views = {}

    @abc.abstractmethod
    def assign(self, features: np.ndarray, indices: np.ndarray, *, seed: int) -> np.ndarray:
        """The clusters of all images.

        Args:
            features: float32 [N,D] of the backbone, rows of unit length.
            indices: int32 [N,K+1], the mined neighbours, column 0 the image itself.
            seed: of everything random.

        Returns:
            int64 [N] in 0..C-1.
        """

    def loss(self, batch: Batch) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
        """There is nothing to minimise."""
        raise TypeError(f"{self.config.name}: is not trained")


class SelfLabel(Task):
    """A last stage that learns from the clustering; one file in `scan_tf/methods/selflabel/` each.

    Args:
        config: the section's typed config.
        backbone: network of the selected clustering.
        heads: its best head alone (H = 1).

    Attributes:
        needs_clustering: whether `begin` is to be called before the first step.
        passes: as that of a pretext.
        cached: whether views are features [B,D] that stay the same; None: `features` is not used.
    """

    needs_clustering = False
    passes: float = 1 + 1 / 3
    cached: bool | None = None

    @abc.abstractmethod
    def __init__(
        self, config: SelfLabelConfig, backbone: models.Backbone, heads: models.ClusterHeads
    ):
        """Build the variables."""

    def features(self, view: tf.Tensor) -> tf.Tensor:
        """Features f32 [B,D] of a view of the batch."""
        return view if self.cached else self.backbone(view, training=True)

    def begin(self, probs: np.ndarray, neighbors: np.ndarray) -> None:
        """Take in what the clustering says; raises NothingLearned where it teaches nothing.

        Args:
            probs: float32 [N,C] of all training images.
            neighbors: int [N,K+1] by the pretext's features, column 0 the image itself.
        """
        return

    def account(self, rows: Sequence[Mapping[str, float]]) -> dict[str, Any]:
        """What is worth keeping of the logged metrics, in their order.

        Raises:
            TrainingError: they tell that nothing was learned.
        """
        return {}

    def as_finished(self) -> contextlib.AbstractContextManager[None]:
        """Within it the networks are what `finish` would make of them now."""
        return contextlib.nullcontext()

    def finish(self) -> None:
        """What follows the last step, such as putting averages in place of the weights."""
        return
