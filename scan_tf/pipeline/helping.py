"""A process that helps the one which writes a run directory: it computes along, and writes nothing.

Every process runs the same command with its own TF_CONFIG. The first works as ever. The others wait
at every stage that is shared until the first says whether there is something to do; then they copy
what a stage that trains needs into a folder of their own, gone afterwards, and train along.
The search for neighbours reads its rows where the first has written them.
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

from scan_tf import machine
from scan_tf.pipeline import learning, neighbors
from scan_tf.pipeline.run_dir import Run
from scan_tf.pipeline.stage import SHARED, TRAINED


class _Own(Run):
    """The copy of a run in which a process trains along."""

    helps = True


def helps(run: Run) -> bool:
    """Whether this process is not the one that writes the run. Raises ConfigError."""
    return run.config.runtime.strategy == "multi_worker" and machine.helps()


def tell(run: Run, stage: str, works: bool) -> None:
    """Tell those that help whether a stage works now, and wait until they are ready for it."""
    if run.config.runtime.strategy != "multi_worker" or stage not in SHARED:
        return
    places = learning.replicas_of(run, stage)
    if places.agreed(works):
        places.agreed(works)


def work_along(run: Run, stages: Sequence[str]) -> None:
    """Work along in those of the stages in which the first process says so."""
    for stage in stages:
        places = learning.replicas_of(run, stage)
        if places.processes == 1 or not places.agreed(False):
            continue
        print(f"{stage}: helping; the process of task 0 in TF_CONFIG writes {run.root}")
        if stage not in TRAINED:
            places.agreed(True)
            neighbors.search_along(run, places)
            continue
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
