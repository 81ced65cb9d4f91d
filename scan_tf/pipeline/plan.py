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
# k-means, pictures, tracing and writing.
_FIXED_S = {"neighbors": 5.0, "evaluate": 25.0, "export": 15.0}


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


def passes(config: Config, stage: str) -> float:
    """Passes through the backbone for each image of a training stage."""
    if stage == "pretext":
        method = catalog.method_class("pretext", config.pretext.name)
        views = getattr(method, "views", None)
        counted = sum(v.count for v in views.values()) if isinstance(views, Mapping) else 2
        return float(counted if method.passes is None else method.passes)
    if stage == "selflabel":
        return 1 + _FORWARD  # the weak view goes forward alone
    if issubclass(catalog.method_class("clustering", config.scan.name), DirectClustering):
        return 0.0
    if config.scan.freeze_backbone:
        return _CACHED if config.scan.cached_views else 2 * _FORWARD
    return 2.0


def remaining(config: Config, seen: Mapping[str, Seen]) -> dict[str, float]:
    """Seconds that each stage still takes, about; {} where no step has been seen.

    Args:
        config: of the run.
        seen: of the stages that have made steps; the last of them tells of the ones after it.
    """
    known = [stage for stage in TRAINED if stage in seen and passes(config, stage)]
    if not known:
        return {}
    first, last = known[0], known[-1]
    section = getattr(config, first)
    images = seen[first].total / section.epochs * section.batch_size
    images_per_second = seen[last].steps_per_second * getattr(config, last).batch_size
    pass_s = 1 / (images_per_second * passes(config, last))
    left = {"neighbors": images * _FORWARD * pass_s, "evaluate": images * pass_s, "export": 0.0}
    for stage in TRAINED:
        if stage in seen:
            left[stage] = (seen[stage].total - seen[stage].step) / seen[stage].steps_per_second
        else:
            work = getattr(config, stage).epochs * images * passes(config, stage)
            left[stage] = work * pass_s + (seen[last].compile_s if work else 0)
    return {stage: left[stage] + _FIXED_S.get(stage, 0) for stage in STAGES}


def in_words(left: Mapping[str, float]) -> str:
    """The sum, and its parts."""
    parts = ", ".join(f"{stage} {duration(s)}" for stage, s in left.items() if s >= 1)
    return f"about {duration(sum(left.values()))} ({parts})"


def within(config: Config, pretext: Seen, budget_s: float) -> Config:
    """The config with as many epochs as a time allows, in the proportions that it has.

    Args:
        config: a config.
        pretext: what some steps of its pretext took.
        budget_s: for all stages together.

    Raises:
        ConfigError: a single epoch of each stage takes longer.
    """
    full = remaining(config, {"pretext": pretext})
    stages = [stage for stage in TRAINED if getattr(config, stage).epochs]
    # remaining counts the compilation of the stages after the pretext.
    epoch_s = {
        stage: (full[stage] - (pretext.compile_s if stage != "pretext" else 0))
        / getattr(config, stage).epochs
        for stage in stages
    }
    rest = sum(s for stage, s in full.items() if stage not in TRAINED)
    rest += len(stages) * pretext.compile_s
    least = rest + sum(epoch_s.values())
    if least > budget_s:
        raise ConfigError(
            f"--minutes: too few: one epoch of each stage takes about {duration(least)} here, and "
            f"{duration(max(0, budget_s))} are left. Give more, fewer images or a smaller model."
        )
    training = sum(s * getattr(config, stage).epochs for stage, s in epoch_s.items())
    share = (budget_s - rest) / training
    changed: dict[str, Any] = {}
    for stage in stages:
        section = getattr(config, stage)
        epochs = max(1, int(share * section.epochs))
        changed[stage] = dataclasses.replace(section, epochs=epochs)
    return dataclasses.replace(config, **changed)
