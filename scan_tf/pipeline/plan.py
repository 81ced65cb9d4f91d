"""How long a run takes, stage by stage: from the steps that were seen, and what others will cost.

The cost of a step is counted in passes of an image through the backbone, forward and back; forward
alone is a third of one. So the first steps of the pretext tell of the stages after it too, about.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from scan_tf.config import Config
from scan_tf.errors import ConfigError
from scan_tf.methods import catalog
from scan_tf.methods.task import DirectClustering
from scan_tf.pipeline.stage import STAGES, TRAINED
from scan_tf.training.progress import duration

_FORWARD = 1 / 3
# Of heads on cached features: as good as nothing.
_CACHED = 0.01
# k-means, pictures, tracing and writing; those of the report grow by this with every image.
_FIXED_S = {"neighbors": 5.0, "evaluate": 25.0, "export": 15.0}
_REPORTED_S = 5e-4
# Every image of the map costs so much more; measured on one core of a Xeon with AMX.
_MAPPED_S = 5e-3
# Images that the guard of the last stage looks at, at most: a pass over them is to cost next to
# nothing.
MOST_GUARDED = 2000


@dataclasses.dataclass(frozen=True)
class Seen:
    """What is known of a training stage.

    Attributes:
        step: how many steps are done.
        total: steps in all.
        steps_per_second: how fast.
        compile_s: time of the first step.
    """

    step: int
    total: int
    steps_per_second: float
    compile_s: float = 0.0


def trained(config: Config) -> list[str]:
    """The stages that train something: not a pretext that brings a finished network."""
    return [s for s in TRAINED if getattr(config, s).epochs and passes(config, s)]


def title(config: Config, stage: str) -> str:
    """What a stage does, in words."""
    if stage == TRAINED[0] and not passes(config, stage):
        return "features of a finished network"
    return STAGES[stage].title


def passes(config: Config, stage: str) -> float:
    """Passes through the backbone for each image and epoch of a training stage."""
    if stage == "pretext":
        method = catalog.method_class("pretext", config.pretext.name)
        views = getattr(method, "views", None)
        counted = sum(v.count for v in views.values()) if isinstance(views, Mapping) else 2
        return float(counted if method.passes is None else method.passes)
    if stage == "selflabel":
        method = catalog.method_class("selflabel", config.selflabel.name)
        return _CACHED if config.selflabel.cached_views else float(method.passes)
    if issubclass(catalog.method_class("clustering", config.scan.name), DirectClustering):
        return 0.0
    if config.scan.freeze_backbone:
        return _CACHED if config.scan.cached_views else 2 * _FORWARD
    return 2.0


def _with_scores(config: Config, stage: str, images: float) -> float:
    """`passes`, and those by which every epoch is scored on the images that scan selects on."""
    share = {"train": 1.0, "heldout": config.scan.heldout_fraction, "test": 0.2}
    share_scored = share[config.scan.selection]
    if stage == "pretext" or (stage == "scan" and passes(config, stage) < 1):
        share_scored = 0.0
    if stage == "selflabel":
        looks = config.selflabel.guard != "none" and not config.selflabel.cached_views
        most = MOST_GUARDED if looks else 0
        share_scored = min(share_scored, most / images)
    return passes(config, stage) + share_scored * _FORWARD


def _passes_before(config: Config, stage: str) -> float:
    """Passes before the first epoch, for each image: of the views that are cached."""
    cached = stage == "selflabel" or config.scan.freeze_backbone or config.scan.head_epochs
    count = getattr(getattr(config, stage), "cached_views", 0) if cached else 0
    return float(count * _FORWARD)


def remaining(config: Config, seen: Mapping[str, Seen]) -> dict[str, float]:
    """Seconds that each stage still takes, about; {} where no step has been seen.

    Stages whose time cannot be told are left out: heads on the features of a finished network do
    not tell what it costs to train on.

    Args:
        config: of the run.
        seen: of the stages that have made steps; the last of them tells of the ones after it.
    """
    stages = trained(config)
    known = [stage for stage in stages if stage in seen]
    if not known:
        return {}
    first, last = known[0], known[-1]
    section = getattr(config, first)
    images = seen[first].total / section.epochs * section.batch_size
    images_per_second = seen[last].steps_per_second * getattr(config, last).batch_size
    kept = "pretext" not in stages  # the features of a finished network are computed once
    pass_s = 0.0 if kept else 1 / (images_per_second * _with_scores(config, last, images))
    left = dict.fromkeys(STAGES, 0.0)
    left["neighbors"] = images * _FORWARD * pass_s
    left["evaluate"] = images * (pass_s + _REPORTED_S)
    left["evaluate"] += min(images, config.evaluate.map_points) * _MAPPED_S
    for stage in stages:
        if stage in seen:
            left[stage] = (seen[stage].total - seen[stage].step) / seen[stage].steps_per_second
        elif kept:
            del left[stage]
        else:
            work = getattr(config, stage).epochs * _with_scores(config, stage, images)
            work += _passes_before(config, stage)
            left[stage] = work * images * pass_s + seen[last].compile_s
    return {stage: s + _FIXED_S.get(stage, 0) for stage, s in left.items()}


def in_words(left: Mapping[str, float]) -> str:
    """The sum, and its parts."""
    return f"about {duration(sum(left.values()))} ({in_parts(left)})"


def in_parts(left: Mapping[str, float]) -> str:
    """The stages that take a second or longer, and how long."""
    return ", ".join(f"{stage} {duration(s)}" for stage, s in left.items() if s >= 1)


def within(
    config: Config, seen: Mapping[str, Seen], budget_s: float, *, stretch: bool = True
) -> tuple[Config, dict[str, float]]:
    """The config with as many epochs as a time allows, in the proportions that it has.

    Args:
        config: a config.
        seen: what some steps took of its pretext or, where that trains nothing, of every stage
            that does.
        budget_s: for all stages together.
        stretch: take all of it; otherwise no more epochs than the config has.

    Returns:
        The config, and how many seconds each stage is to take.

    Raises:
        ConfigError: a single epoch of each stage takes longer.
    """
    stages = trained(config)
    one, two = (whole(with_epochs(config, dict.fromkeys(stages, n)), config, seen) for n in (1, 2))
    least = sum(one.values())
    if least > budget_s:
        raise ConfigError(
            f"--minutes: too few: one epoch of each stage takes about {duration(least)} here, and "
            f"{duration(max(0, budget_s))} are left. Give more, fewer images or a smaller model."
        )
    epoch_s = {stage: two[stage] - one[stage] for stage in stages}
    fixed = least - sum(epoch_s.values())
    training = sum(s * getattr(config, stage).epochs for stage, s in epoch_s.items())
    share = (budget_s - fixed) / training
    share = share if stretch else min(1.0, share)
    epochs = {stage: max(1, int(share * getattr(config, stage).epochs)) for stage in stages}
    chosen = with_epochs(config, epochs)
    return chosen, whole(chosen, config, seen)


def with_epochs(config: Config, epochs: Mapping[str, int]) -> Config:
    """The config with other epochs of some stages."""
    sections: dict[str, Any] = {
        stage: dataclasses.replace(getattr(config, stage), epochs=count)
        for stage, count in epochs.items()
    }
    return dataclasses.replace(config, **sections)


def whole(config: Config, timed: Config, seen: Mapping[str, Seen]) -> dict[str, float]:
    """Seconds of every stage from its beginning, by steps that were timed with other epochs."""
    fresh = {}
    for stage, steps in seen.items():
        total = steps.total // getattr(timed, stage).epochs * getattr(config, stage).epochs
        fresh[stage] = dataclasses.replace(steps, step=0, total=total)
    whole = remaining(config, fresh)
    return {s: left + (seen[s].compile_s if s in seen else 0) for s, left in whole.items()}
