"""Draw pictures of the documentation from a finished run: docs/pictures/*.png and stages.svg.

    scan-tf run --config digits_simclr
    python scripts/docs_pictures.py runs/digits_simclr
    python scripts/docs_pictures.py runs/digits_simclr --explorer    # those of docs/explorer.md

The evaluation has drawn some of them already; they are copied. The explorer is looked at in a copy
of the run, by chromium and chromedriver and the development tools.
"""

from __future__ import annotations

import argparse
import importlib
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

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
    parser.add_argument("--explorer", action="store_true", help="those of the explorer alone")
    arguments = parser.parse_args()
    _FOLDER.mkdir(exist_ok=True)
    if arguments.explorer:
        with tempfile.TemporaryDirectory() as folder:
            _explorer(Path(shutil.copytree(arguments.run_dir, Path(folder, "run"))))
        return
    run = Run.open(arguments.run_dir)
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


def _explorer(root: Path) -> None:
    """The explorer with a few corrections: on a desk, what they change, and on a phone."""
    sys.path.insert(0, str(_FOLDER.parents[1] / "tests"))
    # What the tests of the explorer open it with.
    browser, explorer_run = map(importlib.import_module, ("browser", "explorer_run"))
    (root / "status" / ".lock").unlink(missing_ok=True)
    with browser.started() as window, explorer_run.served(root) as (session, client):
        page = _Shots(window, client.keys.address)
        page.open(1200, 760)
        best = session.images.found.probs.argmax(axis=1)
        for group in (0, 1, 2):
            client.act(do="name", group=group, name=f"kind {'ABC'[group]}")
        unsure = np.argsort(session.images.found.probs.max(axis=1))
        few = [int(row) for row in unsure if best[row] == 0][:6]
        client.act(do="move", rows=few[:4], to=1)
        client.act(do="mark", rows=few[4:], **{"as": "unsure"})
        page.open(1200, 760)
        page.do("document.querySelector('#groups [data-id=\"1\"]').click()")
        page.do("document.querySelector('#grid').focus()")
        window.press("o", "o", " ", "Right", " ", "Right", " ")
        page.save("explorer.png")
        page.open(1000, 620)
        window.press("a")
        page.save("explorer-apply.png", until="document.querySelector('dialog[open] tbody')")
        page.open(390, 700)
        page.do("document.querySelector('#groups [data-id=\"1\"]').click()")
        page.save("explorer-phone.png")


class _Shots:
    """A page in a window, and pictures of it."""

    def __init__(self, window: Any, address: str):
        self._window, self._address, self._phone = window, address, False

    def open(self, width: int, height: int) -> None:
        self._phone = width < 600
        self._window.visit("about:blank", width=width, height=height)
        self._window.visit(self._address, width=width, height=height)
        self.until("document.documentElement.dataset.ready")

    def do(self, script: str) -> None:
        self._window.run(script)

    def until(self, expression: str) -> None:
        while not self._window.run(f"return Boolean({expression})"):
            time.sleep(0.1)

    def save(self, name: str, *, until: str = "true") -> None:
        self.until(until)
        images = "[...document.querySelectorAll('.tile img, .thumbs img')]"
        self.until(f"{images}.slice(0, 24).every((i) => i.complete)")
        time.sleep(4)  # until what it has said last is gone
        self._window.picture(_FOLDER / name)
        with Image.open(_FOLDER / name) as picture:
            plain = picture.convert("RGB")
        if self._phone:  # two pixels for each of the page
            plain = plain.reduce(2)
        plain.save(_FOLDER / name, optimize=True)


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
