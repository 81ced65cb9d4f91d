"""Training steps and inference: this program beside plain PyTorch, by dtype and compiler.

A step is all that one is in training: reading, augmentation, forward, backward, update. PyTorch's
are steps on batches that lie ready in memory, without any augmentation.

Example:
    python scripts/bench_step.py --batch 128 --stages simclr --json step.json
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bench

STAGES = ("simclr", "scan", "selflabel", "inference")
# Views that a step puts through the network, and how many times the cost of a forward pass each
# view is: the backward pass is two more, and the self-label stage's weak view has none.
VIEWS = {"simclr": 2, "scan": 2, "selflabel": 2, "inference": 1}
PASSES = {"simclr": 6, "scan": 6, "selflabel": 4, "inference": 1}
CLUSTERS, COUNT = 10, 2048


# scan_tf


def scan_tf_step(
    stage: str, dtype: str, jit: bool, batch: int, size: int, model: dict[str, Any]
) -> bench.Run:
    """One step by the program's own task, loader and trainer, or one batch of inference."""
    import tensorflow as tf

    from scan_tf.features.embedding import embed

    count = max(COUNT, batch) if stage != "inference" else batch
    backbone, images, where = setting(dtype, jit, count, size, model)
    flop = batch * PASSES[stage] * forward_flop(backbone, size)
    if stage == "inference":
        network = tf.function(backbone.embed, jit_compile=jit, autograph=False)

        def infer() -> dict[str, float]:
            embed(network, images, batch_size=batch)
            return {"flop": flop}

        return infer
    trainer, loader = training(stage, backbone, images, batch, where)
    update = tf.function(trainer.update, jit_compile=jit, autograph=False)
    inputs = loader.inputs(0, 10**6)

    def run() -> dict[str, float]:
        return {"loss": float(update(next(inputs))["loss"]), "flop": flop}

    return run


def setting(
    dtype: str, jit: bool, count: int, size: int, model: dict[str, Any]
) -> tuple[Any, Any, Any]:
    """The network, `count` made-up images, and the device."""
    import numpy as np

    from scan_tf import machine
    from scan_tf.config import ModelConfig, RuntimeConfig
    from scan_tf.data.image_set import ImageSet
    from scan_tf.models import resnet

    where = machine.resolve(RuntimeConfig(dtype=dtype))
    where = dataclasses.replace(where, jit_step=jit)
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), np.uint8)
    images = ImageSet("made up", "train", pixels, None, (), (0.5,) * 3, (0.25,) * 3, None)
    backbone = resnet.build(
        ModelConfig(**model), image_size=size, dtype=dtype, mean=images.mean, std=images.std
    )
    return backbone, images, where


def training(stage: str, backbone: Any, images: Any, batch: int, where: Any) -> tuple[Any, Any]:
    """The trainer and the loader of a stage."""
    import numpy as np

    from scan_tf import config
    from scan_tf.methods import catalog
    from scan_tf.methods.clustering import scan
    from scan_tf.methods.selflabel import confident
    from scan_tf.models.heads import ClusterHeads
    from scan_tf.training.loader import Loader, Order
    from scan_tf.training.loop import Trainer

    heads = ClusterHeads(1, CLUSTERS)
    heads.build((None, backbone.feature_dim))
    settings: Any
    if stage == "simclr":
        settings = catalog.config_class("pretext", "simclr")(batch_size=batch)
        task = catalog.method_class("pretext", "simclr")(
            settings, backbone, projection_dim=128, num_images=len(images)
        )
    elif stage == "scan":
        settings = scan.Config(batch_size=batch)
        task = scan.Method(settings, backbone, heads)
    else:
        # An untrained network is sure of nothing; every image is to count.
        settings = confident.Config(batch_size=batch, threshold=0.0)
        task = confident.Method(settings, backbone, heads)
    neighbors = np.random.default_rng(1).integers(0, len(images), (len(images), 21), np.int32)
    runtime = config.RuntimeConfig(progress=False, tensorboard=False)
    loader = Loader(
        images,
        task.views,
        Order(len(images), batch, seed=0, neighbors=neighbors),
        normalise=task.normalise,
        augment_config=config.AugmentConfig(),
        runtime=runtime,
        device=where,
    )
    # Nothing is written: the trainer is asked for single updates only.
    folder = Path(tempfile.gettempdir())
    return Trainer(task, loader, settings, folder, runtime=runtime, device=where), loader


def forward_flop(backbone: Any, size: int) -> float:
    """Floating-point operations of the convolutions of one image."""
    import numpy as np
    import tensorflow as tf

    image = tf.TensorSpec([1, size, size, 3], tf.float32)
    forward = tf.function(lambda x: backbone(x, training=False), autograph=False)
    traced = forward.get_concrete_function(image)
    total = 0.0
    for operation in traced.graph.get_operations():
        if operation.type == "Conv2D":
            kernel, out = operation.inputs[1].shape, operation.outputs[0].shape
            total += 2.0 * np.prod(kernel[:3]) * np.prod(out[1:])
    return total


# PyTorch


def torch_step(
    stage: str, dtype: str, batch: int, size: int, model: dict[str, Any], channels_last: bool
) -> bench.Run:
    """One step of a plain ResNet on batches that lie ready; `dtype` bfloat16 is autocast."""
    import torch

    place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    backbone, dim = torch_resnet(model)
    head = torch.nn.Linear(dim, CLUSTERS)
    projector = torch.nn.Sequential(
        torch.nn.Linear(dim, dim), torch.nn.ReLU(), torch.nn.Linear(dim, 128)
    )
    tail = projector if stage == "simclr" else head
    layout = torch.channels_last if channels_last else torch.contiguous_format
    network = torch.nn.ModuleList([backbone, tail]).to(place, memory_format=layout)
    views = [
        torch.randn(batch, 3, size, size).to(place, memory_format=layout)
        for _ in range(VIEWS[stage])
    ]
    if stage == "simclr":
        optimizer: Any = torch.optim.SGD(network.parameters(), 0.1, 0.9, weight_decay=1e-4)
    else:
        optimizer = torch.optim.Adam(network.parameters(), 1e-4, weight_decay=1e-4)
    autocast = functools.partial(torch.autocast, place.type, torch.bfloat16)
    flop = batch * PASSES[stage] * torch_flop(backbone, views[0][:1])
    losses = {"simclr": torch_simclr, "scan": torch_scan, "selflabel": torch_selflabel}

    def run() -> dict[str, float]:
        with autocast(enabled=dtype == "bfloat16"):
            if stage == "inference":
                network.eval()
                with torch.no_grad():
                    return {"sum": float(backbone(views[0]).float().sum()), "flop": flop}
            loss = losses[stage](lambda x: tail(backbone(x)).float(), views)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return {"loss": float(loss.detach()), "flop": flop}

    return run


def torch_flop(backbone: Any, image: Any) -> float:
    """As `forward_flop`."""
    import torch

    total = []

    def count(layer: Any, _: Any, out: Any) -> None:
        total.append(2.0 * out.numel() * layer.in_channels * math.prod(layer.kernel_size))

    convolutions = [m for m in backbone.modules() if isinstance(m, torch.nn.Conv2d)]
    hooks = [m.register_forward_hook(count) for m in convolutions]
    with torch.no_grad():
        backbone.eval()(image)
    backbone.train()
    for hook in hooks:
        hook.remove()
    return sum(total)


def torch_simclr(network: Callable[[Any], Any], views: list[Any]) -> Any:
    """NT-Xent over both views, in one pass."""
    import torch

    rows = torch.nn.functional.normalize(network(torch.cat(views)))
    logits = rows @ rows.T / 0.1
    logits.fill_diagonal_(float("-inf"))
    count = len(views[0])
    other = torch.arange(2 * count, device=rows.device).roll(count)
    return torch.nn.functional.cross_entropy(logits, other)


def torch_scan(network: Callable[[Any], Any], views: list[Any]) -> Any:
    """Consistency of anchor and neighbour less five times the entropy."""
    p, q = (network(view).softmax(dim=1) for view in views)
    mean = p.mean(dim=0).clamp(min=1e-8)
    return -(p * q).sum(dim=1).log().mean() + 5 * (mean * mean.log()).sum()


def torch_selflabel(network: Callable[[Any], Any], views: list[Any]) -> Any:
    """Cross-entropy of the strong view with the argmax of the weak one."""
    import torch

    with torch.no_grad():
        targets = network(views[0]).argmax(dim=1)
    return torch.nn.functional.cross_entropy(network(views[1]), targets)


def torch_resnet(model: dict[str, Any]) -> tuple[Any, int]:
    """A ResNet of basic blocks (He et al., 2016) with a 3x3 stem, and its feature dimension."""
    from torch import nn

    class Block(nn.Module):
        def __init__(self, before: int, after: int, stride: int):
            super().__init__()
            self.main = nn.Sequential(
                nn.Conv2d(before, after, 3, stride, 1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(),
                nn.Conv2d(after, after, 3, 1, 1, bias=False),
                nn.BatchNorm2d(after),
            )
            same = before == after and stride == 1
            self.skip = (
                nn.Identity()
                if same
                else nn.Sequential(
                    nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)
                )
            )

        def forward(self, x: Any) -> Any:
            return nn.functional.relu(self.main(x) + self.skip(x))

    width = model["width"]
    layers = [nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    channels = width
    for stage in range(4):
        for block in range({"resnet10": 1, "resnet18": 2}[model["backbone"]]):
            after = width * 2**stage
            layers.append(Block(channels, after, 2 if stage and not block else 1))
            channels = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()), channels


def main(argv: list[str] | None = None) -> int:
    """Print the tables; see --help."""
    parser = bench.parser(__doc__)
    parser.add_argument("--stages", nargs="+", default=STAGES, choices=STAGES)
    add_shape(parser)
    peak = "of the matrices for the peak; give more on a GPU"
    parser.add_argument("--peak-size", type=int, default=4096, help=peak)
    arguments = parser.parse_args(argv)
    found = bench.main([*bench.peaks(arguments.peak_size), *cases(arguments)], arguments, "images")
    return 0 if found else 1


def add_shape(parser: argparse.ArgumentParser) -> None:
    """The arguments that say what a step works on."""
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=32, help="side of the images in pixels")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--stem", default="cifar")


def cases(arguments: argparse.Namespace) -> list[bench.Case]:
    """PyTorch first where it has the same network; then every dtype with and without XLA."""
    model = {"backbone": arguments.backbone, "width": arguments.width, "stem": arguments.stem}
    shape = {"batch": arguments.batch, "size": arguments.size, "model": model}
    plain = model["stem"] == "cifar" and model["backbone"] in ("resnet10", "resnet18")
    made = []
    for stage in arguments.stages:
        common = {"stage": stage, **shape}
        case = functools.partial(bench.Case, stage, units=VIEWS[stage] * arguments.batch)
        for dtype in ("float32", "bfloat16") if plain else ():
            last = dtype == "bfloat16"
            name = "PyTorch autocast, channels last" if last else "PyTorch float32"
            options = {**common, "dtype": dtype, "channels_last": last}
            made.append(case(name, torch_step, options, dtype=dtype, needs=("torch",)))
        for dtype, peak in (("float32", "float32"), ("mixed_bfloat16", "bfloat16")):
            for jit in (False, True):
                name = f"scan_tf {dtype}{', XLA' if jit else ''}"
                options = {**common, "dtype": dtype, "jit": jit}
                made.append(case(name, scan_tf_step, options, dtype=peak))
    return made


if __name__ == "__main__":
    sys.exit(main())
