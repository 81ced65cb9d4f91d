"""Predicting with the exported SavedModel, which needs TensorFlow and nothing of this package.

    python examples/saved_model.py

Takes a minute on two cores, most of it for making a classifier first.
"""

import tempfile

import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

import scan_tf

digits = load_digits()
images = (digits.images * 255 / 16).astype("uint8")[:640]

with tempfile.TemporaryDirectory() as folder:
    fitted = scan_tf.fit(
        images,
        num_clusters=10,
        recipe="digits_simclr",
        pretext={"epochs": 5, "batch_size": 64},
        scan={"epochs": 5, "num_heads": 2},
        selflabel__epochs=0,
    )
    fitted.export(f"{folder}/export")

    # From here on nothing of scan_tf is used.
    model = tf.saved_model.load(f"{folder}/export").signatures["serving_default"]
    rgb = np.repeat(images[:5, ..., np.newaxis], 3, axis=3)  # uint8 [B,H,W,3], of any size
    out = model(images=tf.constant(rgb))
    print("clusters     ", out["cluster"].numpy())
    print("probabilities", out["probabilities"].numpy().max(axis=1).round(2))
    print("as in Python ", fitted.predict(images[:5]))
