"""Variants of a run: runs of their own that share its images, its pretext and what else is equal.

Every variant is an ordinary run directory. A stage that the parent, or another variant, has
finished with the same settings is linked and not computed again.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from scan_tf import config
from scan_tf.data.image_set import ImageSet, Split
from scan_tf.errors import ConfigError, StageError
from scan_tf.pipeline.run_dir import Run
from scan_tf.pipeline.stage import OUTPUTS, REPEATED, STAGES
from scan_tf.settings import reading
from scan_tf.settings.schema import shorten
from scan_tf.storage import files

# The parent's report has the pictures, and what is known of the features they share.
_QUIET = {
    "evaluate.pictures": False,
    "evaluate.kmeans_restarts": 1,
    "evaluate.linear_probe": False,
    "runtime.tensorboard": False,
    "runtime.profile": False,
}


class Variant(Run):
    """A run with settings of its own on the images and the pretext of another.

    Args:
        settings: the resolved config.
        root: the run directory.
        parent: the run with the pretext.
        values: dotted key -> value of the settings in which the variants differ, less the seed.
        stages: those that it has of its own.
    """

    # One of many; whoever wants more of it can run it alone.
    keeps_embeddings = False

    def __init__(
        self,
        settings: config.Config,
        root: Path,
        parent: Run,
        values: Mapping[str, Any],
        stages: Sequence[str] = REPEATED,
    ):
        super().__init__(settings, root)
        self.parent, self.values, self.stages = parent, values, stages
        self.share_images(parent)

    def __str__(self) -> str:
        settings = (f"{key}={as_text(value)}" for key, value in self.values.items())
        return " ".join([*settings, f"seed {self.config.clustering_seed}"])

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        return all(self.is_done(stage) for stage in self.stages)

    def images(self, split: Split) -> ImageSet | None:
        """The parent's, which are read once for all variants."""
        return self.parent.images(split)

    def share(self, roots: Iterable[Path]) -> None:
        """Link the stages that one of these run directories has finished with the same settings."""
        roots = list(roots)
        for stage in ("pretext", *(s for s in self.stages if s not in OUTPUTS)):
            record = self.record(stage)
            if record.is_done:
                continue
            donor = next((r for r in roots if _has(Run(self.config, r), stage)), None)
            if record.has_begun or donor is None:
                return  # begun here, or nowhere done; what follows builds on it
            _link(donor / stage, self.folder(stage))
            # Last, so that nothing looks finished that an interruption has cut off.
            status = Path("status") / f"{stage}.json"
            text = (donor / status).read_text(encoding="utf-8")
            files.write_text(self.root / status, text)


def parse(overrides: Iterable[str]) -> tuple[list[str], dict[str, Any], dict[str, list[Any]]]:
    """Sort `key=value` texts of the command line by what they are for.

    Several values are separated by commas; a list in brackets is one value.

    Returns:
        shared: the texts that concern the parent, such as `data.path=DIR`.
        fixed: dotted key -> value, the same for all variants.
        axes: dotted key -> the values to try.

    Raises:
        ConfigError: a text is not `key=value`, or the value is not valid YAML.
    """
    shared: list[str] = []
    fixed: dict[str, Any] = {}
    axes: dict[str, list[Any]] = {}
    for text in overrides:
        key, raw = config.split_override(text)
        values = [raw] if key == "data.path" else _values(text, raw)
        fixed.pop(key, None)
        axes.pop(key, None)
        if len(values) > 1:
            axes[key] = values
        elif key == "clustering_seed" or key.split(".")[0] in REPEATED:
            fixed[key] = values[0]
        else:
            shared.append(text)
    return shared, fixed, axes


def plan(
    parent: Run,
    folder: Path,
    *,
    axes: Mapping[str, Sequence[Any]],
    fixed: Mapping[str, Any],
    seeds: Sequence[int] | None,
    stages: Sequence[str] = REPEATED,
) -> list[Variant]:
    """Every combination of the values with every seed, in that order; nothing is written.

    Args:
        parent: the run with the pretext.
        folder: above the run directories `<values>/seed-<seed>`.
        axes: dotted key -> the values to try.
        fixed: dotted key -> the value of all variants, in place of the parent's.
        seeds: `clustering_seed`s; None: the parent's.
        stages: those of REPEATED to run.

    Raises:
        ConfigError: a setting is unknown, bad, or one that the pretext reads.
        StageError: the pretext has not finished, or the folder holds results of other settings.
    """
    for key in [*fixed, *axes]:
        _check_key(key)
    parent.require("pretext")
    variants: dict[Path, Variant] = {}
    for combination in itertools.product(*axes.values()):
        given = dict(zip(axes, combination, strict=True))
        for seed in dict.fromkeys([parent.config.clustering_seed] if seeds is None else seeds):
            changes = _QUIET | dict(fixed) | given | {"clustering_seed": seed}
            settings = _changed(parent.config, changes)
            values = {key: _value(settings, key, value) for key, value in given.items()}
            root = folder / label(values) / f"seed-{seed}"
            if root in variants:
                raise ConfigError(f"{label(values)}: the value is given twice. Leave one out.")
            variants[root] = Variant(settings, root, parent, values, stages)
    for variant in variants.values():
        try:
            variant.is_done(REPEATED[-1])
        except StageError as error:
            raise StageError(
                f"{folder} holds results of other settings. Give another --name, or delete that "
                f"folder. ({error})"
            ) from error
    return [*variants.values()]


def label(values: Mapping[str, Any]) -> str:
    """Settings as the name of a folder, such as `scan.epochs=5+neighbors.k=10`."""
    text = "+".join(f"{key}={as_text(value)}" for key, value in values.items())
    return re.sub(r"[^\w.=+-]+", "_", text)


def as_text(value: Any) -> str:
    """A value of a setting as it is typed; 5.0 as 5."""
    if isinstance(value, float):
        return repr(value).removesuffix(".0")
    return value if isinstance(value, str) else json.dumps(value)


def _values(text: str, raw: str) -> list[Any]:
    """The values of an override, separated by commas outside of brackets and quotes."""
    complaint = f"override '{shorten(text)}': the value is not valid YAML"
    try:
        values = reading.parse_yaml(f"[{raw}]", complaint)
    except ConfigError:
        values = []  # a single value that brackets do not hold, such as a path with `]`
    if isinstance(values, list) and len(values) > 1:
        return values
    return [reading.parse_yaml(raw, complaint)]


def _check_key(key: str) -> None:
    """Refuse what variants share."""
    section = key.split(".")[0]
    if section == "clustering_seed":
        raise ConfigError("clustering_seed: is given by --seeds here, such as --seeds 0 1 2.")
    if section not in REPEATED and section in STAGES["pretext"].reads:
        raise ConfigError(
            f"{key}: the pretext reads it, and all points share one pretext. Vary settings of "
            f"{', '.join(REPEATED)}; --seeds gives other seeds of the clustering."
        )


def _changed(settings: config.Config, changes: Mapping[str, Any]) -> config.Config:
    tree = config.to_dict(settings)
    # A point with another method of a stage is not asked for the settings of the parent's.
    reading.leave_out_replaced(
        config.Config, tree, [(key.split("."), v, f"{key}={v}") for key, v in changes.items()]
    )
    for key, value in changes.items():
        *sections, leaf = key.split(".")
        inner = tree
        for section in sections:
            inner = inner.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ConfigError(f"{key}: {section} is a setting, not a section.")
        inner[leaf] = value
    return config.from_dict(tree)


def _value(settings: config.Config, key: str, given: Any) -> Any:
    """What was understood, such as 0.001 for 1e-3; of a whole section, what was given."""
    found = config.to_dict(settings)
    for part in key.split("."):
        found = found[part]
    return given if isinstance(found, dict) else found


def _has(run: Run, stage: str) -> bool:
    """Whether a run has finished the stage, with the settings that it is opened with."""
    try:
        return run.is_done(stage)
    except StageError:
        return False  # with other settings


def _link(source: Path, target: Path) -> None:
    """Give the results of a stage to another run without taking their space again."""
    target.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.suffix not in (".npz", ".json", ".jsonl"):
            continue  # checkpoints, TensorBoard, Annoy's index
        files.keep(file, target / file.name)
