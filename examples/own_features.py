"""Features that you have already: from another program, another network, anything.

    python examples/own_features.py

Takes half a minute on two cores. A file `.npy` has the features float [N,D] in the order of the
images; `.npz` has `features` and, for images in a folder, their `paths`; `.parquet` has columns
`path` and `embedding`. Here they are principal components of the digits.
"""

import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

import scan_tf

digits = load_digits()
images = (digits.images * 255 / 16).astype("uint8")
features = PCA(20, random_state=0).fit_transform(digits.data).astype("float32")  # [N,D]

with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "features.npy"
    np.save(file, features)
    model = scan_tf.fit(
        images,
        num_clusters=10,
        labels=digits.target,  # for the scores alone
        pretext={"name": "pretrained", "weights": str(file)},
        scan={"name": "temi", "epochs": 10, "num_heads": 5},
        selflabel__epochs=0,
    )
print(f"clusters of {np.bincount(model.labels_)} images, ACC {model.report['scan']['acc']:.1%}")
