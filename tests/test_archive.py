from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from scan_tf.errors import ConfigError, DataError, StageError
from scan_tf.experiments import archive


def no_rounding(path, arrays):
    return []


@pytest.fixture
def root(tmp_path, rng) -> Path:
    """A folder with arrays of many kinds and a text."""
    folder = tmp_path / "root"
    (folder / "deep").mkdir(parents=True)
    np.savez(
        folder / "deep" / "mixed.npz",
        weights=rng.normal(size=(3, 3, 8, 40)).astype(np.float32),
        odd=np.array([np.nan, -0.0, np.inf, 1e-45], np.float32),
        counter=np.int64(7),
        index=rng.integers(0, 50, (20, 5)).astype(np.int32),
        empty=np.zeros((0, 4), np.float32),
        mask=np.array([True, False]),
        manifest=np.array(json.dumps({"step": 3})),
        transposed=rng.normal(size=(5, 6)).T,
    )
    np.savez(folder / "large.npz", values=rng.normal(size=100_000).astype(np.float32))
    (folder / "text.json").write_text('{"step": 1}\n', encoding="utf-8")
    return folder


def files(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*") if p.is_file())


def written(root: Path, folder: Path, *, part_mib: float = 0.05, rounding=no_rounding):
    return archive.write(root, files(root), folder, rounding=rounding, part_mib=part_mib)


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as file:
        return {k: file[k] for k in file.files}


def test_everything_comes_back_exactly(root, tmp_path):
    written(root, tmp_path / "pack")
    archive.read([tmp_path / "pack"], tmp_path / "copy")
    names = [p.relative_to(root) for p in files(root)]
    assert [p.relative_to(tmp_path / "copy") for p in files(tmp_path / "copy")] == names
    assert (tmp_path / "copy" / "text.json").read_bytes() == (root / "text.json").read_bytes()
    for name in ("deep/mixed.npz", "large.npz"):
        before, after = arrays(root / name), arrays(tmp_path / "copy" / name)
        assert before.keys() == after.keys()
        for key, values in before.items():
            assert (after[key].dtype, after[key].shape) == (values.dtype, values.shape)
            assert after[key].tobytes() == values.tobytes(), key


def test_parts_are_small_enough_and_in_any_place(root, tmp_path):
    manifest, *parts = written(root, tmp_path / "pack")
    sizes = [p.stat().st_size for p in parts]
    full = round(0.05 * 2**20)
    assert len(sizes) > 3
    assert set(sizes[:-1]) == {full}
    assert 0 < sizes[-1] <= full
    assert set(files(tmp_path / "pack")) == {manifest, *parts}
    (tmp_path / "elsewhere").mkdir()
    moved = parts[1].rename(tmp_path / "elsewhere" / parts[1].name)
    archive.read([moved, *parts[2:], parts[0], manifest], tmp_path / "copy")
    assert len(files(tmp_path / "copy")) == 3


def test_weights_become_smaller(root, tmp_path):
    total = sum(p.stat().st_size for p in written(root, tmp_path / "pack"))
    assert total < 0.9 * sum(p.stat().st_size for p in files(root))


def test_a_later_archive_keeps_the_first_parts(root, tmp_path):
    first = written(root, tmp_path / "pack")
    with np.load(root / "large.npz") as file:
        values = file["values"]
    values[-1] += 1
    np.savez(root / "large.npz", values=values)
    later = written(root, tmp_path / "pack")
    names, others = [p.name for p in first[1:]], [p.name for p in later[1:]]
    assert names[:2] == others[:2]
    assert names[-1] != others[-1]
    assert set(files(tmp_path / "pack")) == set(later)


def test_rounding_is_to_bfloat16_and_only_where_asked(root, tmp_path, rng):
    magnitudes = 10.0 ** rng.uniform(-37, 38, 10_000)
    values = (magnitudes * rng.choice([-1, 1], 10_000)).astype(np.float32)
    values[:2] = 0.0, -0.0
    np.savez(root / "large.npz", values=values, exact=values)
    written(root, tmp_path / "pack", rounding=lambda path, _: ["values"] * (path.stem == "large"))
    archive.read([tmp_path / "pack"], tmp_path / "copy")
    after = arrays(tmp_path / "copy" / "large.npz")
    assert after["exact"].tobytes() == values.tobytes()
    assert after["values"].dtype == np.float32
    assert not (after["values"].view(np.uint32) & 0xFFFF).any()
    error = np.abs(after["values"].astype(np.float64) - values)
    assert (error <= 2.0**-8 * np.abs(values)).all()
    assert error.max() > 0
    np.testing.assert_array_equal(np.signbit(after["values"]), np.signbit(values))


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def edit(path: Path, **changes) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def escape(path: Path) -> None:
    manifest = json.loads(path.read_text())
    manifest["files"][-1]["path"] = "../outside.json"
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda m, p: p[1].unlink(), r"1 of \d+ parts: 001-\w+\.part is missing"),
        (lambda m, p: flip(p[0]), r"1 of \d+ parts: 000-\w+\.part is damaged"),
        (lambda m, p: p[-1].write_bytes(b""), r"1 of \d+ parts: .*damaged"),
        (lambda m, p: m.unlink(), r"expected one manifest.json among the files, got 0"),
        (lambda m, p: m.write_text("{"), r"manifest.json: cannot be read or is damaged"),
        (lambda m, p: m.write_text("[]"), r"manifest.json: cannot be read or is damaged"),
        (lambda m, p: edit(m, format=2), r"manifest.json: no pack of format 1"),
        (lambda m, p: edit(m, files=[{"path": "x"}]), r"manifest.json: damaged"),
        (lambda m, p: edit(m, parts=[]), r"manifest.json: damaged .*end too early"),
        (lambda m, p: escape(m), r"manifest.json: damaged .*outside of the folder"),
    ],
)
def test_damage_is_named(root, tmp_path, damage, expected):
    manifest, *parts = written(root, tmp_path / "pack")
    damage(manifest, parts)
    with pytest.raises(DataError, match=expected):
        archive.read([tmp_path / "pack"], tmp_path / "copy")
    assert not (tmp_path / "outside.json").exists()


def test_two_archives_at_once_are_refused(root, tmp_path):
    written(root, tmp_path / "a")
    written(root, tmp_path / "b")
    with pytest.raises(DataError, match="expected one manifest.json among the files, got 2"):
        archive.read([tmp_path / "a", tmp_path / "b"], tmp_path / "copy")


def test_a_folder_with_something_else_is_left_alone(root, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="mine: holds something that is no pack"):
        written(root, tmp_path / "mine")
    assert [f.name for f in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_bad_input_is_named(root, tmp_path):
    with pytest.raises(ConfigError, match="--part-mib: must be greater than 0, got 0"):
        written(root, tmp_path / "pack", part_mib=0)
    (root / "large.npz").write_bytes(b"no archive")
    with pytest.raises(StageError, match=r"large\.npz: damaged"):
        written(root, tmp_path / "pack")
