"""The variables of networks on disk, under their names: what one stage hands to the next.

Keras' object-based checkpoints silently lose layers held in Python lists.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np

from scan_tf.errors import Diverged
from scan_tf.storage.files import check_same, not_finite, read_npz, write_npz


def save_weights(
    path: Path, networks: Mapping[str, keras.Model], *, extra: Mapping[str, Any] | None = None
) -> None:
    """Write the variables of `networks` under `network/variable` names.

    Args:
        path: the file, `.npz`; the old one stays until the new one is whole.
        networks: name -> network.
        extra: plain values to store with them.

    Raises:
        Diverged: one of them is not finite; what was at `path` stays.
    """
    arrays = {k: np.asarray(v) for k, v in named_variables(networks).items()}
    if bad := not_finite(arrays):
        raise Diverged(
            f"{path}: not written: {len(bad)} of {len(arrays)} variables are not finite, such as "
            f"{bad[0]}."
        )
    write_npz(path, arrays, {"extra": dict(extra or {})})


def load_weights(path: Path, networks: Mapping[str, keras.Model]) -> dict[str, Any]:
    """Assign the variables of `networks` from `path`; networks not asked for are left there.

    Args:
        path: a file of `save_weights`.
        networks: name -> the network whose variables are assigned.

    Returns:
        The `extra` mapping given to `save_weights`.

    Raises:
        StageError: the file is missing or damaged, or a variable is missing, surplus or of
            another shape.
    """
    arrays, manifest = read_npz(path)
    wanted = named_variables(networks)
    stored = {k: v for k, v in arrays.items() if k.split("/")[0] in networks}
    check_same(path, stored, {k: np.asarray(v) for k, v in wanted.items()})
    for key, variable in wanted.items():
        variable.assign(arrays[key])
    return dict(manifest["extra"])


def named_variables(networks: Mapping[str, keras.Model]) -> dict[str, Any]:
    """Variables by `network/path-inside-the-network`, in a fixed order.

    Args:
        networks: name -> network.
    """
    return {
        f"{name}/{variable.path.split('/', 1)[-1]}": variable
        for name, network in networks.items()
        for variable in network.variables
    }
