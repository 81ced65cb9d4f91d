"""The guard of the last stage: it looks at every epoch without labels, and lets no harm be done."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from scan_tf.data.image_set import ImageSet
from scan_tf.evaluation import alarms
from scan_tf.features.embedding import embed, head_probs
from scan_tf.features.neighbors import mine
from scan_tf.methods.task import SelfLabel
from scan_tf.models.weights import save_weights
from scan_tf.pipeline.plan import MOST_GUARDED
from scan_tf.pipeline.run_dir import Run
from scan_tf.pipeline.selection import validation
from scan_tf.pipeline.stage import CLUSTERINGS

_SCAN, _SELFLABEL = CLUSTERINGS


class Guard:
    """Alarms before the first epoch and after every one; see `alarms.look`.

    They are of the images on which SCAN was selected and, where neighbours were mined, of their
    neighbours among themselves by the pretext's features.

    Args:
        run: the run.
        task: the task with the networks of SCAN, before its first step.

    Attributes:
        record: `history`: for every epoch, 0 the beginning, its alarms.
        path: weights of the last epoch that is to be kept.
    """

    def __init__(self, run: Run, task: SelfLabel):
        self.run, self.task = run, task
        self.path = run.folder("selflabel") / "best.npz"
        self.num_clusters = run.num_clusters
        # Of methods that have one.
        self.threshold = float(getattr(run.config.selflabel, "threshold", 0.99))
        self._images, self._near = _looked_at(run)
        # Compiled once, not again after every epoch.
        self._network = tf.function(
            task.backbone.embed, jit_compile=run.device.jit_step, autograph=False
        )
        # Features that stay the same are looked at once.
        self._rows = self._features() if task.cached else None
        self.record: dict[str, Any] = {"history": [{"epoch": 0, **self._look()}]}
        self._say_how_sure()

    def __call__(self, epoch: int) -> dict[str, float]:
        """The alarms of the epoch; its weights are kept unless it is worse than those before."""
        with self.task.as_finished():
            found = self._look()
            self.record["history"].append({"epoch": epoch, **found})
            if self._keeps and self._worse() is None:
                save_weights(self.path, self.task.networks, extra=self.record["history"][-1])
        return found

    @property
    def _keeps(self) -> bool:
        return self.run.config.selflabel.guard in ("keep", "refuse")

    def refuses(self) -> bool:
        """Whether the stage is not to begin."""
        return self.run.config.selflabel.guard == "refuse" and bool(self._unsure())

    def outcome(self) -> dict[str, Any]:
        """For the record of the stage.

        Returns:
            kept: the clustering that the run has to show, "scan" or "selflabel"; why: in words,
            where that is not the last epoch or the last epoch does harm; kept_epoch: of this stage,
            where the guard chose one; alarms_before and alarms_after: of SCAN and of what is kept,
            or where that is SCAN of the last epoch.
        """
        history = self.record["history"]
        result: dict[str, Any] = {"kept": _SELFLABEL, "why": None, "alarms_before": history[0]}
        if self.refuses():
            result |= {"kept": _SCAN, "why": f"not begun: {'; '.join(self._unsure())}"}
            print(f"  self-label: {result['why']}")
            return result
        harm, last = self._worse(), history[-1]
        if harm is not None:
            result["why"] = f"epoch {last['epoch']} is worse than one before it: {harm}"
        if self._keeps:
            last = history[alarms.kept(history, self.num_clusters)]
            result["kept_epoch"] = last["epoch"]
            if not last["epoch"]:
                result["kept"] = _SCAN
                last = history[-1]
        result["alarms_after"] = last
        print(f"  after it: {self._sentence(last)}")
        if harm is not None:
            what = "epoch {kept_epoch} is kept" if result.get("kept_epoch") else "SCAN is kept"
            if not self._keeps:
                what = "it is kept all the same; selflabel.guard=keep goes back"
            print(f"  {result['why']}; {what.format(**result)}")
        return result

    def _features(self) -> np.ndarray:
        return embed(self._network, self._images, **self.run.inference(None))

    def _look(self) -> dict[str, float]:
        rows = self._features() if self._rows is None else self._rows
        probs = head_probs(self.task.networks["heads"], rows)[0]
        return alarms.look(probs, self._near, threshold=self.threshold)

    def _worse(self) -> str | None:
        return alarms.worse(self.record["history"], self.num_clusters)

    def _unsure(self) -> list[str]:
        found = self.record["history"][0]
        return alarms.unsure(found, self.num_clusters, threshold=self.threshold)

    def _sentence(self, found: dict[str, float]) -> str:
        return alarms.sentence(found, self.num_clusters, threshold=self.threshold)

    def _say_how_sure(self) -> None:
        print(f"  before it: {self._sentence(self.record['history'][0])}")
        for reason in self._unsure():
            print(f"  warning: {reason}")


def _looked_at(run: Run) -> tuple[ImageSet, np.ndarray | None]:
    """Images, and their neighbours int [n,K] among themselves; None where none were mined."""
    random = np.random.default_rng(run.seed("scan"))
    if not run.is_done("neighbors"):
        return _some(run.train_images, random)[0], None
    checked = validation(run)
    images, chosen = _some(checked.images, random)
    if len(images) == len(checked.images):
        return images, checked.indices[:, 1:]
    k, seed = run.config.neighbors.k_validation, run.seed("scan")
    rows = checked.features[chosen]
    return images, mine(rows, run.config.neighbors, k=k, seed=seed).indices[:, 1:]


def _some(images: ImageSet, random: np.random.Generator) -> tuple[ImageSet, np.ndarray]:
    """At most `MOST_GUARDED` of the images, and which of them these are, bool [N]."""
    chosen = np.zeros(len(images), bool)
    chosen[random.permutation(len(images))[:MOST_GUARDED]] = True
    return (images if chosen.all() else images.subset(chosen)), chosen
