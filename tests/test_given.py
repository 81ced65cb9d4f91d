"""Files of features that were computed elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from scan_tf.errors import DataError, MissingDataError, StageError
from scan_tf.models.given import Given

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
PATHS = ["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg"]


def given(path, **arrays):
    np.savez(path, **arrays)
    return Given(path, image_size=8)


def test_rows_go_by_path_by_id_or_by_order(tmp_path):
    by_path = given(tmp_path / "a.npz", features=ROWS, paths=np.array(PATHS))
    np.testing.assert_array_equal(by_path.of(["r/b/1.jpg", "r/a/2.jpg"], 2, "r"), ROWS[[2, 1]])
    np.testing.assert_array_equal(by_path.of(["b/2.jpg"], 1, None), ROWS[[3]])
    by_id = given(tmp_path / "b.npz", embeddings=ROWS, ids=np.array([3, 2, 1, 0]))
    np.testing.assert_array_equal(by_id.of(None, 4, None), ROWS[::-1])
    np.save(tmp_path / "c.npy", ROWS)
    np.testing.assert_array_equal(Given(tmp_path / "c.npy", image_size=8).of(None, 4, None), ROWS)


def test_a_table_is_read_where_pyarrow_is(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = pyarrow.table({"path": PATHS, "embedding": ROWS.tolist()})
    parquet.write_table(table, tmp_path / "a.parquet")
    found = Given(tmp_path / "a.parquet", image_size=8)
    np.testing.assert_array_equal(found.of(["b/1.jpg"], 1, None), ROWS[[2]])


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"rows": ROWS}, "expected an array 'features', got rows"),
        ({"features": ROWS[0]}, r"expected features float \[N,D\], got float32 \[3\]"),
        ({"features": ROWS.astype(int)}, "got int64"),
        ({"features": np.where(ROWS == 7, np.nan, ROWS)}, "row 2 has a feature that is NaN"),
        ({"features": ROWS, "paths": np.array(PATHS[:3])}, "3 paths or ids for 4 rows"),
        ({"features": ROWS, "paths": np.array([*PATHS[:3], PATHS[0]])}, "is there twice"),
        ({"features": np.array([{}], object)}, "cannot be read"),
    ],
)
def test_what_is_no_table_of_features_is_refused(tmp_path, arrays, problem):
    with pytest.raises(DataError, match=problem):
        given(tmp_path / "a.npz", **arrays)


def test_a_missing_file_and_a_call_are_refused(tmp_path):
    with pytest.raises(MissingDataError, match="no such file"):
        Given(tmp_path / "none.npy", image_size=8)
    found = given(tmp_path / "a.npz", features=ROWS)
    with pytest.raises(StageError, match="holds features, no network"):
        found(np.zeros((1, 8, 8, 3)))
    with pytest.raises(DataError, match="4 rows for 5 images"):
        found.of(None, 5, None)
