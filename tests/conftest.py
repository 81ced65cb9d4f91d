from __future__ import annotations

import fcntl
import os
import pathlib
import shutil
import zlib
from collections.abc import Iterator

import numpy as np
import pytest

# Read by TensorFlow when it is first imported, which is after this file.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# Read by scikit-learn's OpenMP: spinning threads make small tests slow on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Whatever process the tests start finds the small networks beside them.
_found = [str(pathlib.Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
os.environ["PYTHONPATH"] = os.pathsep.join(_found)


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The optional folder of reference data beside the checkout."""
    path = pathlib.Path(__file__).parents[2] / "shared"
    if not path.is_dir():
        pytest.skip("needs ../shared (reference numbers and data beside the checkout)")
    return path


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> np.random.Generator:
    """Random numbers of this test's own, the same in every run and in every order of tests."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture
def seeded() -> None:
    """Seeds Python, NumPy, TensorFlow and Keras, for tests that initialise networks."""
    import keras

    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run directory of `tiny_runs.CONFIG` with all stages done; copy it before changing it.

    The workers of pytest-xdist share one: the first to need it makes it, the others wait.
    """
    import network
    import tiny_runs

    base = tmp_path_factory.getbasetemp()
    root = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "finished"
    with open(root.with_suffix(".lock"), "w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "done").exists():
            shutil.rmtree(root, ignore_errors=True)  # of a worker that failed
            images = tiny_runs.write_splits(root / "images")
            config = tiny_runs.write_config(root / "tiny.yaml", images)
            with network.watched() as seen:
                assert tiny_runs.scan_tf("run", "--config", config, "--run-dir", root / "run") == 0
            (root / "connections").write_text("\n".join(seen), encoding="utf-8")
            (root / "done").touch()
    return root / "run"


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> None:
    """EfficientNet-Lite of half its blocks, which is traced in half the time."""
    from scan_tf.models import efficientnet_lite

    monkeypatch.setitem(efficientnet_lite.SIZES, "lite0", (1.0, 0.25, 224))


@pytest.fixture
def eager() -> Iterator[None]:
    """Runs graph code op by op: what takes a few steps is done before it would be traced."""
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)
