"""Names and layouts of the official PyTorch checkpoints, to port weights in both directions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from scan_tf.errors import DataError

_KINDS = {
    "kernel": "weight",
    "gamma": "weight",
    "beta": "bias",
    "bias": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
# The projection head is a torch Sequential: its modules are numbered, the ReLU is number 1.
_MODULES = {"hidden": "0", "out": "2"}
# How many batches a BatchNorm of PyTorch has seen; it is used for cumulative averages alone.
_COUNTER = "num_batches_tracked"
# Tensors that an error names of each kind.
_SHOWN = 3


def torch_names(model: keras.Model) -> dict[str, Any]:
    """PyTorch's name of each variable of a ResNet, ProjectionHead or ClusterHeads.

    Names are relative to the module: `layer1.0.conv1.weight` of a backbone, `0.weight` of a head.
    In a whole official model they are prefixed by `backbone.`, `contrastive_head.` (`0` and `2`)
    and `cluster_head.`.
    """
    names = {}
    for variable in model.variables:
        _, *modules, kind = variable.path.split("/")
        name = ".".join([*(_MODULES.get(m, m) for m in modules), _KINDS[kind]])
        names[name] = variable
    return names


def load_torch(model: keras.Model, tensors: Mapping[str, np.ndarray], prefix: str = "") -> None:
    """Assign PyTorch tensors to the variables of `model`, changing their layout.

    Args:
        model: a ResNet, ProjectionHead or ClusterHeads whose variables exist.
        tensors: arrays by PyTorch's name, such as a state dict. Names without the prefix, and the
            counters of BatchNorm, which nothing here needs, are left alone.
        prefix: what stands before the module's own names, such as "backbone.".

    Raises:
        DataError: tensors are missing, unknown to the network or of another shape; then nothing
            is assigned.
    """
    names = torch_names(model)
    given = {
        name.removeprefix(prefix): _from_torch(np.asarray(tensor))
        for name, tensor in tensors.items()
        if name.startswith(prefix) and not name.endswith(f".{_COUNTER}")
    }
    missing = [f"'{prefix}{n}'" for n in names if n not in given]
    surplus = [f"'{prefix}{n}'" for n in given if n not in names]
    misshapen = [
        f"'{prefix}{n}' should be {tuple(v.shape)}, is {given[n].shape}"
        for n, v in names.items()
        if n in given and given[n].shape != tuple(v.shape)
    ]
    problems = []
    if missing:
        problems.append(f"{len(missing)} of {len(names)} tensors are missing: {_first(missing)}")
    if surplus:
        problems.append(f"{len(surplus)} surplus: {_first(surplus)}")
    if misshapen:
        shown = _first(misshapen)
        problems.append(f"{len(misshapen)} of another shape (in TensorFlow's layout): {shown}")
    if problems:
        raise DataError(
            f"The tensors are not those of the network: {'; '.join(problems)}. Build it with the "
            f"backbone, stem and width that they come from, and check the prefix ('{prefix}')."
        )
    for name, variable in names.items():
        variable.assign(given[name])


def to_torch(model: keras.Model, prefix: str = "") -> dict[str, np.ndarray]:
    """The variables of `model` as PyTorch has them: the way back of `load_torch`.

    Args:
        model: a ResNet, ProjectionHead or ClusterHeads whose variables exist.
        prefix: put before the module's own names, such as "backbone.".

    Returns:
        float32 arrays by name: convolutions OIHW, matrices [out,in]; and for each BatchNorm its
        counter `num_batches_tracked`, int64 [], which a strict PyTorch wants to see.
    """
    tensors = {}
    for name, variable in torch_names(model).items():
        tensors[prefix + name] = np.ascontiguousarray(_to_torch(np.asarray(variable)))
        module, _, kind = name.rpartition(".")
        if kind == "running_var":
            tensors[f"{prefix}{module}.{_COUNTER}"] = np.zeros([], np.int64)
    return tensors


def _first(problems: list[str]) -> str:
    return ", ".join(problems[:_SHOWN]) + (", ..." if len(problems) > _SHOWN else "")


def _from_torch(value: np.ndarray) -> np.ndarray:
    """Convolutions OIHW -> HWIO, matrices [out,in] -> [in,out]."""
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


def _to_torch(value: np.ndarray) -> np.ndarray:
    """Convolutions HWIO -> OIHW, matrices [in,out] -> [out,in]."""
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
