"""BYOL: predict what a slowly following copy of the network makes of the other view.

    python examples/byol.py

Takes half a minute on two cores; the digits come with scikit-learn. A whole run trains longer
and clusters: `scan-tf run --config digits_simclr pretext.name=byol`.
"""

from sklearn.datasets import load_digits

import scan_tf
from scan_tf.evaluation import knn_accuracy

digits = load_digits()
images = (digits.images * 255 / 16).astype("uint8")[:640]  # uint8 [N,8,8]
labels = digits.target[:640]  # for the score alone

learned = scan_tf.learn_features(
    images,
    recipe="digits_simclr",  # network, views and sizes for digits
    pretext={
        "name": "byol",
        "epochs": 5,
        "batch_size": 64,
        "momentum": 0.9,  # of the copy at the start; 0.99 on large sets
        "hidden": 128,
    },
)
same = {"num_classes": 10, "k": 20, "leave_one_out": True}
found = knn_accuracy(learned.features, labels, learned.features, labels, **same)
print(f"byol: features {learned.features.shape}, kNN accuracy {found:.1%}")
