"""A pretext of your own, in the same file: tell whether an image stands on its head.

    python examples/custom_method.py

Takes half a minute on two cores. A method is a module with two classes, `Config` and `Method`,
and has the module's name: `pretext.name=my_package.headstand`. It says what to look at (`views`)
and what to minimise (`loss`); batches, optimiser, checkpoints and the loop are not its business.
"""

import dataclasses
import sys
from pathlib import Path

import tensorflow as tf
from sklearn.datasets import load_digits

import scan_tf
from scan_tf import models
from scan_tf.config import OptimizerConfig, PretextConfig
from scan_tf.methods import Pretext, View
from scan_tf.settings import setting


@dataclasses.dataclass(frozen=True)
class Config(PretextConfig):
    """Its settings, beside those that every pretext has."""

    optimizer: OptimizerConfig = OptimizerConfig("adam", lr=1e-3, schedule="cosine")
    smoothing: float = setting(0.0, low=0, high=0.5, help="of the labels")


class Method(Pretext):
    """A linear head on the backbone, which says for each image whether it was turned over."""

    views = {"image": View("weak")}

    def __init__(self, config, backbone, *, projection_dim, num_images):
        self.config = config
        self.head = models.MLP((backbone.feature_dim, 1), name="head")
        self.networks = {"backbone": backbone, "head": self.head}

    def loss(self, batch):
        """Binary cross-entropy over the images and their mirror images."""
        both = tf.concat([batch["image"], batch["image"][:, ::-1]], axis=0)
        logits = self.head(self.backbone(both, training=True))[:, 0]
        count, smoothing = tf.shape(batch["image"])[0], self.config.smoothing
        labels = tf.repeat([smoothing, 1 - smoothing], count)
        losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=logits)
        hits = tf.equal(logits > 0, labels > 0.5)
        return tf.reduce_mean(losses), {"accuracy": tf.reduce_mean(tf.cast(hits, tf.float32))}


if __name__ == "__main__":
    # So that Python finds this file as a module, as it finds one of a package that is installed.
    sys.path.insert(0, str(Path(__file__).parents[1]))
    images = (load_digits().images * 255 / 16).astype("uint8")[:640]
    learned = scan_tf.learn_features(
        images,
        recipe="digits_simclr",
        pretext={"name": "examples.custom_method", "epochs": 5, "smoothing": 0.05},
    )
    print(f"features {learned.features.shape} of {learned.run.config.pretext.name}")
