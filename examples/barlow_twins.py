"""Barlow Twins: the dimensions of two views agree, each with itself and with no other.

    python examples/barlow_twins.py

Takes half a minute on two cores; the digits come with scikit-learn. A whole run trains longer
and clusters: `scan-tf run --config digits_simclr pretext.name=barlow_twins`.
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
        "name": "barlow_twins",
        "epochs": 5,
        "batch_size": 64,
        "hidden": 128,  # the projector; 2048 by default
        "dim": 128,
    },
)
same = {"num_classes": 10, "k": 20, "leave_one_out": True}
found = knn_accuracy(learned.features, labels, learned.features, labels, **same)
print(f"barlow_twins: features {learned.features.shape}, kNN accuracy {found:.1%}")
