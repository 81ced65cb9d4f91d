"""What `scan-tf run FOLDER` chooses for these images, this machine and its time, and why."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Iterator, Mapping

import numpy as np
import tensorflow as tf

from scan_tf import config as configs
from scan_tf import machine
from scan_tf.config import Config
from scan_tf.models.pretrained import load_pretrained
from scan_tf.pipeline import decided, plan
from scan_tf.pipeline.run_dir import Run
from scan_tf.training.progress import duration

# Photos for a minute for which the best network has the time on two cores; of more it is timed.
_FEW = 150
# The share of the time that features may take.
_SHARE = 0.5
# Images of a measurement, and how often.
_BATCH, _TIMES = 16, 2
# Networks and sides, the best first, and what an image costs: millions of multiplications by
# EfficientNet-Lite's own table (Lite0 407 at 224 pixels, Lite2 899 at 260), by the area.
_NETWORKS = (("lite2", 224, 667), ("lite0", 224, 407), ("lite0", 160, 208), ("lite0", 128, 133))


@dataclasses.dataclass(frozen=True)
class Choice:
    """A setting that was chosen for a run, and why."""

    key: str
    reason: str


def network(
    config: Config,
    count: int,
    *,
    budget_s: float,
    given: Collection[str],
    seconds: Callable[[str, int], float],
) -> tuple[Config, list[Choice]]:
    """The config with a pretrained network that has the time for so many images.

    Args:
        config: of the recipe; one that learns features itself stays as it is.
        count: of the images.
        budget_s: for the whole run.
        given: dotted keys that were asked for and stay.
        seconds: network and side in pixels -> how long it takes for an image here; asked where
            there are many images.
    """
    keys = ("pretext.weights", "data.image_size")
    wanted = (getattr(config.pretext, "weights", None), config.data.image_size)
    if wanted != _NETWORKS[0][:2] or any(key in given for key in keys):
        return config, []
    best, side, cost = _NETWORKS[0]
    room = _SHARE * budget_s
    if count <= _FEW * budget_s / 60:
        why = f"{count:,} images leave time for the largest network at its best size"
        return config, [Choice(key, why) for key in keys]
    each = seconds(best, side)
    fits = [row for row in _NETWORKS if count * each * row[2] / cost <= room]
    name, side, own = fits[0] if fits else _NETWORKS[-1]
    took = duration(count * each * own / cost)
    why = f"the features of {count:,} images take about {took} here"
    if name != best or side != _NETWORKS[0][1]:
        why += f"; {duration(count * each)} with {best} at {_NETWORKS[0][1]} pixels"
    if not fits:
        why += ", more than half of the time: give more --minutes, or fewer images"
    tree = configs.to_dict(config)
    tree["data"]["image_size"], tree["pretext"]["weights"] = side, name
    return configs.from_dict(tree), [Choice(key, why) for key in keys]


def measured(config: Config) -> Callable[[str, int], float]:
    """How long a network takes for an image on this device, by a few of noise."""

    def seconds(name: str, side: int) -> float:
        device = machine.resolve(config.runtime)
        backbone = load_pretrained(name, side, dtype=device.dtype)
        embed = tf.function(backbone.embed, jit_compile=device.jit_step, autograph=False)
        noise = np.random.default_rng(0).random((_BATCH, side, side, 3), np.float32)
        images = tf.constant(noise)
        np.asarray(embed(images))  # traced, and compiled
        start = time.monotonic()
        for _ in range(_TIMES):
            np.asarray(embed(images))
        return (time.monotonic() - start) / (_TIMES * _BATCH)

    return seconds


def lines(
    run: Run, recipe: str, made: Collection[Choice], *, given: Collection[str], notes: Mapping
) -> Iterator[str]:
    """A line for each choice: the setting, its value, and the reason.

    Args:
        run: with its config as it was chosen.
        recipe: its name.
        made: choices that were made for these images.
        given: dotted keys that were asked for.
        notes: dotted key -> why it is smaller than the recipe has it.
    """
    reasons = _reasons(run, recipe) | {choice.key: choice.reason for choice in made} | dict(notes)
    tree, trained = configs.to_dict(run.config), plan.trained(run.config)
    yield "chosen (each can be set, such as scan.epochs=20):"
    for key, why in reasons.items():
        section, _, name = key.partition(".")
        idle = name == "batch_size" and section not in trained
        if idle or name not in tree[section]:
            continue
        value = "auto" if _is_auto(run, key) else tree[section][name]
        yield f"  {key} = {value}: {'as you say' if key in given else why}"


def _is_auto(run: Run, key: str) -> bool:
    return key == "scan.num_clusters" and decided.is_open(run)


def _reasons(run: Run, recipe: str) -> dict[str, str]:
    """Setting -> why it is as it is."""
    config, images = run.config, run.train_images
    frozen = not config.selflabel.epochs and hasattr(config.pretext, "weights")
    if decided.is_open(run):
        number = "no labels say how many; it is decided on the features before the clustering"
    else:
        number = "as many as there are folders"
    reasons = {
        "pretext.name": f"recipe {recipe}",
        "pretext.weights": f"recipe {recipe}",
        "data.image_size": f"recipe {recipe}",
        "neighbors.k": "what the clustering was tuned with",
        "scan.name": f"recipe {recipe}: "
        + ("heads on features that stay, in seconds" if frozen else "heads and network together"),
        "scan.num_clusters": number,
        "scan.batch_size": f"recipe {recipe}, for {len(images):,} images",
        "scan.epochs": "recipe, unless the time is too short",
        "selflabel.epochs": "left out: the features stay as they are"
        if frozen
        else "recipe, unless the time is too short",
        "runtime.dtype": f"fastest on this machine: {machine.in_words(run.device)}",
    }
    if not frozen:
        reasons["pretext.epochs"] = "recipe, unless the time is too short"
    return reasons
