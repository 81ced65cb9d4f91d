"""Files of PyTorch: state dicts read, and written.

They are read without PyTorch (`scan_tf.models.torch_tensors`). Writing them needs it: it is the
optional extra `torch` of this package.
"""

from __future__ import annotations

import dataclasses
import importlib
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scan_tf.errors import DataError, StageError
from scan_tf.models import torch_tensors

# Under these keys a file may hold the state dict: SCAN and its checkpoints, and MoCo.
_CONTAINERS = ("model", "state_dict")
_ADVICE = (
    "Expected weights by name, as torch.save(model.state_dict(), FILE) writes them, alone or under "
    f"{' or '.join(repr(c) for c in _CONTAINERS)}."
)


@dataclasses.dataclass(frozen=True)
class TorchFile:
    """What a file holds.

    Attributes:
        tensors: float32 arrays by name, in PyTorch's layout and without DataParallel's `module.`
            before the names. Integers, such as BatchNorm's counters, are left out.
        head: the number of the best cluster head, from 0, where the file says it.
    """

    tensors: dict[str, np.ndarray]
    head: int | None = None


def read(path: Path) -> TorchFile:
    """Read weights, in any of the forms in which the SCAN and MoCo authors publish them.

    Those are a state dict, `{"model": state dict, "head": number}`, a training checkpoint with
    `model` among other things, and `{"state_dict": state dict, ...}`, each in the format that
    `torch.save` has written since PyTorch 1.6 or in the one before.

    Raises:
        DataError: the file cannot be opened, is damaged, or holds anything else.
    """
    content = torch_tensors.load(path)
    head = None
    for key in _CONTAINERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            head = _head(path, content.get("head"))
            content = content[key]
            break
    if not isinstance(content, Mapping):
        raise DataError(f"{path}: holds a {type(content).__name__}. {_ADVICE}")
    tensors = {}
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray):
            kind = type(value).__name__
            raise DataError(f"{path}: {name!r} is a {kind}, expected a tensor. {_ADVICE}")
        if value.dtype.kind == "f":
            plain = re.sub(r"^(module\.)+", "", name)
            tensors[plain] = value.astype(np.float32, copy=False)
    if not tensors:
        raise DataError(f"{path}: holds no weights. {_ADVICE}")
    return TorchFile(tensors, head)


def write(path: Path, tensors: Mapping[str, np.ndarray], head: int | None = None) -> None:
    """Write a state dict, or `{"model": state dict, "head": head}` where `head` is given.

    Raises:
        StageError: PyTorch is missing.
    """
    torch = _torch()
    state = {name: torch.tensor(array) for name, array in tensors.items()}
    content = io.BytesIO()  # of a full disk PyTorch's own writer does not tell
    torch.save(state if head is None else {"model": state, "head": head}, content)
    path.write_bytes(content.getbuffer())


def _torch() -> Any:
    """PyTorch, which takes a second to import, and which most users do not need."""
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise StageError(
            "PyTorch is not installed; its files cannot be written without it. "
            "Run: pip install 'scan-tf[torch]'"
        ) from error


def _head(path: Path, value: Any) -> int | None:
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value.item()
    if value is None or (isinstance(value, int) and value >= 0):
        return value
    shown = value if isinstance(value, (int, float)) else f"a {type(value).__name__}"
    raise DataError(f"{path}: 'head' is {shown}, expected the number of a head, from 0.")
