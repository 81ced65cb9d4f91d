"""Tensors of PyTorch's files, read without PyTorch and without running what a file may hold.

A file of `torch.save` is a pickle beside raw numbers, and a pickle can name any function to be
called. Here it is interpreted, not unpickled (`torch_pickle`), and of the names in it only those of
`_NAMES` are known, each by a stand-in of this module. Sizes are checked against that of the file
before anything is allocated, and no tensor reaches beyond its storage.
"""

from __future__ import annotations

import dataclasses
import math
import mmap
import re
import struct
import zipfile
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np

from scan_tf.errors import DataError
from scan_tf.models.torch_pickle import Function, Refused, State, interpret
from scan_tf.storage.files import open_regular

# The first two numbers of a file in the format before PyTorch 1.6.
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
# PyTorch's storage classes: the type of their bytes, and of the array they become.
_KINDS = {
    "FloatStorage": ("<f4", "f4"),
    "DoubleStorage": ("<f8", "f8"),
    "HalfStorage": ("<f2", "f2"),
    "BFloat16Storage": ("<u2", "f4"),
    "LongStorage": ("<i8", "i8"),
    "IntStorage": ("<i4", "i4"),
    "ShortStorage": ("<i2", "i2"),
    "CharStorage": ("i1", "i1"),
    "ByteStorage": ("u1", "u1"),
    "BoolStorage": ("u1", "?"),
}
# NumPy's tensors have 64 axes at most, PyTorch's strides 63 bits.
_MAX_AXES, _MAX = 64, 2**63
_ADVICE = "Save the weights alone, by torch.save(model.state_dict(), FILE), to have them read."


def load(path: str | Path) -> Any:
    """What `torch.save` wrote to `path`, in the format since PyTorch 1.6 or in the one before.

    Returns:
        Dicts, lists, tuples, strings, numbers, and a read-only array for every tensor, in its
        shape: views of the storages, which need not be contiguous. bfloat16 becomes float32, a
        number of NumPy's one of Python's; attributes of an OrderedDict are left out.

    Raises:
        DataError: the file cannot be opened, is damaged, or holds anything else.
    """
    try:
        with open_regular(path) as file:
            return _zip(file) if zipfile.is_zipfile(file) else _before_zip(file)
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror or error}).") from error
    except Refused as error:
        raise DataError(f"{path}: {error} {_ADVICE}") from None
    # Damage shows in a dozen kinds of exceptions; all mean the same to a user.
    except Exception as error:
        kind = type(error).__name__
        raise DataError(f"{path}: is damaged or no file of PyTorch ({kind}). {_ADVICE}") from error


# The two formats


def _zip(file: IO[bytes]) -> Any:
    """One pickle, `NAME/data.pkl`, and each storage in `NAME/data/KEY`."""
    size = file.seek(0, 2)
    storages = _Storages(size)
    with zipfile.ZipFile(file) as archive:
        entries = {info.filename: info for info in archive.infolist()}

        def read(name: str) -> bytes:
            if entries[name].compress_type != zipfile.ZIP_STORED:
                raise Refused("is compressed, which PyTorch's files never are.")
            if entries[name].file_size > size:
                raise ValueError("a part larger than the file")
            return archive.read(name)

        (pickle,) = (name for name in entries if re.fullmatch(r"[^/]+/data\.pkl", name))
        folder = pickle.removesuffix("data.pkl")
        if f"{folder}byteorder" in entries and read(f"{folder}byteorder") != b"little":
            raise Refused("was written by a big-endian machine.")
        content = interpret(BytesIO(read(pickle)), _NAMES, storages.find)
        for key, storage in storages.items():
            storage.fill(read(f"{folder}data/{key}"))
    return content


def _before_zip(file: IO[bytes]) -> Any:
    """Five pickles: magic number, version, the machine, the content, the keys; then storages."""
    # Mapped, a file yields no more than is there, whatever length it claims.
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        storages = _Storages(len(data))
        if [interpret(data, {}), interpret(data, {})] != [_MAGIC, _PROTOCOL]:
            raise ValueError("another magic number")
        if interpret(data, {})["little_endian"] is not True:
            raise Refused("was written by a big-endian machine.")
        content = interpret(data, _NAMES, storages.find)
        keys = interpret(data, {})
        if not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(storages):
            raise ValueError("other storages than those of the tensors")
        for storage in (storages[key] for key in keys):
            (count,) = struct.unpack("<q", data.read(8))
            storage.expect(count)
            storage.fill(data.read(storage.num_bytes))
        return content


# What a pickle may name


@dataclasses.dataclass(frozen=True)
class _Kind:
    """A storage class of PyTorch's."""

    name: str


class _Storage:
    """The numbers of one or several tensors, `values` [count]."""

    def __init__(self, kind: _Kind, count: int, limit: int):
        raw, final = _KINDS[kind.name]
        self.kind, self.count, self.raw = kind, count, np.dtype(raw)
        self.num_bytes = count * self.raw.itemsize
        if self.num_bytes > limit:
            raise ValueError("tensors larger than the file")
        self.values = np.zeros(count, final)

    def expect(self, count: int) -> None:
        """Check the size that another part of the file says."""
        if count != self.count:
            raise ValueError("a storage of two sizes")

    def fill(self, data: bytes) -> None:
        """Take the bytes; tensors are views and exist already."""
        raw = np.frombuffer(data, self.raw)
        self.expect(len(raw))
        if self.kind.name == "BFloat16Storage":  # the upper half of a float32
            raw = (raw.astype(np.uint32) << 16).view(np.float32)
        self.values[:] = raw


class _Storages(dict[str, _Storage]):
    """The storages by key. Together they are not larger than the file of `size` bytes."""

    def __init__(self, size: int):
        super().__init__()
        self.left = size

    def find(self, identity: Any) -> _Storage:
        """The storage that a pickle means by a persistent identity."""
        what, kind, key, _, count, *view = identity
        if what != "storage" or not isinstance(kind, _Kind) or not isinstance(key, str):
            raise Refused("refers to something that is no storage of a tensor.")
        if view not in ([], [None]):
            raise Refused("holds views of storages, as PyTorch wrote them before 0.4.")
        if key not in self:
            self[key] = _Storage(kind, _natural(count), self.left)
            self.left -= self[key].num_bytes
        if self[key].kind != kind:
            raise Refused("reads a storage as numbers of two kinds.")
        self[key].expect(count)
        return self[key]


def _natural(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _MAX:
        raise ValueError("expected a number from 0")
    return value


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> np.ndarray:
    """`torch._utils._rebuild_tensor_v2`, and the older form with four arguments."""
    if not isinstance(storage, _Storage) or not len(shape) == len(strides) <= _MAX_AXES:
        raise ValueError("no tensor")
    sizes, steps = [_natural(n) for n in shape], [_natural(n) for n in strides]
    count = math.prod(sizes)
    if count == 0:
        return np.zeros(sizes, storage.values.dtype)
    last = _natural(offset) + sum((n - 1) * step for n, step in zip(sizes, steps, strict=True))
    # A tensor that repeats its numbers could claim any size.
    if last >= storage.count or count > storage.count:
        raise Refused("holds a tensor that reaches beyond its storage.")
    steps = [
        step * storage.values.itemsize if n > 1 else 0 for n, step in zip(sizes, steps, strict=True)
    ]
    start = storage.values[offset:]
    return np.lib.stride_tricks.as_strided(start, sizes, steps, writeable=False)


def _parameter(tensor: Any, *_: Any) -> np.ndarray:
    """`torch._utils._rebuild_parameter`."""
    if not isinstance(tensor, np.ndarray):
        raise ValueError("no tensor")
    return tensor


def _size(axes: Any) -> tuple[Any, ...]:
    """`torch.Size`."""
    if not isinstance(axes, tuple):
        raise ValueError("no size")
    return axes


def _ordered_dict() -> dict[Any, Any]:
    """`collections.OrderedDict`, which a pickle makes empty."""
    return {}


def _encode(text: str, encoding: str) -> bytes:
    """`_codecs.encode`, by which a pickle writes the bytes of a number."""
    if encoding != "latin1" or len(text) > 8:
        raise ValueError("no number")
    return text.encode("latin1")


class _DType(State):
    """`numpy.dtype`; knows plain numbers only."""

    def __init__(self, code: str, *_: object):
        if not re.fullmatch(r"b1|[iu][1248]|f[248]", code):
            raise ValueError("no number")
        self.code, self.order = code, "="

    def set_state(self, state: Any) -> None:
        """The byte order stands second."""
        self.order = state[1] if state[1] in ("<", ">") else "="


def _scalar(dtype: Any, data: bytes) -> int | float:
    """NumPy's function that makes a number of its bytes."""
    if not isinstance(dtype, _DType):
        raise ValueError("no number")
    return np.frombuffer(data, dtype.order + dtype.code, count=1)[0].item()


_NAMES = {
    "collections OrderedDict": Function(_ordered_dict),
    "torch._utils _rebuild_tensor": Function(_tensor),
    "torch._utils _rebuild_tensor_v2": Function(_tensor),
    "torch._utils _rebuild_parameter": Function(_parameter),
    "torch Size": Function(_size),
    "_codecs encode": Function(_encode),
    "numpy dtype": Function(_DType),
    # NumPy 2 renamed the module.
    "numpy.core.multiarray scalar": Function(_scalar),
    "numpy._core.multiarray scalar": Function(_scalar),
    **{f"torch {name}": _Kind(name) for name in _KINDS},
}
