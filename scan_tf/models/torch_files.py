"""Files of PyTorch: weights read without running the code that a file may hold, and written.

A file of `torch.save` is a pickle, and a pickle can name any function to be called. Only tensors,
plain containers and NumPy's numbers are accepted here (`weights_only` of `torch.load`), and for the
numbers stand-ins of this module are built instead of anything of NumPy's. PyTorch is the optional
extra `torch` of this package.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scan_tf.errors import DataError, StageError

# Before this release `weights_only` could be circumvented (CVE-2025-32434).
_OLDEST = (2, 6)
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
        StageError: PyTorch is missing or too old.
        DataError: the file cannot be opened, is damaged, or holds anything else.
    """
    content = _load(path)
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
        if not isinstance(name, str) or not isinstance(value, _torch().Tensor):
            kind = type(value).__name__
            raise DataError(f"{path}: {name!r} is a {kind}, expected a tensor. {_ADVICE}")
        if value.is_floating_point():
            tensors[re.sub(r"^(module\.)+", "", name)] = _array(path, name, value)
    if not tensors:
        raise DataError(f"{path}: holds no weights. {_ADVICE}")
    return TorchFile(tensors, head)


def write(path: Path, tensors: Mapping[str, np.ndarray], head: int | None = None) -> None:
    """Write a state dict, or `{"model": state dict, "head": head}` where `head` is given.

    Raises:
        StageError: PyTorch is missing or too old.
    """
    torch = _torch()
    state = {name: torch.tensor(array) for name, array in tensors.items()}
    torch.save(state if head is None else {"model": state, "head": head}, path)


def _torch() -> Any:
    """PyTorch, which takes a second to import, and which most users do not need."""
    try:
        torch = importlib.import_module("torch")
    except ImportError as error:
        raise StageError(
            "PyTorch is not installed; its files cannot be read or written without it. "
            "Run: pip install 'scan-tf[torch]'"
        ) from error
    version = str(torch.__version__)
    if tuple(int(n) for n in re.findall(r"\d+", version)[:2]) < _OLDEST:
        raise StageError(
            f"PyTorch {version} is too old: a file could run code when it is read. "
            "Run: pip install 'scan-tf[torch]'"
        )
    return torch


def _load(path: Path) -> Any:
    torch = _torch()
    numbers: list[tuple[Any, str]] = [(_DType, "numpy.dtype")]
    # NumPy 2 renamed the module.
    numbers += [(_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    try:
        with torch.serialization.safe_globals(numbers):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror or error}).") from error
    # Damage shows in a dozen kinds of exceptions; all mean the same to a user.
    except Exception as error:
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused:
            problem = f"holds a '{refused[1]}' and was not opened, because that could run any code"
        else:
            problem = f"is damaged or no file of PyTorch ({type(error).__name__})"
        raise DataError(f"{path}: {problem}. {_ADVICE}") from error


def _array(path: Path, name: str, tensor: Any) -> np.ndarray:
    try:
        return np.asarray(tensor.detach().to(_torch().float32).numpy())
    except (RuntimeError, TypeError, NotImplementedError) as error:
        raise DataError(f"{path}: '{name}' is no plain tensor ({tensor.layout}).") from error


def _head(path: Path, value: Any) -> int | None:
    if isinstance(value, _torch().Tensor) and value.ndim == 0:
        value = value.item()
    if value is None or (isinstance(value, int) and value >= 0):
        return value
    raise DataError(f"{path}: 'head' is {value!r}, expected the number of a head, from 0.")


class _DType:
    """Stands in for `numpy.dtype` while a file is read; knows plain numbers only."""

    def __init__(self, code: str, *_: object):
        if not re.fullmatch(r"b1|[iu][1248]|f[248]", code):
            raise ValueError(f"not a number: {code!r}")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = {"<": "<", ">": ">"}.get(state[1], "=")


def _scalar(dtype: _DType, data: bytes) -> int | float:
    """Stands in for NumPy's function that makes a number of its bytes."""
    return np.frombuffer(data, dtype.order + dtype.code, count=1)[0].item()
