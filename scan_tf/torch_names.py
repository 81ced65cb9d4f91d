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
        tensors: arrays by PyTorch's name, such as a state dict; names that are not asked for are
            left alone.
        prefix: what stands before the module's own names, such as "backbone.".

    Raises:
        DataError: a tensor is missing or has another shape; then nothing is assigned.
    """
    names = torch_names(model)
    missing = [prefix + name for name in names if prefix + name not in tensors]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(names)} tensors are missing, the first is '{missing[0]}'. "
            f"Check the prefix ('{prefix}') and that the file is of the same network."
        )
    values = {name: _from_torch(np.asarray(tensors[prefix + name])) for name in names}
    for name, variable in names.items():
        if values[name].shape != tuple(variable.shape):
            raise DataError(
                f"tensor '{prefix}{name}': expected shape {tuple(variable.shape)} in TensorFlow's "
                f"layout, got {values[name].shape}. Build the model with the width and stem of "
                "the network the tensors come from."
            )
    for name, variable in names.items():
        variable.assign(values[name])


def _from_torch(value: np.ndarray) -> np.ndarray:
    """Convolutions OIHW -> HWIO, matrices [out,in] -> [in,out]."""
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T
