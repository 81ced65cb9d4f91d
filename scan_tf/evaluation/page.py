"""One HTML file about a clustering, which needs nothing but itself: no network, no other file.

The images are in it twice: those of the galleries one by one and larger, so that they are there
without JavaScript and on paper; all of them as small thumbnails in sheets, for the map and for
whole clusters. Sheets are decoded when they are looked at, so that the page opens at once.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

import scan_tf
from scan_tf.evaluation import galleries, metrics, number_section, sections, thumbnails
from scan_tf.evaluation.colours import as_hex, palette
from scan_tf.evaluation.page_data import PageData, StageFacts
from scan_tf.evaluation.sections import text
from scan_tf.storage.files import write_text

__all__ = ["PageData", "StageFacts", "write"]

# All thumbnails of so many images take 17 MB at 32 pixels. Of more images a random part is shown.
MOST_IMAGES = 50_000
# Side of a thumbnail for up to so many images, in pixels.
_SHEET_SIDES = ((2_000, 64), (10_000, 48), (MOST_IMAGES, 32))
# Images of each kind in a gallery, at most and at least; fewer where there are many clusters.
_PER_KIND, _FEWEST, _GALLERY_IMAGES = 12, 4, 4_800
# Side of an image in a gallery: the larger one up to so many images.
_SIDE, _SIDE_OF_MANY, _MANY = 96, 64, 1_500
# Groups and pairs of duplicates that are shown.
_TWINS = 24
_CAPTIONS = ("Typical", "Most confident", "Least confident", "Borderline")
_WHOLE = "All, the most confident first"

_Picture = tuple[int, str, str]
_Groups = Sequence[tuple[str, np.ndarray]]


def write(path: Path, data: PageData, *, seed: int = 0) -> None:
    """Write the page.

    Args:
        path: the file; folders above it are made.
        data: what the page says.
        seed: of the choice of MOST_IMAGES images where there are more.
    """
    write_text(path, _Page(data, seed).html())


class _Page:
    """A page in the making.

    A place is an image's position on the page: images are sorted by cluster and, within one, from
    the most confident to the least, so that a cluster's thumbnails are in few sheets.
    """

    def __init__(self, data: PageData, seed: int):
        self.data = data
        self.sizes = np.bincount(data.clusters, minlength=data.num_clusters)
        self.second = self.lead = None
        if data.probs is not None and data.num_clusters > 1:
            self.second, self.lead = galleries.runners_up(data.probs)
        room = _GALLERY_IMAGES // (len(_CAPTIONS) * data.num_clusters)
        self.galleries = list(
            galleries.choose(
                data.clusters,
                data.confidence,
                num_clusters=data.num_clusters,
                per_kind=max(_FEWEST, min(_PER_KIND, room)),
                features=data.features,
                second=self.second,
                lead=self.lead,
            )
        )
        self.twins = list(self._twins())
        far = np.empty(0, np.int64) if data.outliers is None else data.outliers
        self.strange = [(f"{len(far):,}, the farthest first", far[:_TWINS])] if len(far) else []
        shown = [rows for _, rows in (*self.twins, *self.strange)]
        single = np.concatenate([g.rows for g in self.galleries] + shown)
        self.rows = self._shown(single, seed)
        self.place = np.full(len(data.clusters), -1, np.int64)
        self.place[self.rows] = np.arange(len(self.rows))
        stored = data.images.shape[1]
        self.side = min(stored, _SIDE if len(single) <= _MANY else _SIDE_OF_MANY)
        limits = (side for most, side in _SHEET_SIDES if len(self.rows) <= most)
        self.sheet_side = min(stored, next(limits, _SHEET_SIDES[-1][1]))

    def html(self) -> str:
        """The whole file."""
        style, plane = _template("page.css"), _template("plane.js").replace("export ", "", 1)
        script = f'"use strict";\n(() => {{\n{plane}{_template("page.js")}}})();\n'
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        sheets = list(thumbnails.sheets(self.data.images, self.rows, self.sheet_side))
        tags = "".join(f'<script type="text/plain" class="sheet">{s}</script>\n' for s in sheets)
        parts = {
            "title": text(self.data.title),
            "policy": f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
            f"script-src 'sha256-{digest}'",
            "style": style + self._colours(),
            "script": script,
            "data": embedded(self._embedded()),
            "sheets": tags,
            "main": self._main(),
            "about": self._about(sum(map(len, sheets))),
            "subtitle": text(self.data.subtitle),
        }
        # In one pass, so that nothing in a part is taken for the place of another.
        return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _template("page.html"))

    def _main(self) -> str:
        data, section = self.data, sections.section
        classes, matrix = self._by_labels()
        sure = np.bincount(data.clusters, weights=data.confidence, minlength=data.num_clusters)
        sure = np.where(self.sizes > 0, sure / np.maximum(self.sizes, 1), np.nan)
        kind = "calibrated: the share that is expected to be right" if data.calibrated else (
            "the probability of the chosen cluster, not calibrated"
        )  # fmt: skip
        return "".join(
            (
                sections.cards(self._cards()),
                sections.remarks(data.warnings),
                section("overview", "Clusters at a glance",
                        sections.overview(data, self.sizes, sure, classes),
                        f"Confidence is {kind}."),
                section("map", "Map of the images", self._map(),
                        "Near means similar to the network. Move over a point to see the image; "
                        "drag to move, Ctrl and the wheel or two fingers to zoom, arrows to step."),
                section("galleries", "Images of every cluster", self._galleries(sure, classes),
                        "Typical: nearest to the middle of the cluster. Borderline: this cluster "
                        "and another are nearly level, on either side of the border."),
                section("outliers", "Unlike the others",
                        sections.twins(self._pictures_of(self.strange)),
                        "Far from all images that were learned from; outliers.csv lists them all."),
                section("duplicates", "Duplicates",
                        sections.twins(self._pictures_of(self.twins)), self._twins_note()),
                section("confidence", "Confidence", sections.trust(data.confidence, data.scores)),
                section("scores", "Scores", sections.scores(data.scores)),
                section("number", "How many clusters", number_section.html(data.decided)),
                section("features", "Pretext features", sections.features(data.feature_scores)),
                section("confusion", "Confusion",
                        "" if matrix is None else sections.confusion(matrix, data.class_names),
                        "Images of each true class by the class that their cluster stands for."),
                section("stages", "Stages", sections.stages(data.stages)),
                section("settings", "How it was made",
                        sections.settings(data.settings, data.environment, data.skipped)),
            )
        )  # fmt: skip

    def _cards(self) -> dict[str, str]:
        data, used = self.data, int((self.sizes > 0).sum())
        facts = {"images": f"{len(data.clusters):,}"}
        empty = used < data.num_clusters
        facts["clusters"] = f"{used} of {data.num_clusters}" if empty else str(used)
        facts["mean confidence"] = sections.share(float(data.confidence.mean()))
        last = list(data.scores.values())[-1] if data.scores else {}
        for key, name in (("acc", "accuracy"), ("nmi", "NMI"), ("ari", "ARI")):
            if last.get(key) is not None:
                facts[name] = sections.share(last[key])
        return facts

    def _by_labels(self) -> tuple[list[tuple[str, float]] | None, np.ndarray | None]:
        """The commonest class of each cluster and its share; the confusion matrix."""
        data = self.data
        if data.labels is None:
            return None, None
        names = data.class_names
        votes = np.zeros((data.num_clusters, len(names)), np.int64)
        np.add.at(votes, (data.clusters, data.labels), 1)
        best, sums = votes.argmax(axis=1).tolist(), votes.sum(axis=1).tolist()
        classes = [(names[k], row[k] / total) if total else ("–", float("nan"))
                   for k, row, total in zip(best, votes, sums, strict=True)]  # fmt: skip
        mapping, _ = metrics.match(data.labels, data.clusters, data.num_clusters, len(names))
        predicted = metrics.to_classes(data.clusters, mapping)
        return classes, metrics.confusion(data.labels, predicted, len(names))

    def _map(self) -> str:
        if self.data.coordinates is None:
            return ""
        choices = {"cluster": "cluster", "confidence": "confidence"}
        if self.data.labels is not None:
            choices["label"] = "true class"
        options = "".join(f'<option value="{k}">{name}</option>' for k, name in choices.items())
        return _template("map.html").replace("{{options}}", options)

    def _galleries(self, sure: np.ndarray, classes: list[tuple[str, float]] | None) -> str:
        parts = []
        for cluster, gallery in enumerate(self.galleries):
            size = int(self.sizes[cluster])
            said = "No images."
            if size:
                said = f"{size:,} {'image' if size == 1 else 'images'}, "
                said += f"{sections.share(size / len(self.data.clusters))}; "
                said += f"mean confidence {sections.share(float(sure[cluster]))}"
                if classes:
                    name, purity = classes[cluster]
                    said += f"; {sections.share(purity, 0)} are {text(name)}"
            kinds = (gallery.typical, gallery.most, gallery.least, gallery.borderline)
            here = int((self.data.clusters[self.rows] == cluster).sum())
            whole = size <= len(gallery.most)
            captions = (*_CAPTIONS[:1], _WHOLE if whole else _CAPTIONS[1], *_CAPTIONS[2:])
            pictures = {c: self._pictures(k) for c, k in zip(captions, kinds, strict=True)}
            more = 0 if whole else here
            parts.append(sections.gallery(self.data, cluster, said, pictures, more))
        return "".join(parts)

    def _pictures(self, rows: np.ndarray) -> list[_Picture]:
        small = thumbnails.shrink(np.asarray(self.data.images[rows]), self.side)
        exact = thumbnails.is_exact(self.side)
        return [
            (int(self.place[row]), self.data.image_name(row), thumbnails.webp(image, exact=exact))
            for row, image in zip(rows.tolist(), small, strict=True)
        ]

    def _twins(self) -> Iterator[tuple[str, np.ndarray]]:
        """What is said of duplicates, and their rows; equal ones first."""
        found = self.data.duplicates
        if found is None:
            return
        for group in found.groups[:_TWINS]:
            more = f", of which {_PER_KIND} are shown" if len(group) > _PER_KIND else ""
            yield f"{len(group)} with the same pixels{more}", group[:_PER_KIND]
        for pair, cosine in zip(found.pairs[:_TWINS], found.similarity, strict=False):
            yield f"similarity {cosine:.4f}", pair

    def _pictures_of(self, groups: _Groups) -> Iterator[tuple[str, list[_Picture]]]:
        for said, rows in groups:
            yield said, self._pictures(rows)

    def _twins_note(self) -> str:
        found = self.data.duplicates
        if found is None:
            return ""
        groups, pairs = len(found.groups), len(found.pairs)
        return (
            f"{groups:,} {'group' if groups == 1 else 'groups'} of images with the same pixels, "
            f"{pairs:,} {'pair' if pairs == 1 else 'pairs'} of near duplicates (the cosine of "
            f"their features is {found.threshold:g} or more). At most {_TWINS} of each are shown."
        )

    def _shown(self, needed: np.ndarray, seed: int) -> np.ndarray:
        """Rows of the images on the page, in the order of their places."""
        count = len(self.data.clusters)
        rows = np.arange(count)
        if count > MOST_IMAGES:
            some = np.random.default_rng(seed).choice(count, MOST_IMAGES, replace=False)
            rows = np.union1d(some, needed.astype(np.int64))
        return rows[np.lexsort((-self.data.confidence[rows], self.data.clusters[rows]))]

    def _embedded(self) -> dict[str, Any]:
        """What the script reads."""
        data, rows = self.data, self.rows
        arrays = {
            "row": packed(rows, "<u4"),
            "cluster": packed(data.clusters[rows], "<u2"),
            "confidence": packed(data.confidence[rows], "<f4"),
        }
        if data.coordinates is not None:
            arrays["coordinates"] = packed(data.coordinates[rows], "<f4")
        if data.labels is not None:
            arrays["label"] = packed(data.labels[rows], "<u2")
        if self.second is not None and self.lead is not None:
            arrays["second"] = packed(self.second[rows], "<u2")
            arrays["lead"] = packed(self.lead[rows], "<f4")
        return {
            "count": len(rows),
            "side": self.sheet_side,
            "columns": thumbnails.COLUMNS,
            "perSheet": thumbnails.PER_SHEET,
            "clusters": [data.cluster_name(c) for c in range(data.num_clusters)],
            "classes": list(data.class_names) if data.labels is not None else [],
            "colours": [as_hex(colour) for colour in data.cluster_colours()],
            "classColours": [as_hex(colour) for colour in palette(len(data.class_names))],
            "names": None if data.names is None else [data.names[row] for row in rows.tolist()],
            "arrays": arrays,
        }

    def _about(self, characters: int) -> str:
        shown, count = len(self.rows), len(self.data.clusters)
        part = f"{shown:,} images" if shown == count else f"{shown:,} of {count:,} images"
        return (
            f"Made by scan_tf {scan_tf.__version__}. This file stands alone: it holds {part} as "
            f"thumbnails of {self.sheet_side} pixels ({characters / 1e6:.1f} MB) and those of the "
            f"galleries at {self.side} pixels, and it loads nothing from a network."
        )

    def _colours(self) -> str:
        pixelated = "image-rendering: pixelated"
        rules = "".join(f".c{i} {{ --c: {as_hex(c)} }}\n" for i, c in enumerate(palette(10)))
        if self.side <= 32:
            rules += f".strip img, .twins img {{ {pixelated} }}\n"
        return rules


def packed(values: np.ndarray, kind: str) -> dict[str, Any]:
    """An array as JSON: its kind (NumPy's, little-endian), shape, and bytes in base64."""
    array = np.ascontiguousarray(values, kind)
    data = base64.b64encode(array.tobytes()).decode("ascii")
    return {"kind": kind[1:], "shape": list(array.shape), "data": data}


def embedded(value: Any) -> str:
    """JSON that may stand in a script element: nothing in it can end that element."""
    safe = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return safe.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _template(name: str) -> str:
    return (resources.files("scan_tf.evaluation") / name).read_text(encoding="utf-8")
