"""Running the stages, in their order, each from what those before it left in the run directory."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path
from typing import Any

import keras

from scan_tf import config as configs
from scan_tf import machine
from scan_tf.augment import host, policies
from scan_tf.config import Config
from scan_tf.errors import ConfigError, NothingLearned, WithoutSelfLabel
from scan_tf.features import approximate
from scan_tf.pipeline import (
    decided,
    deciding,
    evaluate,
    features,
    helping,
    learning,
    plan,
    savedmodel,
    sizes,
    status,
    summary,
)
from scan_tf.pipeline.run_dir import WHERE, Run
from scan_tf.pipeline.stage import STAGES, TRAINED, is_left_out, up_to
from scan_tf.settings.sealed import seal
from scan_tf.storage import files
from scan_tf.storage.writing import Writing

_log = logging.getLogger(__name__)


def run(config: Config, root: Path | str) -> dict[str, Any]:
    """Run every stage that is not done yet.

    Args:
        config: the experiment.
        root: the run directory.

    Returns:
        The report of the evaluation.

    Raises:
        ScanError: bad settings or data, a missing data set, or an interruption; what was computed
            stays in the run directory, and the same call goes on from there.
    """
    run = Run(config, Path(root))
    begin(run)
    run_all(run)
    return dict(evaluate.read_report(run))


def begin(run: Run) -> None:
    """Say what was understood of the images, and refuse what a later stage would refuse.

    Nothing is done where the pretext has ended. Raises DataError, StageError or ConfigError.
    """
    if run.is_done("pretext"):
        return
    sizes.check_count(len(run.train_images))
    for line in summary.lines(run, evaluate.images_of(run, evaluate.evaluated_split(run))):
        print(line)
    check(run)


def check(run: Run) -> None:
    """Refuse now what a later stage would refuse, after hours of training; raises as `begin`."""
    config, train, test = run.config, run.train_images, run.images("test")
    sizes.check_count(len(train))
    deciding.check(run)
    features.check(config)
    sizes.check(config, len(train), None if test is None else len(test))
    learning.check_replicas(run)
    if config.neighbors.index == "hnsw":
        approximate.hnsw_library()
    policies.check(config.augment)
    maker = policies if config.augment.backend == "device" else host
    for stage in ("scan", "selflabel"):
        name = getattr(config, stage).augmentation
        try:
            maker.make(name, config.augment, size=train.image_size, mean=train.mean)
        except ConfigError as error:
            raise ConfigError(f"{stage}.{error}") from error
    savedmodel.check_place(run.folder("export"))


def run_all(run: Run) -> None:
    """Run every stage that is not done yet, after `begin`; raises as `run` does.

    Raises:
        WithoutSelfLabel: nothing could be learned by self-labelling; all else is done.
    """
    left_out = None
    features.check(run.config)
    for stage in STAGES:
        if stage == "export" and features.feature_file(run.config):
            print("export: left out: the features come from a file, there is no network to export.")
            continue
        try:
            run_stage(run, stage)
        except NothingLearned as error:
            left_out = error
            print(f"  {error}\n  The run goes on with the clustering before it.")
    if left_out is not None:
        raise WithoutSelfLabel(
            f"{left_out}\nReport and SavedModel, in {run.root}, are those of the clustering before."
        )


def run_stage(run: Run, stage: str) -> None:
    """Run one stage, unless it is done. Raises StageError when its input is missing.

    Args:
        run: the run.
        stage: its name, such as "pretext"; see `STAGES`.
    """
    if run.is_done(stage):
        helping.tell(run, stage, False)
        if stage not in run.told:  # by the fitting of a schedule, which begins with it
            print(f"{stage}: done before, in {run.record(stage).wall_time_s:.0f} s; skipped.")
        run.told.add(stage)
        _remember_place(run)
        return
    if is_left_out(run.config, stage):
        helping.tell(run, stage, False)
        print(f"{stage}: left out, because {stage}.epochs is 0.")
        return
    run.write_config()
    if stage == "scan":
        deciding.decide(run)
    print(f"{stage}: {plan.title(run.config, stage)}")
    module = importlib.import_module(f"{__package__}.{stage}")
    with run.working(stage) as result:
        helping.tell(run, stage, True)
        keras.utils.set_random_seed(run.seed(stage))
        _warn_of_threads(run, stage)
        if stage == "scan" and decided.is_open(run):
            result["num_clusters"] = run.num_clusters
        result.update(module.run(run))
        result["threads"] = machine.num_cpus()
        result["peak_memory_mib"] = machine.peak_memory_mib()
        if run.finish == stage:
            steps = status.steps(run.folder(stage))
            print(f"  finished at step {steps['step']:,} of {steps['total']:,}")
            result["finished_at_step"] = steps["step"]
    run.told.add(stage)


def _remember_place(run: Run) -> None:
    """Have the config of a run say where its images are now, and change nothing else in it.

    Raises StageError where the directory cannot be written.
    """
    path = run.root / configs.COPY
    if not path.exists():
        return  # given by --config
    stored, here = configs.to_dict(configs.load(path)), configs.to_dict(run.config)["data"]
    if stored["data"]["name"] != here["name"]:
        return
    moved = stored["data"] | {key: here[key] for key in (w.partition(".")[2] for w in WHERE)}
    if moved != stored["data"]:
        run.claim()
        files.write_text(path, seal(configs.dump(configs.from_dict({**stored, "data": moved}))))


def _warn_of_threads(run: Run, stage: str) -> None:
    """Warn where the stages before were made with another number of threads."""
    here = machine.num_cpus()
    before = {run.record(earlier).result.get("threads", here) for earlier in up_to(stage)[:-1]}
    if stage in TRAINED and before - {here}:
        _log.warning(
            "%s: %d threads, the stages before had %s: sums are made in another order, so that "
            "the last bits differ from those of a run that was made with one number of threads.",
            *(stage, here, " and ".join(map(str, sorted(before - {here})))),
        )


def evaluate_split(run: Run, split: str) -> None:
    """Evaluate a split, such as "test"; another than the stage's in a folder beside it.

    Raises StageError when the data set has no such split, or when nothing was clustered.
    """
    if split == evaluate.evaluated_split(run):
        run_stage(run, "evaluate")
    else:
        evaluate.images_of(run, split)  # refuses what there is not, before anything is written
        with Writing.until_the_end():
            run.claim()
            evaluate.run(run, split)
    print(f"\nreport and pictures: {evaluate.folder_of(run, split)}")
