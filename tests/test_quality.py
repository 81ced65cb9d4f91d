from __future__ import annotations

import cv2
import numpy as np

from scan_tf.data import quality

SIZE = 64


def scene(rng: np.random.Generator) -> np.ndarray:
    """Rectangles of many greys with sharp edges."""
    image = np.full((SIZE, SIZE, 3), rng.integers(60, 190, 3), np.uint8)
    for _ in range(12):
        (top, left), (height, width) = rng.integers(0, SIZE - 8, 2), rng.integers(6, 30, 2)
        image[top : top + height, left : left + width] = rng.integers(0, 256, 3)
    return image


def rows(found: quality.Quality) -> dict[str, list[int]]:
    return {name: value.tolist() for name, value in vars(found).items() if len(value)}


def test_what_stands_out_is_found(rng, monkeypatch):
    monkeypatch.setattr(quality, "_BLOCK", 7)  # blocks end within the set
    good = np.stack([scene(rng) for _ in range(20)])
    assert rows(quality.look(good)) == {}
    odd = {
        "same": good[3],
        "near": np.clip(good[5].astype(int) + rng.integers(-2, 3, good[5].shape), 0, 255),
        "dark": good[6] // 20,
        "bright": 255 - good[7] // 20,
        "flat": np.full_like(good[0], 120),
        "blurred": cv2.GaussianBlur(good[8], (0, 0), 5),
    }
    images = np.concatenate([good, np.stack([*odd.values()]).astype(np.uint8)])
    found = quality.look(images)
    assert rows(found) == {name: [20 + number] for number, name in enumerate(odd)}
    lines = list(found.lines([f"{n}.png" for n in range(26)]))
    assert lines[0] == "1 has the same pixels as one before it: 20.png"
    assert len(lines) == 6


def test_enlarging_is_not_taken_for_blur(rng):
    scenes = [scene(rng) for _ in range(6)]
    scenes[2] = cv2.GaussianBlur(scenes[2], (0, 0), 5)
    large = np.stack([cv2.resize(image, (448, 448)) for image in scenes])
    assert len(quality.look(large).blurred) == len(scenes)
    assert quality.look(large, side=SIZE).blurred.tolist() == [2]
    assert quality.look(large[:, :70, :70], side=20).blurred.tolist() == []  # too small to say


def test_tiny_images_are_told_apart_by_their_pixels_alone(rng):
    images = rng.integers(0, 256, (30, 8, 8, 3), np.uint8)
    assert rows(quality.look(np.concatenate([images, images[:1]]))) == {"same": [30]}
