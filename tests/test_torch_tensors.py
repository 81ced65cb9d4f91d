from __future__ import annotations

import collections
import contextlib
import os
import pickle
import pickletools
import re
import sys
import zipfile

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from scan_tf.errors import DataError
from scan_tf.models import torch_tensors

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'scan-tf[torch]'")

# `make fuzz` sets it.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "400"))
formats = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before 1.6"])


def save(content, path, zipped=True, **options):
    torch.save(content, path, _use_new_zipfile_serialization=zipped, **options)
    return path


def contents():
    """What state dicts and checkpoints hold, with tensors of every layout and kind."""
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    kinds = [torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
    state = collections.OrderedDict(
        contiguous=base,
        transposed=base.transpose(0, 2),
        sliced=base[1:, ::2, 1:3],
        channels_last=torch.rand(2, 3, 4, 5).to(memory_format=torch.channels_last),
        parameter=torch.nn.Parameter(torch.ones(3)),
        scalar=torch.tensor(7),
        empty=torch.zeros(0, 3),
        mask=torch.tensor([True, False, True]),
        bytes=torch.tensor([0, 255], dtype=torch.uint8),
        signed=torch.tensor([-128, 127], dtype=torch.int8),
        **{str(kind): torch.tensor([1, -2, 300]).to(kind) for kind in kinds},
    )
    return {"state_dict": state, "epoch": 5, "loss": 0.5, "big": 2**40, "none": None, "flag": True}


def assert_same(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        tensor = tensor.detach()
        tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        np.testing.assert_array_equal(ours[name], tensor.numpy(), err_msg=name)
        assert ours[name].dtype == tensor.numpy().dtype
        assert not ours[name].flags.writeable or not ours[name].size


@formats
@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_what_torch_save_writes(tmp_path, zipped, protocol):
    content = contents()
    ours = torch_tensors.load(save(content, tmp_path / "a", zipped, pickle_protocol=protocol))
    assert_same(ours.pop("state_dict"), content.pop("state_dict"))
    assert ours == content


@formats
def test_a_module_and_an_optimizer_after_a_step(tmp_path, zipped):
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 3, 5, 5)).sum().backward()
    optimizer.step()
    content = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    ours = torch_tensors.load(save(content, tmp_path / "a", zipped))
    assert_same(ours["model"], model.state_dict())
    assert ours["optimizer"]["param_groups"][0]["lr"] == 1e-3
    assert ours["optimizer"]["state"][0]["exp_avg"].shape == (4, 3, 3, 3)


@formats
def test_tensors_that_share_a_storage_share_memory(tmp_path, zipped):
    base = torch.arange(6.0)
    ours = torch_tensors.load(save({"a": base, "b": base[3:]}, tmp_path / "a", zipped))
    assert np.shares_memory(ours["a"], ours["b"])


@pytest.mark.parametrize("number", [np.float64(0.1), np.int64(-3), np.float32(0.5), np.bool_(True)])
def test_numbers_of_numpy(tmp_path, number):
    value = torch_tensors.load(save({"a": number}, tmp_path / "a"))["a"]
    assert value == number.item()
    assert type(value) is type(number.item())


def test_importing_needs_no_torch(tmp_path, monkeypatch):
    """The reader is what reads the weights where PyTorch is not installed."""
    path = save({"a": torch.ones(2)}, tmp_path / "a")
    monkeypatch.setitem(sys.modules, "torch", None)
    np.testing.assert_array_equal(torch_tensors.load(path)["a"], [1, 1])


# What is refused


class Attack:
    def __reduce__(self):
        return os.system, ("touch attacked",)


class Unknown:
    pass


@formats
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"a": Attack()}, "holds a 'posix.system'"),
        ({"a": Unknown()}, "holds a 'test_torch_tensors.Unknown'|holds a 'copyreg._reconstructor'"),
        (torch.nn.Linear(2, 2), "holds a 'torch.nn.modules.linear.Linear'"),
        ({"a": np.ones(2)}, "holds a 'numpy"),
        ({(1, 2): 3}, "has a tuple as a key"),
        ({"a": torch.ones(1).expand(9)}, "reaches beyond its storage"),
        ({"a": {1, 2}}, "holds a 'builtins.set'|holds a '__builtin__.set'"),
        ({"a": torch.ones(2).to_sparse()}, "holds a 'torch._utils._rebuild_sparse_tensor'"),
    ],
)
def test_other_contents(tmp_path, monkeypatch, zipped, content, reason):
    monkeypatch.chdir(tmp_path)
    path = save(content, tmp_path / "a.pth", zipped)
    with pytest.raises(DataError, match=reason) as error:
        torch_tensors.load(path)
    assert "a.pth: " in str(error.value)
    assert "torch.save(model.state_dict(), FILE)" in str(error.value)
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize(
    "data",
    [b"", b"PK\x03\x04", b"\xff\xd8\xff\xe0 a picture", b"\x80\x02}q\x00.", pickle.dumps({"a": 1})],
    ids=["empty", "zip", "jpeg", "dict", "pickle"],
)
def test_files_of_others(tmp_path, data):
    path = tmp_path / "other.pth"
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"other\.pth: is damaged or no file of PyTorch"):
        torch_tensors.load(path)


def test_missing_files_and_folders(tmp_path):
    for path in (tmp_path / "none.pth", tmp_path):
        with pytest.raises(DataError, match="cannot be opened"):
            torch_tensors.load(path)


def rewritten(path, change, compression=zipfile.ZIP_STORED):
    """A zip file with the parts that `change` makes of (name, data)."""
    with zipfile.ZipFile(path) as archive:
        parts = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in map(change, *zip(*parts, strict=True)):
            archive.writestr(name, data)
    return path


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda name, data: (name, b"big" if name.endswith("byteorder") else data), "big-endian"),
        (lambda name, data: (name, data[:-1] if "/data/" in name else data), "damaged"),
        (lambda name, data: (name, data + b"1234" if "/data/" in name else data), "damaged"),
        (lambda name, data: (name.replace("data.pkl", "other.pkl"), data), "damaged"),
        (lambda name, data: (name.replace("/data/0", "/data/9"), data), "damaged"),
    ],
)
def test_changed_parts_of_a_zip_file(tmp_path, change, reason):
    path = rewritten(save({"a": torch.ones(9)}, tmp_path / "a"), change)
    with pytest.raises(DataError, match=reason):
        torch_tensors.load(path)


def test_a_compressed_file_cannot_claim_more_than_its_size(tmp_path):
    path = save({"a": torch.zeros(1_000_000)}, tmp_path / "a")
    rewritten(path, lambda name, data: (name, data), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    with pytest.raises(DataError, match=r"is compressed|damaged"):
        torch_tensors.load(path)


def as_file(path, pickled, storage=bytes(400)):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        archive.writestr("a/data/0", storage)
    return path


def tensor_program(count=100, offset=0, shape=(10, 10), strides=(10, 1), kind="FloatStorage"):
    """{"a": a tensor f32 over the storage "0" of 400 bytes}."""
    identity = b"(X\x07\x00\x00\x00storagectorch\n" + kind.encode() + b"\n"
    identity += pickle.dumps("0", 2)[2:-1] + pickle.dumps("cpu", 2)[2:-1]
    identity += pickle.dumps(count, 2)[2:-1] + b"tQ"
    rest = b"".join(pickle.dumps(v, 2)[2:-1] for v in (offset, shape, strides, False, None))
    call = b"ctorch._utils\n_rebuild_tensor_v2\n(" + identity + rest + b"tR"
    return b"\x80\x02}" + pickle.dumps("a", 2)[2:-1] + call + b"s."


def test_the_program_of_a_tensor(tmp_path):
    """The one that the next test damages is read as it is."""
    numbers = np.arange(100, dtype="<f4")
    path = as_file(tmp_path / "a", tensor_program(), numbers.tobytes())
    np.testing.assert_array_equal(torch_tensors.load(path)["a"], numbers.reshape(10, 10))
    path = as_file(tmp_path / "b", tensor_program(offset=99, shape=(1,), strides=(50,)))
    assert torch_tensors.load(path)["a"].shape == (1,)


@pytest.mark.parametrize(
    "change",
    [
        {"offset": 1},
        {"offset": -1},
        {"strides": (11, 1)},
        {"strides": (-10, 1)},
        {"strides": (10,)},
        {"shape": (10, 11)},
        {"shape": (2**40, 2**40)},
        {"shape": (10**12,), "strides": (0,)},
        {"shape": (1,) * 65, "strides": (1,) * 65},
        {"shape": (True, 1)},
        {"shape": (0, 2**62, 2**62), "strides": (1, 1, 1)},
        {"count": 2**40},
        {"count": 101},
        {"count": 99},
        {"count": -1},
        {"kind": "DoubleStorage"},
        {"kind": "UntypedStorage"},
    ],
    ids=str,
)
def test_tensors_beyond_their_storage(tmp_path, change):
    path = as_file(tmp_path / "a", tensor_program(**change))
    with pytest.raises(DataError, match=r"beyond its storage|damaged|holds a 'torch.UntypedStor"):
        torch_tensors.load(path)


def test_deep_nesting_does_not_overflow_the_stack(tmp_path):
    deep = b"\x80\x02" + b"(" * 100_000 + b"t" * 100_000 + b"."
    assert torch_tensors.load(as_file(tmp_path / "a", deep)) != ()
    as_key = b"\x80\x02}" + deep[2:-1] + b"K\x01s."
    with pytest.raises(DataError, match="has a tuple as a key"):
        torch_tensors.load(as_file(tmp_path / "b", as_key))


@pytest.fixture(scope="module")
def small_files(tmp_path_factory):
    """The bytes of a small file in each format."""
    folder = tmp_path_factory.mktemp("small")
    tensors = {"a": torch.arange(6.0).reshape(2, 3).T, "b": torch.tensor([1, 2]), "n": 3}
    return [save(tensors, folder / str(z), z).read_bytes() for z in (True, False)]


def check_fuzzed(path):
    """Any file is read, or refused by its name: there is no other error."""
    with contextlib.suppress(DataError):
        torch_tensors.load(path)
        return
    with pytest.raises(DataError, match=re.escape(f"{path}: ")):
        torch_tensors.load(path)


@hypothesis.settings(deadline=None, max_examples=EXAMPLES)
@hypothesis.given(st.data())
def test_damaged_bytes(tmp_path_factory, small_files, data):
    """Overwritten, cut or inserted."""
    content = bytearray(data.draw(st.sampled_from(small_files)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        new = data.draw(st.binary(max_size=9))
        content[at : at + data.draw(st.sampled_from([0, 1, len(new), 1000]))] = new
    path = tmp_path_factory.getbasetemp() / "damaged.pth"
    path.write_bytes(content)
    check_fuzzed(path)


PIECES = st.one_of(
    st.sampled_from([opcode.code.encode("latin1") for opcode in pickletools.opcodes]),
    st.sampled_from([f"c{name}\n".replace(" ", "\n").encode() for name in torch_tensors._NAMES]),
    st.binary(max_size=5),
    st.sampled_from([b"K\x01", b"X\x01\x00\x00\x00a", b")", b"}", b"]", b"(", b"q\x00", b"h\x00"]),
)


@hypothesis.settings(deadline=None, max_examples=EXAMPLES)
@hypothesis.given(st.lists(PIECES, max_size=40))
def test_random_programs(tmp_path_factory, pieces):
    path = tmp_path_factory.getbasetemp() / "random.pth"
    check_fuzzed(as_file(path, b"\x80\x02" + b"".join(pieces) + b"."))
