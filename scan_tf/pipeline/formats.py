"""The exported classifier for other runtimes, and beside them: LiteRT, ONNX, TensorFlow Serving.

LiteRT and ONNX have the signature `native` of the SavedModel: images uint8 [B,S,S,3] of the
network's own size, and no names, which are in `model.json`. What was written is run, and compared
with the SavedModel, before it takes its place.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from scan_tf.errors import ConfigError, StageError
from scan_tf.lazy import tf
from scan_tf.storage import files

# The probabilities of the SavedModel and of another runtime differ by no more; with weights in
# float16 by no more than the second.
TOLERANCE, _HALF_TOLERANCE = 1e-3, 2e-2
# The oldest opset with all that the networks need in the form that tf2onnx writes.
_OPSET = 17

# What runs a format, beside what every installation has.
PACKAGES = {"litert": ("ai_edge_litert",), "onnx": ("tf2onnx", "onnxruntime")}

Model = Callable[[np.ndarray], dict[str, np.ndarray]]
# The file, how to run it, and how far its probabilities may be off.
_Written = Iterator[tuple[Path, Model, float]]


def check(name: str) -> None:
    """Refuse a format whose packages are missing, without loading them. Raises ConfigError."""
    missing = [p for p in PACKAGES.get(name, ()) if importlib.util.find_spec(p) is None]
    if missing:
        raise ConfigError(
            f"--format {name}: needs {', '.join(missing)}: pip install 'scan-tf[{name}]'."
        )


def convert(exported: Path, target: Path, name: str, images: np.ndarray) -> dict[str, float]:
    """Write a SavedModel in another format, in place of an older one.

    Args:
        exported: the SavedModel.
        target: the folder to make; `model.tflite` and `model-float16.tflite`, or `model.onnx`.
        name: "litert" or "onnx".
        images: uint8 [N,S,S,3], on which both are compared.

    Returns:
        File name -> greatest difference of a probability.

    Raises:
        ConfigError: the packages of the format are missing.
        StageError: it cannot be converted, or gives other results.
    """
    from scan_tf.pipeline import savedmodel

    check(name)
    try:
        model = tf.saved_model.load(str(exported))
        native = model.signatures["native"]
    except (OSError, KeyError) as error:
        raise StageError(
            f"{exported}: no SavedModel of this version ({error}). Export it again: --redo export."
        ) from error
    expected = savedmodel.arrays(native(images=tf.constant(images)))
    found = {}
    with files.replacing(target) as fresh:
        for path, run, tolerance in _FORMATS[name](exported, native, fresh):
            found[path.name] = compared(f"{target / path.name}", expected, run(images), tolerance)
        for beside in ("MODEL_CARD.md", "model.json"):
            if (exported / beside).exists():
                shutil.copy(exported / beside, fresh)
    return found


def serve(exported: Path, base: Path) -> Path:
    """Add the SavedModel as a version to a folder in the layout of TensorFlow Serving.

    Returns:
        `base/N`, N one above the versions that are there; it appears whole.
    """
    base.mkdir(parents=True, exist_ok=True)
    versions = [int(p.name) for p in base.iterdir() if p.name.isdecimal()]
    target = base / str(max(versions, default=0) + 1)
    # What is not whole yet has no number for a name, so that nobody serves it.
    with files.replacing(target) as fresh:
        shutil.copytree(exported, fresh, dirs_exist_ok=True)
    return target


def compared(
    what: str, expected: dict[str, np.ndarray], got: dict[str, np.ndarray], tolerance: float
) -> float:
    """The greatest difference of a probability. Raises StageError where the results are others."""
    difference = float(np.abs(expected["probabilities"] - got["probabilities"]).max())
    best = np.sort(expected["probabilities"], axis=1)
    clear = best[:, -1] - best[:, -2] > 2 * tolerance
    wrong = int((clear & (expected["cluster"] != got["cluster"])).sum())
    # Written so that a difference that is no number is refused too.
    if wrong or not difference <= tolerance:
        raise StageError(
            f"{what}: puts {wrong} of {len(best)} images into another cluster than the SavedModel; "
            f"probabilities differ by up to {difference:.2g}, expected at most {tolerance:g}."
        )
    return difference


def _litert(exported: Path, _: Any, folder: Path) -> _Written:
    from ai_edge_litert.interpreter import Interpreter

    for name, tolerance in (("model", TOLERANCE), ("model-float16", _HALF_TOLERANCE)):
        converter = tf.lite.TFLiteConverter.from_saved_model(
            str(exported), signature_keys=["native"]
        )
        if name != "model":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
        path = folder / f"{name}.tflite"
        path.write_bytes(converter.convert())
        yield path, _runner(Interpreter(model_path=str(path))), tolerance


def _runner(interpreter: Any) -> Model:
    run = interpreter.get_signature_runner("native")
    return lambda images: dict(run(images=images))


def _onnx(_: Path, native: Any, folder: Path) -> _Written:
    import onnxruntime
    import tf2onnx

    path = folder / "model.onnx"
    (images,) = native.structured_input_signature[1].values()
    function = tf.function(lambda images: native(images=images))
    tf2onnx.convert.from_function(
        function, input_signature=[images], opset=_OPSET, output_path=str(path)
    )
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    (source,) = session.get_inputs()

    def run(pixels: np.ndarray) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(names, {source.name: pixels}), strict=True))

    yield path, run, TOLERANCE


_FORMATS: dict[str, Callable[[Path, Any, Path], _Written]] = {"litert": _litert, "onnx": _onnx}
