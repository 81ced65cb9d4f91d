"""DCL: SimCLR whose positives do not stand among those that they are told from.

    python examples/dcl.py

Takes half a minute on two cores; the digits come with scikit-learn. A whole run trains longer
and clusters: `scan-tf run --config digits_simclr pretext.name=dcl`.
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
        "name": "dcl",
        "epochs": 5,
        "batch_size": 64,  # the fewer images are in a batch, the more this form gains
        "temperature": 0.5,  # the paper's 0.1 parts single images, not classes, on sets this small
    },
)
same = {"num_classes": 10, "k": 20, "leave_one_out": True}
found = knn_accuracy(learned.features, labels, learned.features, labels, **same)
print(f"dcl: features {learned.features.shape}, kNN accuracy {found:.1%}")
