"""ResNets of other PyTorch projects: the names of their tensors as the official SCAN has them.

* torchvision and MoCo: `conv1.weight`, `layer1.0...`, projections called `downsample`.
* solo-learn: the same behind `backbone.` (once `encoder.`). At 32 pixels its stem pads the image by
  2 where all others pad by 1.
* lightly: a Sequential, `backbone.0.weight`, with torchvision's modules (the stages are 4 to 7) or
  its own (2 to 5). The latter's ReLU after the stem is no module, so the Sequential has none.
* `module.` (DataParallel) and `_orig_mod.` (torch.compile) before any of these.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

_WRAPPERS = re.compile(r"^((module|_orig_mod)\.)+")
# Where the network may stand, the most special name first; MoCo and SCAN train more than one.
_PREFIXES = ("encoder_q.", "backbone.", "encoder.", "")
# Positions of the modules of a Sequential, by that of its first stage.
_SEQUENTIAL = {
    "2": {"0": "conv1", "1": "bn1", **{str(i + 1): f"layer{i}" for i in (1, 2, 3, 4)}},
    "4": {"0": "conv1", "1": "bn1", **{str(i + 3): f"layer{i}" for i in (1, 2, 3, 4)}},
}


@dataclasses.dataclass(frozen=True)
class TorchResNet:
    """A ResNet found in a state dict.

    Attributes:
        tensors: by the official names of a backbone, `conv1.weight`, in PyTorch's layout, with the
            projections called `shortcut` behind a 3x3 stem and `downsample` behind a 7x7 one.
        padding: of the stem's convolution.
        stem_relu: whether a ReLU follows the stem.
    """

    tensors: dict[str, np.ndarray]
    padding: int
    stem_relu: bool


def find(tensors: Mapping[str, np.ndarray]) -> TorchResNet | None:
    """The ResNet among the tensors of a state dict; None where there is none."""
    plain = {_WRAPPERS.sub("", name): tensor for name, tensor in tensors.items()}
    for prefix in _PREFIXES:
        inside = {
            _WRAPPERS.sub("", n.removeprefix(prefix)): t
            for n, t in plain.items()
            if n.startswith(prefix)
        }
        sequential = _sequential(inside)
        inside = sequential or inside
        stem = inside.get("conv1.weight", np.empty(0))
        if stem.ndim == 4 and "layer1.0.conv1.weight" in inside:
            side = stem.shape[2]
            projection = "downsample" if side == 7 else "shortcut"
            kept = re.compile(r"(conv1|bn1|layer\d+)\.")
            network = {
                re.sub(r"\.(downsample|shortcut)\.", f".{projection}.", n): t
                for n, t in inside.items()
                if kept.match(n)
            }
            theirs = any(".downsample." in n for n in inside)
            # solo-learn trains a linear classifier beside the network, which tells it from others.
            solo = (
                side == 3 and theirs and prefix in _PREFIXES[1:3] and "classifier.weight" in plain
            )
            own = bool(sequential) and not theirs
            return TorchResNet(network, 2 if solo else side // 2, stem_relu=not own)
    return None


def _sequential(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray] | None:
    """The tensors of a Sequential under the names of its modules; None if it is no ResNet's."""
    for first, names in _SEQUENTIAL.items():
        if f"{first}.0.conv1.weight" in tensors and tensors.get("0.weight", np.empty(0)).ndim == 4:
            parts = ((name.partition("."), tensor) for name, tensor in tensors.items())
            return {f"{names[p]}.{rest}": t for (p, _, rest), t in parts if p in names}
    return None
