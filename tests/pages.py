"""Pages about clusterings that nobody made, and what a page holds."""

from __future__ import annotations

import base64
import io
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scan_tf.evaluation import page
from scan_tf.features.duplicates import Duplicates

# File and folder names that somebody has.
HOSTILE = [
    "</script><script>document.title='run'</script>",
    '"><img src=x onerror="document.title=\'run\'">',
    "a&amp;b <b>.jpg",
    "{{script}} {{main}}",
    "line\nbreak\t.png",
    "not UTF-8 \udcff.jpg",
    "\u202egpj.exe",
    "日本 'quoted' ü.webp",
]
ROWS = [{"step": i, "epoch": i / 2, "loss": 2.0 / (1 + i), "lr": 0.1} for i in range(8)]


def made(
    rng: np.random.Generator, count: int = 60, num_clusters: int = 3, side: int = 8, **changes: Any
) -> page.PageData:
    """All that a page can show, of squares in the colour of their cluster."""
    probs = rng.dirichlet(np.full(num_clusters, 0.3), count).astype(np.float32)
    found = probs.argmax(axis=1)
    images = rng.integers(0, 60, (count, side, side, 3), np.uint8)
    images[np.arange(count), :, :, found % 3] += 150
    near = Duplicates(
        (np.array([1, 4, 5]),), np.array([[0, 2]]), np.array([0.995], np.float32), 0.99
    )
    values: dict[str, Any] = {
        "title": "squares",
        "subtitle": f"{count} images",
        "images": images,
        "clusters": found,
        "confidence": probs.max(axis=1),
        "num_clusters": num_clusters,
        "names": [f"some/{i}.png" for i in range(count)],
        "probs": probs,
        "features": rng.standard_normal((count, 5)).astype(np.float32),
        "coordinates": (rng.standard_normal((count, 2)) + 4 * found[:, None]).astype(np.float32),
        "labels": rng.integers(0, 4, count),
        "class_names": ["ant", "bee", "cat", "dog"],
        "scores": {"SCAN": {"acc": 0.75, "nmi": 0.5, "ari": 0.25, "num_clusters_used": 3}},
        "stages": [page.StageFacts("pretext", "learning features", 65.0, ROWS)],
        "settings": "seed: 0\n",
        "environment": {"python": "3", "versions": {"numpy": "2"}},
        "warnings": ["Something is odd."],
        "skipped": ["some/broken.png"],
        "duplicates": near,
    }
    return page.PageData(**(values | changes))


class Parsed(HTMLParser):
    """The elements of a page as a browser would see them.

    Attributes:
        tags: (tag, attributes) in their order.
        scripts: (attributes, text) of every script.
        text: of everything else.
    """

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.text = ""
        self._texts: list[tuple[str, str]] = []
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script" and self.lasttag == "script":
            attributes, before = self.scripts[-1]
            if self.cdata_elem == "script":
                self.scripts[-1] = attributes, before + data
                return
        self.text += data
        if self.tags:
            self._texts.append((self.tags[-1][0], data))

    def text_of(self, tag: str) -> list[str]:
        """Texts that follow the opening of such an element."""
        return [text for opened, text in self._texts if opened == tag]

    def all(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        """Attributes of all elements of a kind."""
        wanted = {name.rstrip("_"): value for name, value in wanted.items()}
        return [a for t, a in self.tags if t == tag and wanted.items() <= a.items()]

    @property
    def data(self) -> dict[str, Any]:
        """What the script reads."""
        (found,) = [text for attributes, text in self.scripts if attributes.get("id") == "data"]
        return json.loads(found)

    def array(self, name: str) -> np.ndarray:
        """An embedded array."""
        packed = self.data["arrays"][name]
        values = np.frombuffer(base64.b64decode(packed["data"]), "<" + packed["kind"])
        return values.reshape(packed["shape"])

    @property
    def sheets(self) -> list[np.ndarray]:
        """The sheets of thumbnails, uint8 [H,W,3]."""
        return [
            decoded(text) for attributes, text in self.scripts if attributes.get("class") == "sheet"
        ]

    def thumbnail(self, place: int) -> np.ndarray:
        """One of them, uint8 [s,s,3]."""
        data = self.data
        number, inside = divmod(place, data["perSheet"])
        line, column = divmod(inside, data["columns"])
        side = data["side"]
        return self.sheets[number][line * side :, column * side :][:side, :side]


def decoded(text: str) -> np.ndarray:
    """An image in base64 as uint8 [H,W,3]."""
    with Image.open(io.BytesIO(base64.b64decode(text))) as image:
        assert image.format == "WEBP"
        return np.asarray(image.convert("RGB"))


def written(path: Path, data: page.PageData, **options: Any) -> Parsed:
    """Write a page and read it."""
    page.write(path / "report.html", data, **options)
    return Parsed(path / "report.html")
