"""Instance discrimination: every image is a class of its own, recognised by a memory of it.

    python examples/nce.py

Takes half a minute on two cores; the digits come with scikit-learn. A whole run trains longer
and clusters: `scan-tf run --config digits_simclr pretext.name=nce`.
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
        "name": "nce",
        "epochs": 5,
        "batch_size": 64,
        "temperature": 0.2,
        "momentum": 0.5,  # of the memory
    },
)
same = {"num_classes": 10, "k": 20, "leave_one_out": True}
found = knn_accuracy(learned.features, labels, learned.features, labels, **same)
print(f"nce: features {learned.features.shape}, kNN accuracy {found:.1%}")
