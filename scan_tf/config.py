"""Typed configuration: frozen dataclasses, a strict YAML loader and dotted overrides.

Every setting of the program is a field of one of the sections below. `load` refuses unknown keys,
wrong types and values out of range, and names the dotted path, what was expected and what was
received. Nothing is read from the environment.

The sections `pretext`, `scan` and `selflabel` are the `Config` of the method that their `name`
picks: a module in the folder of its kind below `scan_tf/methods/`, or any other by a dotted name.
"""

from __future__ import annotations

import dataclasses
import logging
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml

from scan_tf.errors import ConfigError
from scan_tf.schema import Section, chosen, did_you_mean, find_module, read_yaml, setting, show

_log = logging.getLogger(__name__)
_RESNETS = ("resnet10", "resnet18", "resnet34", "resnet50")


@dataclasses.dataclass(frozen=True)
class DataConfig(Section):
    """Which images. `path` is a folder of images, or the data directory of tensorflow-datasets."""

    name: str = "digits"
    path: str | None = None
    # Side in pixels of the square images the networks see; None: the data set's own.
    image_size: int | None = setting(None, low=4, high=1024)
    # Refuse a folder with unreadable images instead of listing and skipping them.
    strict: bool = False


@dataclasses.dataclass(frozen=True)
class ModelConfig(Section):
    """The backbone and the projection head (reference: SCAN, ResNet-18, 512 -> 128)."""

    # One of _RESNETS, or the dotted name of a module with a function `build` like theirs.
    backbone: str = "resnet18"
    stem: Literal["cifar", "strided", "stl", "imagenet"] = "cifar"
    width: int = setting(64, low=1, high=512)
    projection_dim: int = setting(128, low=2, high=4096)

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        if "." not in self.backbone and self.backbone not in _RESNETS:
            hint = did_you_mean(self.backbone, _RESNETS)
            raise ConfigError(f"backbone: {show(self.backbone)} is not a choice. {hint}")


@dataclasses.dataclass(frozen=True)
class AugmentConfig(Section):
    """Parameters of the augmentation policies; the defaults are the official SCAN settings."""

    # device: batched TensorFlow ops inside the step; host: the same policies in albumentations.
    backend: Literal["device", "host"] = "device"
    flip: float = setting(0.5, low=0, high=1)
    crop_scale: tuple[float, float] = (0.2, 1.0)
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    # Brightness, contrast, saturation, hue of ColorJitter.
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_probability: float = setting(0.8, low=0, high=1)
    grayscale_probability: float = setting(0.2, low=0, high=1)
    # Reflect padding, in pixels, of the weak policy's random crop.
    weak_padding: int = setting(4, low=0, high=64)
    # Random rotation of the `simclr` and `weak` views, +- degrees (0: none, as in the paper).
    rotate: float = setting(0.0, low=0, high=180)
    strong_ops: int = setting(4, low=0, high=14)
    # Longest side of the cutout hole in pixels; None: 16, 32, 75 at 32, 96, 224 pixels.
    cutout: int | None = setting(None, low=0)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig(Section):
    """Optimiser and schedule. `l2` is coupled: added to the gradient of every parameter."""

    name: Literal["sgd", "adam"] = "adam"
    lr: float = setting(1e-4, above=0)
    momentum: float = setting(0.9, low=0, high=1)
    nesterov: bool = False
    l2: float = setting(1e-4, low=0)
    schedule: Literal["constant", "cosine"] = "constant"
    # `epoch` moves the cosine once an epoch, as the official code does; `step` every step.
    schedule_per: Literal["epoch", "step"] = "epoch"
    # The cosine ends at lr * final_fraction (official: lr * 0.1**3).
    final_fraction: float = setting(1e-3, low=0, high=1)
    warmup_epochs: float = setting(0.0, low=0)
    # Clip the global norm of the gradient; 0: off.
    clip_norm: float = setting(0.0, low=0)


@dataclasses.dataclass(frozen=True)
class TrainConfig(Section):
    """What every training stage has."""

    epochs: int = setting(1, low=1)
    batch_size: int = setting(128, low=2)
    optimizer: OptimizerConfig = OptimizerConfig()


@dataclasses.dataclass(frozen=True)
class PretextConfig(TrainConfig):
    """What every pretext has; each file in `scan_tf/methods/pretext/` adds its own fields."""

    name: str = ""
    # Score the features by kNN every so many epochs, for the curves alone; 0: never.
    knn_every: int = setting(0, low=0)


@dataclasses.dataclass(frozen=True)
class NeighborsConfig(Section):
    """Neighbour mining (Annoy's recall depends on `n_trees` and `search_k`)."""

    # hnsw needs the extra of that name.
    index: Literal["annoy", "exact", "hnsw", "auto"] = "auto"
    k: int = setting(20, low=1)
    # Neighbours of each held-out image, for the label-free choice of epoch and head.
    k_validation: int = setting(5, low=1)
    n_trees: int = setting(100, low=1)
    # Nodes inspected per query; -1: Annoy's default, n_trees * k.
    search_k: int = setting(-1, low=-1)
    # How many queries are compared with the exact search to estimate the recall.
    recall_sample: int = setting(1000, low=1)


@dataclasses.dataclass(frozen=True)
class ScanConfig(TrainConfig):
    """What every clustering has; each file in `scan_tf/methods/clustering/` adds its own fields."""

    name: str = ""
    epochs: int = setting(50, low=1)
    # None: the number of classes, where the data set knows it.
    num_clusters: int | None = setting(None, low=2)
    num_heads: int = setting(1, low=1)
    augmentation: Literal["strong", "simclr", "weak", "none"] = "strong"
    # Train the heads only; the backbone stays in inference mode, without gradient.
    freeze_backbone: bool = False
    # Augmented views of every feature kept for training heads alone; 0: none, augment each time.
    cached_views: int = setting(0, low=0)
    # Epochs of the heads alone, on cached views, before the epochs of the whole network.
    head_epochs: int = setting(0, low=0)
    head_lr: float = setting(1e-3, above=0)
    # Which images the label-free selection of epoch and head looks at.
    selection: Literal["heldout", "test", "train"] = "heldout"
    heldout_fraction: float = setting(0.1, above=0, high=0.5)
    combine: Literal["best_head", "consensus"] = setting(
        "best_head",
        help="the head of the lowest selection loss, or a classifier of what all heads agree on",
    )


@dataclasses.dataclass(frozen=True)
class SelfLabelConfig(TrainConfig):
    """What every last stage has; each file in `scan_tf/methods/selflabel/` adds its own fields."""

    name: str = ""
    # 0 leaves the stage out: the clustering before it is what the run has to show.
    epochs: int = setting(200, low=0)
    batch_size: int = setting(1000, low=2)
    augmentation: Literal["strong", "simclr", "weak", "none"] = "strong"


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(Section):
    """Scores and pictures. `auto` takes the test split where the data set has one."""

    split: Literal["auto", "train", "test"] = "auto"
    batch_size: int = setting(500, low=1)
    knn_k: int = setting(100, low=1)
    kmeans_restarts: int = setting(10, low=1)
    # Fit a linear classifier on the pretext's features: one more pass over the training images.
    linear_probe: bool = True
    pictures: bool = True
    # Images on the 2-D map of the features.
    map_points: int = setting(2000, low=10)


@dataclasses.dataclass(frozen=True)
class RuntimeConfig(Section):
    """How to compute. `auto` picks what measured fastest on the platform; it is written down."""

    dtype: Literal["auto", "float32", "mixed_bfloat16"] = "auto"
    jit_compile: Literal["auto", "always", "never"] = "auto"
    # Images are kept on the device up to this size in MiB, and streamed from memory above it.
    resident_mib: int = setting(4096, low=0)
    log_every: int = setting(50, low=1)
    checkpoint_minutes: float = setting(2.0, above=0)
    progress: bool = True
    tensorboard: bool = True
    # Write a profile of a few steps of every stage that is trained.
    profile: bool = False


@dataclasses.dataclass(frozen=True)
class Config(Section):
    """A whole experiment: one YAML file, all stages in it."""

    name: str = "run"
    seed: int = setting(0, low=0, high=2**31 - 1)
    # Another number gives another clustering on the same pretext.
    clustering_seed: int = setting(0, low=0, high=2**31 - 1)
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    augment: AugmentConfig = AugmentConfig()
    pretext: PretextConfig = chosen("scan_tf.methods.pretext", "simclr")
    neighbors: NeighborsConfig = NeighborsConfig()
    scan: ScanConfig = chosen("scan_tf.methods.clustering", "scan")
    selflabel: SelfLabelConfig = chosen("scan_tf.methods.selflabel", "confident")
    evaluate: EvaluateConfig = EvaluateConfig()
    runtime: RuntimeConfig = RuntimeConfig()


def load(path: str | Path, overrides: Iterable[str] = ()) -> Config:
    """Read a YAML file and apply `key.path=value` overrides.

    Where an override picks another method than the file, such as `pretext.name=rotnet`, the file's
    settings that only the replaced method knows are left out, and named in a warning.

    Args:
        path: the YAML file; it holds only what departs from the defaults.
        overrides: strings such as `scan.epochs=20`; the value is read as YAML.

    Raises:
        ConfigError: the file is missing or no YAML, or a setting is bad.
    """
    tree = read_yaml(Path(path))
    changes = [_parse_override(text) for text in overrides]
    _leave_out_replaced(tree, changes)
    for keys, value, text in changes:
        _apply_override(tree, keys, value, text)
    return from_dict(tree)


def from_dict(tree: Mapping[str, Any]) -> Config:
    """Build a Config from nested mappings. Raises ConfigError as `load` does."""
    return typing.cast(Config, _build(Config, tree, ""))


def to_dict(section: Any) -> Any:
    """Nested plain dictionaries of a section, ready for YAML or JSON (tuples become lists)."""
    if dataclasses.is_dataclass(section):
        return {f.name: to_dict(getattr(section, f.name)) for f in dataclasses.fields(section)}
    return list(section) if isinstance(section, tuple) else section


def dump(config: Config) -> str:
    """The whole config as YAML, every field written out."""
    return yaml.safe_dump(to_dict(config), sort_keys=False)


def split_override(text: str) -> tuple[str, str]:
    """The dotted key and the value, as text, of `key=value`. Raises ConfigError for others."""
    key, equals, raw = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"override '{text}': expected key=value, such as scan.epochs=20.")
    return key.strip(), raw


def _parse_override(text: str) -> tuple[list[str], Any, str]:
    """The keys and the value of an override, and the text itself."""
    key, raw = split_override(text)
    try:
        return key.split("."), yaml.safe_load(raw), text
    except yaml.YAMLError as error:
        raise ConfigError(f"override '{text}': the value is not valid YAML: {error}") from error


def _leave_out_replaced(tree: dict[str, Any], changes: list[tuple[list[str], Any, str]]) -> None:
    """Take from the tree what only the methods know that the overrides replace by others."""
    for field in dataclasses.fields(Config):
        section = _expand_name(tree.get(field.name) or {})
        names = [v for keys, v, _ in changes if keys in ([field.name], [field.name, "name"])]
        if "package" not in field.metadata or not names or not isinstance(section, Mapping):
            continue
        before, after = section.get("name", field.metadata["default"]), names[-1]
        if before == after or not (isinstance(before, str) and isinstance(after, str)):
            continue
        old, new = (_fields(_method_config(field, n)) for n in (before, after))
        left_out = [key for key in section if key in old.keys() - new.keys()]
        tree[field.name] = {k: v for k, v in section.items() if k not in left_out}
        if left_out:
            _log.warning(
                "%s.name=%s in place of %s: left out %s, which only %s has.",
                *(field.name, after, before, ", ".join(left_out), before),
            )


def _apply_override(tree: dict[str, Any], keys: list[str], value: Any, text: str) -> None:
    *sections, leaf = keys
    for section in sections:
        inner = _expand_name(tree.get(section) or {})
        if not isinstance(inner, Mapping):
            raise ConfigError(f"override '{text}': {section} is {show(inner)}, not a section.")
        tree[section] = tree = dict(inner)
    # A section given by its name alone, `pretext=rotnet`, keeps its other settings.
    if isinstance(tree.get(leaf), Mapping) and isinstance(value, str):
        tree[leaf] = {**tree[leaf], **_expand_name(value)}
    else:
        tree[leaf] = value


def _expand_name(value: Any) -> Any:
    """`pretext: rotnet` and `optimizer: sgd` are short for `{name: ...}`."""
    return {"name": value} if isinstance(value, str) else value


def _fields(cls: type) -> dict[str, dataclasses.Field[Any]]:
    return {field.name: field for field in dataclasses.fields(cls)}


def _method_config(field: dataclasses.Field[Any], name: Any) -> Any:
    """The class of a section that a method's name picks."""
    if not isinstance(name, str):
        raise ConfigError(f"{field.name}.name: expected a string, got {show(name)}.")
    module = find_module(field.metadata["package"], name, f"{field.name}.name")
    base = typing.get_type_hints(Config)[field.name]
    kind = getattr(module, "Config", None)
    if not (isinstance(kind, type) and issubclass(kind, base) and hasattr(module, "Method")):
        raise ConfigError(
            f"{field.name}.name: '{name}' is no method: expected a module with a class Config that "
            f"extends {base.__name__}, and a class Method."
        )
    return kind


def _build(cls: type, tree: Any, path: str) -> Any:
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{path or 'config'}: expected a mapping, got {show(tree)}.")
    hints, fields = typing.get_type_hints(cls), _fields(cls)
    values: dict[str, Any] = {}
    for key, value in tree.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in hints:
            raise ConfigError(f"unknown key '{where}'. {did_you_mean(str(key), hints)}")
        if not dataclasses.is_dataclass(hints[key]):
            values[key] = value
            continue
        if "name" in typing.get_type_hints(hints[key]):
            value = _expand_name(value)
        if "package" in fields[key].metadata and isinstance(value, Mapping):
            kind = _method_config(fields[key], value.get("name", fields[key].metadata["default"]))
        else:
            kind = hints[key]
        # A section that is given in part keeps the other defaults of its owner.
        given = _build(kind, value, where)
        default: Any = getattr(cls, key, None)
        default = default if type(default) is kind else kind()
        values[key] = dataclasses.replace(default, **{k: getattr(given, k) for k in value})
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{path}.{error}" if path else str(error)) from None
