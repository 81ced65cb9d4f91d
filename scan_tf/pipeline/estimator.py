"""`Scan`: the pipeline as an estimator of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.utils.validation import check_is_fitted

from scan_tf.pipeline.fitting import Fitted, fit


class Scan(ClusterMixin, BaseEstimator):
    """Clusters of images, learned without labels, in the manners of scikit-learn.

    The constructor only stores. Images are uint8 [N,H,W,3], [N,H,W,1] or [N,H,W], an `ImageSet`,
    or a folder of image files.

    Args:
        num_clusters: how many, or "auto"; None: the number of classes of a folder with labels,
            else "auto".
        recipe: the name of a recipe, or a YAML file; None: as `fit`.
        run_dir: where everything is kept; None: nowhere.
        random_state: the seed, a whole number; None: the recipe's.
        settings: others than the recipe's, nested or flat, such as `{"scan__epochs": 20}`.
        verbose: print how far it is.

    Attributes:
        labels_: int64 [N], the cluster of every training image.
        probabilities_: float32 [N,C].
        features_: float32 [N,D].
        report_: the scores.
        fitted_: what `fit` returned.
    """

    labels_: np.ndarray
    probabilities_: np.ndarray
    features_: np.ndarray
    report_: dict[str, Any]
    fitted_: Fitted

    def __init__(
        self,
        num_clusters: int | Literal["auto"] | None = None,
        recipe: str | Path | None = None,
        run_dir: str | Path | None = None,
        random_state: int | None = None,
        settings: Mapping[str, Any] | None = None,
        verbose: bool = False,
    ):
        self.num_clusters = num_clusters
        self.recipe = recipe
        self.run_dir = run_dir
        self.random_state = random_state
        self.settings = settings
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> Scan:
        """Learn from images; `y` is not read. Raises as `fit` of this package does.

        Args:
            X: images, see the class.
            y: nothing; scikit-learn's pipelines pass it.
        """
        settings = dict(self.settings or {})
        if self.random_state is not None:
            settings["seed"] = self.random_state
        self.fitted_ = fit(
            X, self.num_clusters, self.recipe, self.run_dir, verbose=self.verbose, **settings
        )
        self.labels_, self.probabilities_ = self.fitted_.labels_, self.fitted_.probabilities_
        self.features_, self.report_ = self.fitted_.features_, self.fitted_.report
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The cluster of every image, int64 [N].

        Args:
            X: images, see the class.
        """
        check_is_fitted(self)
        return self.fitted_.predict(X)

    def predict_proba(self, X: Any) -> np.ndarray:
        """The probability of every cluster, float32 [N,C].

        Args:
            X: images, see the class.
        """
        check_is_fitted(self)
        return self.fitted_.predict_proba(X)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array = False
        tags.input_tags.three_d_array = True
        return tags
