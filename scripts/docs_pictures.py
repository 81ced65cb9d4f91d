"""Draw the pictures of docs/concepts.md from a finished run: docs/pictures/*.png and stages.svg.

    scan-tf run --config digits_simclr
    python scripts/docs_pictures.py runs/digits_simclr

The evaluation has drawn some of them already; they are copied.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import tensorflow as tf

from scan_tf import augment
from scan_tf.evaluation import charts, pictures
from scan_tf.features import neighbors
from scan_tf.pipeline import Run
from scan_tf.storage.files import read_npz

_FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
_COPIED = ("confusion.png", "map.png", "reliability.png", "confidence.png")
_COLUMNS = 8
_BOXES = (
    ("images", "u8 [N,S,S,3]"),
    ("pretext", "features [N,P]"),
    ("neighbours", "int32 [N,K+1]"),
    ("SCAN", "heads [H,B,C]"),
    ("self-label", "one head [B,C]"),
    ("evaluate", "labels are read"),
    ("export", "SavedModel"),
)


def main() -> None:
    """Draw them all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("run_dir", type=Path)
    run = Run.open(parser.parse_args().run_dir)
    _FOLDER.mkdir(exist_ok=True)
    for name in _COPIED:
        shutil.copyfile(run.root / "eval" / name, _FOLDER / name)
    (_FOLDER / "stages.svg").write_text(_stages(), encoding="utf-8")
    images = run.train_images
    _pretext(run, images.images[:_COLUMNS])
    found = neighbors.load(run.sealed("neighbors", "train.npz"))
    _neighbors(images.images[:], found.indices, found.similarity)
    stored = read_npz(run.root / "eval" / "assignments.npz")[0]
    _clusters(images.images[:], stored["scan_cluster"], stored["scan_confidence"])
    _confidence({"SCAN": stored["scan_confidence"], "self-label": stored["selflabel_confidence"]})


def _pretext(run: Run, images: np.ndarray) -> None:
    """Images, and below each two views of it."""
    config = run.config
    policy = augment.make("simclr", config.augment, size=images.shape[1], mean=(0.0, 0.0, 0.0))
    pixels = tf.cast(images, tf.float32) / 255
    views = [np.asarray(policy(pixels, tf.constant([0, seed]))) for seed in (1, 2)]
    rows = [images, *((255 * view).round().clip(0, 255).astype(np.uint8) for view in views)]
    captions = [*["image"] * _COLUMNS, *["one view"] * _COLUMNS, *["another view"] * _COLUMNS]
    title = "Two random views of an image show the same thing"
    _rows("pretext.png", np.concatenate(rows), captions, title)


def _neighbors(images: np.ndarray, indices: np.ndarray, similarity: np.ndarray) -> None:
    """Five images and their nearest neighbours."""
    queries = np.linspace(0, len(images) - 1, 5).astype(int)
    shown = min(_COLUMNS, indices.shape[1])
    rows = indices[queries, :shown]
    captions = [
        "image" if column == 0 else f"cosine {similarity[query, column]:.2f}"
        for query in queries
        for column in range(shown)
    ]
    title = "An image, and its nearest neighbours by the features"
    pictures.contact_sheet(
        _FOLDER / "neighbors.png", images[rows.reshape(-1)], captions, title, columns=shown
    )


def _clusters(images: np.ndarray, clusters: np.ndarray, confidence: np.ndarray) -> None:
    """A row for each cluster: the images that SCAN is surest of."""
    rows = []
    for cluster in range(clusters.max() + 1):
        members = np.flatnonzero(clusters == cluster)
        rows += members[np.argsort(-confidence[members], kind="stable")[:_COLUMNS]].tolist()
    captions = [f"cluster {clusters[row]}" for row in rows]
    _rows("scan.png", images[rows], captions, "The images of each cluster that SCAN is surest of")


def _rows(name: str, images: np.ndarray, captions: list[str], title: str) -> None:
    pictures.contact_sheet(_FOLDER / name, images, captions, title, columns=_COLUMNS)


def _confidence(stages: dict[str, np.ndarray]) -> None:
    """The share of the images above each confidence."""
    levels = np.linspace(0.5, 1, 26)[:-1]
    shares = {
        name: ([float(100 * np.mean(values > level)) for level in levels], None)
        for name, values in stages.items()
    }
    before, after = (100 * np.mean(values > 0.9) for values in stages.values())
    charts.series(
        _FOLDER / "selflabel.png",
        levels.tolist(),
        shares,
        xlabel="confidence",
        ylabel="images above it, %",
        title=f"Surer than 0.9 are {before:.0f} % of the images after SCAN, "
        f"{after:.0f} % after self-label",
    )


def _stages() -> str:
    """The stages as boxes in a row, as SVG."""
    wide, high, gap = 118, 54, 22
    parts = []
    for number, (name, shape) in enumerate(_BOXES):
        x = number * (wide + gap)
        middle = x + wide / 2
        parts.append(
            f'<rect x="{x}" y="1" width="{wide}" height="{high}" rx="7" fill="#eef3fb" '
            f'stroke="#0072B2"/><text x="{middle}" y="24" font-weight="bold">{name}</text>'
            f'<text x="{middle}" y="43" font-size="11">{shape}</text>'
        )
        if number:
            tip = f"M{x - 7},{high / 2 - 3} l6,4 l-6,4"
            parts.append(
                f'<path d="M{x - gap + 2},{high / 2 + 1} H{x - 3} {tip}" fill="none" '
                'stroke="#0072B2" stroke-width="1.5"/>'
            )
    box = f"0 0 {len(_BOXES) * (wide + gap) - gap + 1} {high + 2}"
    style = 'font-family="sans-serif" font-size="13" text-anchor="middle" fill="#1b1f24"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" {style}>'
        + "".join(parts)
        + "</svg>\n"
    )


if __name__ == "__main__":
    main()
