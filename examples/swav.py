"""SwAV: what one view is assigned to among prototypes is told from the others.

    python examples/swav.py

Takes half a minute on two cores; the digits come with scikit-learn. A whole run trains longer
and clusters: `scan-tf run --config digits_simclr pretext.name=swav`.
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
        "name": "swav",
        "epochs": 5,
        "batch_size": 64,
        "hidden": 128,  # the projector; 2048 by default
        "prototypes": 64,
        "local_crops": 2,  # small crops beside the two views, here of 6 pixels
        "local_size": 6,
    },
)
same = {"num_classes": 10, "k": 20, "leave_one_out": True}
found = knn_accuracy(learned.features, labels, learned.features, labels, **same)
print(f"swav: features {learned.features.shape}, kNN accuracy {found:.1%}")
