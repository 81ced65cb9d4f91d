"""Weights of the official PyTorch code as finished stages of a run, and the way back.

The official models hold `backbone.` and `contrastive_head.` after a pretext, and `backbone.` and
one or several `cluster_head.` after SCAN and self-labelling. MoCo's checkpoints hold the same
network under other names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from scan_tf.errors import ConfigError, DataError, StageError
from scan_tf.methods.task import Pretext
from scan_tf.models import torch_files
from scan_tf.models.frozen import Frozen
from scan_tf.models.heads import ClusterHeads, ProjectionHead, new_heads
from scan_tf.models.resnet import ResNet
from scan_tf.models.torch_names import load_torch, to_torch
from scan_tf.models.weights import save_weights
from scan_tf.pipeline import build, corrected, features
from scan_tf.pipeline.run_dir import Run
from scan_tf.pipeline.stage import TRAINED
from scan_tf.storage import files

_BACKBONE, _PROJECTOR, _CLUSTERS = "backbone.", "contrastive_head.", "cluster_head."

Tensors = dict[str, np.ndarray]


def import_checkpoint(
    run: Run,
    path: Path,
    *,
    stage: str | None = None,
    head: int | None = None,
    redo: bool = False,
) -> str:
    """Put the weights of a PyTorch file into the run as a finished stage.

    The stages after it go on from there; those before it are neither made nor needed. The images
    must be normalised as they were for the file, and of the three stems with a 3x3 convolution
    the config must name the right one: the tensors do not tell them apart.

    Args:
        run: a run whose config describes the networks in the file.
        path: a file that `torch_files.read` knows.
        stage: "pretext", "scan" or "selflabel"; None: `scan` where the file has cluster heads and
            the number of the best, `selflabel` where it has one head and no number, else `pretext`.
        head: which of several cluster heads to keep, from 0; None: the one that the file names.
        redo: replace what the stage holds, and delete the stages after it, once the file is read.

    Returns:
        The stage.

    Raises:
        ConfigError: the networks or the number of clusters are not those of the config.
        DataError: the file cannot be used, or lacks what the stage needs.
        StageError: the stage has been run already.
    """
    file = torch_files.read(path)
    tensors = _official_names(file.tensors)
    if tensors.get(f"{_BACKBONE}conv1.weight", np.zeros(0)).ndim != 4:
        raise DataError(
            f"{path}: holds no ResNet, whose first tensor is called 'conv1.weight' (after "
            f"'{_BACKBONE}' or 'encoder_q.'). It has: {', '.join(list(tensors)[:3])}, ..."
        )
    if bad := files.not_finite(file.tensors):
        raise DataError(
            f"{path}: {len(bad)} of {len(file.tensors)} tensors are not finite, such as "
            f"'{bad[0]}': the training has diverged, or the file is damaged."
        )
    head = file.head if head is None else head
    stage = stage or _recognise(tensors, head)
    if not redo:
        _refuse_to_replace(run, stage)
    keras.utils.set_random_seed(run.seed(stage))  # for what is not in the file
    load = _load_pretext if stage == "pretext" else _load_clusters
    loaded, notes = load(run, path, tensors, head)
    if redo:
        run.redo(stage)
    source = {"file": path.name, "sha256": files.sha256(path)}
    run.write_config()
    with run.working(stage) as result:
        save_weights(run.folder(stage) / "weights.npz", loaded, extra=notes)
        if stage == "scan":
            best = json.dumps(notes, indent=2)
            files.write_text(run.folder(stage) / "best.json", best + "\n")
        result.update(notes, imported_from=source)
    return stage


def export_torch(run: Run) -> Path:
    """Write `export-torch/{pretext,scan,selflabel}.pth.tar` for the stages that are done.

    They have the names and the form that the official code reads: a bare state dict of the
    pretext (with `contrastive_head.` where it has that projector) and of the self-labelled model,
    and `{"model": state dict, "head": 0}` with the one head that was kept for SCAN. Where the
    clustering was corrected by hand, `corrected.pth.tar` is what came of it, in the form of the
    self-labelled model; the stages are as they were trained.

    Returns:
        The folder.

    Raises:
        StageError: no stage is done, one was made with another config, PyTorch is missing, or the
            networks are none that the official code has.
    """
    folder = run.root / "export-torch"
    done = [stage for stage in TRAINED if run.is_done(stage)]
    if not done:
        run.require(TRAINED[0])
    if any(stage != TRAINED[0] for stage in done) and corrected.load(run, warn=True) is not None:
        done.append(corrected.NAME)
    tensors = {stage: _tensors_of(run, stage) for stage in done}
    run.claim()
    for stage in (*TRAINED, corrected.NAME):
        path = folder / f"{stage}.pth.tar"
        if stage in tensors:
            with files.atomic(path) as temporary:
                torch_files.write(temporary, tensors[stage], 0 if stage == "scan" else None)
        else:
            path.unlink(missing_ok=True)  # of a stage or corrections that are gone since
    return folder


def _official_names(tensors: Tensors) -> Tensors:
    """The tensors under the names of SCAN's models; MoCo's key encoder and queue are left out."""
    query = "encoder_q."
    moco = {n.removeprefix(query): t for n, t in tensors.items() if n.startswith(query)}
    if moco:
        # MoCo's projector is the last layer of its network: `fc.0` and `fc.2`, `fc` alone in v1.
        return {
            _PROJECTOR + n.removeprefix("fc.") if n.startswith("fc.") else _BACKBONE + n: t
            for n, t in moco.items()
        }
    if "conv1.weight" in tensors:  # a network without a head, or torchvision's with its classifier
        return {n if n.startswith("fc.") else _BACKBONE + n: t for n, t in tensors.items()}
    return tensors


def _recognise(tensors: Tensors, head: int | None) -> str:
    heads = _heads(tensors)
    if not heads:
        return "pretext"
    return "selflabel" if len(heads) == 1 and head is None else "scan"


def _heads(tensors: Tensors) -> list[int]:
    found = (re.match(rf"{_CLUSTERS}(\d+)\.", name) for name in tensors)
    return sorted({int(match[1]) for match in found if match})


def _refuse_to_replace(run: Run, stage: str) -> None:
    started = run.record(stage).has_begun and any(run.folder(stage).rglob("ckpt"))
    if run.is_done(stage) or started:
        raise StageError(
            f"{run.folder(stage)}: the stage '{stage}' has been {'started' if started else 'done'}"
            f" already. Give another --run-dir, or delete its results first with --redo {stage}."
        )


def _load_pretext(
    run: Run, path: Path, tensors: Tensors, _: int | None
) -> tuple[Mapping[str, keras.Model], dict[str, Any]]:
    """The networks of the pretext, and which of them, or of the file, had no counterpart."""
    task = build.new_pretext(run)
    used, new = [], []
    for name, network in task.networks.items():
        projects = isinstance(network, ProjectionHead) and f"{_PROJECTOR}0.weight" in tensors
        if name == "backbone" or projects:
            used.append(_PROJECTOR if projects else _BACKBONE)
            _load(run, path, network, tensors, used[-1])
        else:
            new.append(name)
    needed = _needed(task, run, new) if new else []
    if needed:
        raise DataError(
            f"{path}: has no weights for {', '.join(needed)}, by which the pretext "
            f"'{run.config.pretext.name}' finds neighbours. Choose one that finds them by the "
            "backbone alone, such as pretext.name=moco."
        )
    unused = sorted({n.partition(".")[0] for n in tensors if not n.startswith(tuple(used))})
    if new:
        print(f"  not in the file, left as new: {', '.join(new)}")
    if unused:
        print(f"  in the file, but not used: {', '.join(unused)}")
    return task.networks, {"new_networks": new, "unused_in_file": unused}


def _needed(task: Pretext, run: Run, names: list[str]) -> list[str]:
    """Those of the networks that neighbours are found by."""
    size = run.train_images.image_size
    images = tf.TensorSpec([1, size, size, 3], tf.float32)
    network = features.embedding(run.config, task)
    read = tf.function(network).get_concrete_function(images).graph.variables
    ids = {id(variable) for variable in read}
    return [n for n in names if any(id(v.value) in ids for v in task.networks[n].variables)]


def _load_clusters(
    run: Run, path: Path, tensors: Tensors, head: int | None
) -> tuple[Mapping[str, keras.Model], dict[str, Any]]:
    """The backbone and the cluster head that is kept, and the number it had."""
    heads = _heads(tensors)
    if not heads:
        raise DataError(
            f"{path}: holds no cluster head ('{_CLUSTERS}0.weight'). "
            "Import it with --stage pretext."
        )
    if head is None and len(heads) > 1:
        raise DataError(
            f"{path}: holds {len(heads)} cluster heads and does not say which one is the best. "
            f"Give its number, {heads[0]} to {heads[-1]}, with --head."
        )
    head = heads[0] if head is None else head
    if head not in heads:
        raise DataError(f"{path}: holds no cluster head {head}, but {', '.join(map(str, heads))}.")
    before, after = f"{_CLUSTERS}{head}.", f"{_CLUSTERS}0."
    kept = {n.replace(before, after, 1): t for n, t in tensors.items() if n.startswith(before)}
    _check_clusters(run, path, len(kept.get(f"{after}bias", [])))
    backbone = build.new_backbone(run)
    cluster_heads = new_heads(backbone, 1, run.num_clusters)
    _load(run, path, backbone, tensors, _BACKBONE)
    _load(run, path, cluster_heads, kept, _CLUSTERS)
    return {"backbone": backbone, "heads": cluster_heads}, {"head": head}


def _check_clusters(run: Run, path: Path, there: int) -> None:
    wanted = run.config.scan.num_clusters
    here = wanted or run.train_images.num_classes
    if there != here:
        source = "is" if wanted else "is not set, and the number of classes is"
        raise ConfigError(
            f"scan.num_clusters: {source} {here}, but {path} has {there} clusters. "
            f"Set scan.num_clusters={there}."
        )


def _load(run: Run, path: Path, network: keras.Model, tensors: Tensors, prefix: str) -> None:
    """Load one network; where it does not fit, say which settings to look at."""
    try:
        load_torch(network, tensors, prefix)
    except DataError as error:
        model = run.config.model
        settings = f"backbone={model.backbone}, stem={model.stem}, width={model.width}"
        if prefix == _PROJECTOR:
            settings += f", projection_dim={model.projection_dim}"
        raise ConfigError(
            f"model: {path} does not fit {settings}. Its network has {_architecture(tensors)}. "
            f"{error}"
        ) from error


def _architecture(tensors: Tensors) -> str:
    """What the tensors tell of a backbone, such as "3-4-6-3 bottlenecks, width 64, a 7x7 stem"."""
    found = (re.match(rf"{_BACKBONE}layer(\d+)\.(\d+)\.", name) for name in tensors)
    blocks: dict[int, int] = {}
    for match in filter(None, found):
        stage, block = int(match[1]), int(match[2])
        blocks[stage] = max(blocks.get(stage, 0), block + 1)
    kind = "bottlenecks" if f"{_BACKBONE}layer1.0.conv3.weight" in tensors else "basic blocks"
    filters, *_, side = tensors[f"{_BACKBONE}conv1.weight"].shape
    counts = "-".join(str(blocks[stage]) for stage in sorted(blocks))
    return f"{counts} {kind}, width {filters}, a {side}x{side} stem"


def _tensors_of(run: Run, stage: str) -> Tensors:
    """The tensors of a finished stage, or of what was corrected, under their official names."""
    if stage == "pretext":
        task = build.trained_pretext(run)
        _require_official(run, stage, task.backbone)
        tensors = to_torch(task.backbone, _BACKBONE)
        for network in task.networks.values():
            if isinstance(network, ProjectionHead):
                tensors |= to_torch(network, _PROJECTOR)
        return tensors
    shown = stage == corrected.NAME
    backbone, heads = build.shown_clusters(run) if shown else build.trained_clusters(run, stage)
    _require_official(run, stage, backbone, heads)
    return to_torch(backbone, _BACKBONE) | to_torch(heads, _CLUSTERS)


def _require_official(run: Run, stage: str, backbone: Any, heads: Any = None) -> None:
    """Refuse networks that the official code does not have. Raises StageError."""
    for network, known, name in (
        (backbone, ResNet, "ResNets that were trained from the beginning"),
        (heads, ClusterHeads, "linear heads"),
    ):
        if network is not None and not isinstance(network, known):
            frozen = isinstance(network, Frozen)
            what = "a pretrained network" if frozen else type(network).__name__
            raise StageError(
                f"--format torch: the stage '{stage}' of {run.root} has {what}, and the official "
                f"code knows {name} alone. Other forms take it: "
                "--format savedmodel, litert or onnx."
            )
