from __future__ import annotations

import collections
import os
import re
import sys
import zipfile

import numpy as np
import pytest

from scan_tf.errors import DataError, StageError
from scan_tf.models import torch_files

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'scan-tf[torch]'")

formats = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])


def save(content, path, zipped=True):
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    return path


def state(prefix=""):
    random = torch.Generator().manual_seed(1)
    tensors = {
        "conv1.weight": torch.randn(4, 3, 3, 3, generator=random),
        "bn1.weight": torch.nn.Parameter(torch.ones(4)),
        "bn1.num_batches_tracked": torch.tensor(7),
        "fc.bias": torch.randn(5, generator=random).double(),
    }
    return collections.OrderedDict((prefix + name, value) for name, value in tensors.items())


def check(file):
    """Whether the tensors are those of `state`."""
    assert file.tensors.keys() == {"conv1.weight", "bn1.weight", "fc.bias"}
    for name, value in state().items():
        if name in file.tensors:
            assert file.tensors[name].dtype == np.float32
            np.testing.assert_array_equal(file.tensors[name], value.detach().float())


@formats
@pytest.mark.parametrize("prefix", ["", "module.", "module.module."])
def test_bare_state_dicts(tmp_path, zipped, prefix):
    file = torch_files.read(save(state(prefix), tmp_path / "a.pth.tar", zipped))
    check(file)
    assert file.head is None


@formats
@pytest.mark.parametrize("head", [0, 3, np.int64(3), np.int32(3), torch.tensor(3)], ids=repr)
def test_a_model_and_its_best_head(tmp_path, zipped, head):
    file = torch_files.read(save({"model": state("module."), "head": head}, tmp_path / "a", zipped))
    check(file)
    assert file.head == int(head)
    assert type(file.head) is int


def rename_numpy(path, zipped, module):
    """Let the numbers in a file be written by another NumPy: the pickle says the module's name."""
    pattern = re.compile(rb"cnumpy\._?core\.multiarray\n")
    if not zipped:
        data, count = pattern.subn(b"c%s\n" % module, path.read_bytes())
        path.write_bytes(data)
        return count
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    count = 0
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in parts.items():
            if name.endswith("data.pkl"):
                data, count = pattern.subn(b"c%s\n" % module, data)
            archive.writestr(name, data)
    return count


@formats
@pytest.mark.parametrize("module", [b"numpy.core.multiarray", b"numpy._core.multiarray"])
def test_the_number_of_a_head_as_both_numpys_write_it(tmp_path, zipped, module):
    path = save({"model": state(), "head": np.int64(258)}, tmp_path / "a", zipped)
    assert rename_numpy(path, zipped, module) == 1
    assert module in path.read_bytes()
    assert torch_files.read(path).head == 258


@formats
def test_a_training_checkpoint(tmp_path, zipped):
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    content = {
        "optimizer": optimizer.state_dict(),
        "model": state(),
        "epoch": 5,
        "best_loss": np.float64(0.5),
    }
    check(torch_files.read(save(content, tmp_path / "a", zipped)))


@formats
def test_a_checkpoint_of_moco(tmp_path, zipped):
    content = {"epoch": 200, "arch": "resnet50", "state_dict": state("module.encoder_q.")}
    file = torch_files.read(save(content, tmp_path / "a", zipped))
    assert "encoder_q.conv1.weight" in file.tensors


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path, dtype):
    values = torch.tensor([0.5, -1.25, 3.0])
    file = torch_files.read(save({"a": values.to(dtype)}, tmp_path / "a"))
    assert file.tensors["a"].dtype == np.float32
    np.testing.assert_array_equal(file.tensors["a"], values)


def test_what_is_written_can_be_read(tmp_path, rng):
    tensors = {"a.weight": rng.standard_normal((2, 3)).astype(np.float32), "n": np.zeros([], int)}
    tensors["a.weight"].flags.writeable = False  # as TensorFlow gives its values
    torch_files.write(tmp_path / "bare", tensors)
    bare = torch.load(tmp_path / "bare", weights_only=True)
    assert bare.keys() == tensors.keys()
    assert bare["n"].dtype == torch.int64
    torch_files.write(tmp_path / "headed", tensors, head=2)
    assert torch.load(tmp_path / "headed", weights_only=True)["head"] == 2
    for name, head in (("bare", None), ("headed", 2)):
        file = torch_files.read(tmp_path / name)
        assert file.head == head
        np.testing.assert_array_equal(file.tensors["a.weight"], tensors["a.weight"])


# What is refused


class Malicious:
    """Creates a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@formats
@pytest.mark.parametrize("place", ["alone", "in a state dict", "as the head"])
def test_code_in_a_file_is_refused_and_not_run(tmp_path, zipped, place):
    trap = tmp_path / "it ran"
    evil = Malicious(str(trap))
    contents = {"alone": evil, "in a state dict": {"a": evil}, "as the head": {"model": state()}}
    content = contents[place] | {"head": evil} if place == "as the head" else contents[place]
    path = save(content, tmp_path / "evil.pth", zipped)
    with pytest.raises(DataError, match=r"evil.pth: holds a '\w+.mkdir'.*run any code") as caught:
        torch_files.read(path)
    assert "weights_only" not in str(caught.value)  # no advice to open it after all
    assert not trap.exists()
    torch.load(path, weights_only=False)
    assert trap.exists()  # the trap does work


@formats
def test_a_whole_module_is_refused(tmp_path, zipped):
    path = save(torch.nn.Linear(2, 2), tmp_path / "a", zipped)
    with pytest.raises(DataError, match=r"'torch.nn.modules.linear.Linear'.*model.state_dict\(\)"):
        torch_files.read(path)


class Described:
    """Pickles as what `numpy.dtype` is called with."""

    def __init__(self, *arguments):
        self.arguments = arguments

    def __reduce__(self):
        return np.dtype, self.arguments


@pytest.mark.parametrize("code", ["O", "V8", "i4,O", "f16", "i3"])
def test_numpys_objects_are_not_built(tmp_path, code):
    path = save({"model": state(), "head": Described(code)}, tmp_path / "a")
    with pytest.raises(DataError, match="damaged or no file of PyTorch"):
        torch_files.read(path)


@formats
@pytest.mark.parametrize("share", [0.0, 0.02, 0.9])
def test_truncated_files(tmp_path, zipped, share):
    path = save(state(), tmp_path / "cut.pth", zipped)
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(DataError, match="cut.pth: is damaged or no file of PyTorch"):
        torch_files.read(path)


@pytest.mark.parametrize("data", [b"hello", b"\x89PNG\r\n\x1a\n" + bytes(64), b"PK\x03\x04" + b"x"])
def test_other_files(tmp_path, data):
    (tmp_path / "other").write_bytes(data)
    with pytest.raises(DataError, match=r"other: is damaged or no file of PyTorch.*torch.save\("):
        torch_files.read(tmp_path / "other")


def test_files_that_cannot_be_opened(tmp_path):
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(DataError, match=f"^{re.escape(str(path))}: cannot be opened"):
            torch_files.read(path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([1, 2], "holds a list"),
        (torch.zeros(3), "holds a ndarray"),
        ({}, "holds no weights"),
        ({"n": torch.tensor(3)}, "holds no weights"),
        ({"a": torch.zeros(2), "epoch": 3}, "'epoch' is a int, expected a tensor"),
        ({3: torch.zeros(2)}, "3 is a ndarray, expected a tensor"),
        ({"a": torch.zeros(2).to_sparse()}, "holds a 'torch._utils._rebuild_sparse_tensor'"),
        ({"model": state(), "head": -1}, "'head' is -1"),
        ({"model": state(), "head": "first"}, "'head' is a str"),
        ({"model": state(), "head": np.float64(0.5)}, "'head' is 0.5"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_contents(tmp_path, content, problem):
    path = save(content, tmp_path / "a")
    with pytest.raises(DataError, match=re.escape(f"{path}: {problem}")):
        torch_files.read(path)


def test_pytorch_is_needed_to_write_alone(tmp_path, monkeypatch):
    path = save(state(), tmp_path / "a")
    monkeypatch.setitem(sys.modules, "torch", None)
    check(torch_files.read(path))
    with pytest.raises(StageError, match=re.escape("pip install 'scan-tf[torch]'")):
        torch_files.write(tmp_path / "b", {})
