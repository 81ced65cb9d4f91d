"""A process that helps the one which writes a run directory: it computes along, and writes nothing.

Every process runs the same command with its own TF_CONFIG. The first works as ever. The others wait
at every stage until the first says whether it trains; then they copy what the stage needs into a
folder of their own, which is gone afterwards, and train along.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import io
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import keras

from scan_tf import machine, replicas
from scan_tf.pipeline import learning
from scan_tf.pipeline.run_dir import Run
from scan_tf.pipeline.stage import TRAINED


class _Own(Run):
    """The copy of a run in which a process trains along."""

    helps = True


def helps(run: Run) -> bool:
    """Whether this process is not the one that writes the run. Raises ConfigError."""
    return run.config.runtime.strategy == "multi_worker" and machine.helps()


def tell(run: Run, stage: str, trains: bool) -> None:
    """Tell those that help whether a stage trains now, and wait until they are ready for it."""
    if run.config.runtime.strategy != "multi_worker" or stage not in TRAINED:
        return
    places = learning.replicas_of(run, stage)
    if places.agreed(trains):
        places.agreed(trains)


def train_along(run: Run, stages: Sequence[str]) -> None:
    """Train along in those of the stages in which the first process says so."""
    for stage in stages:
        places = learning.replicas_of(run, stage) if stage in TRAINED else replicas.ALONE
        if places.processes == 1 or not places.agreed(False):
            continue
        print(f"{stage}: helping; the process of task 0 in TF_CONFIG writes {run.root}")
        with tempfile.TemporaryDirectory(prefix="scan_tf-") as name:
            root = Path(name) / "run"
            shutil.copytree(run.root, root, ignore=shutil.ignore_patterns(".lock", "tensorboard"))
            runtime = dataclasses.replace(run.config.runtime, progress=False, tensorboard=False)
            own = _Own(dataclasses.replace(run.config, runtime=runtime), root)
            own.share_images(run)
            places.agreed(True)  # the copy is made: the first process may write
            keras.utils.set_random_seed(own.seed(stage))
            module = importlib.import_module(f"{__package__}.{stage}")
            with contextlib.suppress(learning.Helped), contextlib.redirect_stdout(io.StringIO()):
                module.run(own)
