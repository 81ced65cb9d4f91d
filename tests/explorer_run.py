"""Evaluated runs that nobody trained, of any size, for the explorer; made without TensorFlow."""

from __future__ import annotations

import http.client
import json
import os
import urllib.parse
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from scan_tf import config
from scan_tf.explorer import serving
from scan_tf.explorer.guard import Keys
from scan_tf.explorer.session import Session
from scan_tf.pipeline import record
from scan_tf.pipeline.record import Record
from scan_tf.pipeline.run_dir import Run
from scan_tf.storage import files

# Different pictures; the rest are links to them.
_PICTURES = 500


def made(
    root: Path, count: int = 60, clusters: int = 4, dim: int = 8, side: int = 24, seed: int = 0
) -> Path:
    """A run directory below `root`: `clusters` clouds of features, a picture file for each image.

    The clustering tells the first half of the clouds apart and takes the others two for one.
    """
    random = np.random.default_rng(seed)
    kinds = random.integers(0, clusters, count)
    centers = 3 * random.standard_normal((clusters, dim))
    features = (centers[kinds] + random.standard_normal((count, dim))).astype(np.float32)
    logits = 2 * random.standard_normal((count, clusters)) + 4 * np.eye(clusters)[kinds]
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    probs = (probs / probs.sum(axis=1, keepdims=True)).astype(np.float32)
    plane = 4 * random.standard_normal((clusters, 2))[kinds] + random.standard_normal((count, 2))
    names = write_pictures(root / "images", kinds, side, random)

    tree = {
        "name": "made",
        "data": {"name": "folder", "path": str(root / "images"), "image_size": side},
        "scan": {"num_clusters": clusters},
    }
    run = Run(config.from_dict(tree), root / "run")
    files.write_text(run.root / "config.yaml", config.dump(run.config))
    files.write_npz(run.folder("scan") / "weights.npz", {"seed": np.array([seed])}, {"extra": {}})
    evaluated = run.folder("evaluate")
    manifest = {"class_names": [], "are_files": True}
    arrays = {"features": features, "probs": probs, "points": plane.astype(np.float32)}
    arrays["distance"] = random.random(count).astype(np.float32)
    files.write_npz(evaluated / "embeddings.npz", arrays, manifest)
    rows = zip(names, probs.argmax(axis=1).tolist(), probs.max(axis=1).tolist(), strict=True)
    lines = ((name, cluster, "", f"{sure:.6f}") for name, cluster, sure in rows)
    files.write_csv(evaluated / "assignments.csv", ("path", "cluster", "name", "confidence"), lines)
    files.write_text(evaluated / "report.json", json.dumps({"split": "train"}))
    for stage in ("scan", "evaluate"):
        seals = record.seals(run.folder(stage))
        done = Record("done", 1.0, run.read_by(stage), {}, files=seals)
        record.write(run.root, stage, done)
    return run.root


def write_pictures(
    folder: Path, kinds: np.ndarray, side: int, random: np.random.Generator
) -> list[str]:
    """A picture for each image in the colour of its kind; their names."""
    folder.mkdir(parents=True)
    names = []
    last: dict[int, list[Path]] = {}
    for number, kind in enumerate(kinds.tolist()):
        path = folder / f"{number:06d}.png"
        before = last.setdefault(kind, [])
        if len(before) * (kinds.max() + 1) >= _PICTURES:
            os.link(before[number % len(before)], path)
        else:
            pixels = random.integers(0, 90, (side, side, 3))
            pixels += np.array([[150, 30, 0], [0, 140, 60], [40, 60, 150], [120, 120, 0]])[kind % 4]
            Image.fromarray(pixels.astype(np.uint8)).save(path)
            before.append(path)
        names.append(path.name)
    return names


class Client:
    """What a page of the explorer sends; every answer is (status, headers, body)."""

    def __init__(self, keys: Keys):
        self.keys, self.host = keys, f"127.0.0.1:{keys.port}"
        status, headers, _ = self.ask("GET", f"/?token={keys.token}", cookie="")
        assert status == 200
        self.cookie = headers["Set-Cookie"].split(";")[0]

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        cookie: str | None = None,
        **headers: str,
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """A request with whatever headers; `_` in their names stands for `-`, "" leaves one out."""
        sent = {"Host": self.host, "Cookie": self.cookie if cookie is None else cookie}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.keys.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in sent.items():
                if value:
                    connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """JSON."""
        status, _, body = self.ask("GET", path)
        assert status == 200, body
        return json.loads(body)

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        """Send JSON as the page does; the status and the JSON of the answer."""
        sent = {"Origin": f"http://{self.host}", "Content_Type": "application/json"} | headers
        status, _, answer = self.ask("POST", path, json.dumps(body).encode(), **sent)
        try:
            return status, json.loads(answer)
        except ValueError:
            return status, answer.decode()

    def act(self, **action: Any) -> Any:
        """Do something with the last state; the next one."""
        seq = self.get("/api/state")["seq"]
        status, state = self.post("/api/act", {"seq": seq, "action": action})
        assert status == 200, state
        return state

    def group(self) -> np.ndarray:
        """The group of every image."""
        _, _, body = self.ask("GET", "/api/images")
        return np.frombuffer(body, "<i4", len(body) // 21)


@contextmanager
def served(root: Path) -> Iterator[tuple[Session, Client]]:
    """The explorer of a run in this process."""
    with (
        serving.bound("127.0.0.1", 0) as listening,
        closing(Session(Run.open(root))) as session,
    ):
        keys = Keys("127.0.0.1", listening.getsockname()[1])
        with serving.running(session, keys, listening):
            yield session, Client(keys)


def token_of(address: str) -> str:
    """The token in an address."""
    return urllib.parse.parse_qs(urllib.parse.urlsplit(address).query)["token"][0]
