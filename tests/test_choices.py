"""`scan-tf run FOLDER` chooses for images, machine and time, and says why."""

from __future__ import annotations

import pytest
from PIL import Image

from scan_tf import config
from scan_tf.data import headers
from scan_tf.pipeline import choices
from scan_tf.settings import reading

FOLDER = config.load(reading.recipes()["folder"])
SCRATCH = config.load(reading.recipes()["folder_from_scratch"])


def chosen(count, seconds=0.05, settings=FOLDER, **how):
    asked = []

    def measure(name, side):
        asked.append((name, side))
        return seconds

    how = {"budget_s": 600, "given": ()} | how
    made, why = choices.network(settings, count, seconds=measure, **how)
    return made.pretext, made.data.image_size, why, asked


def test_few_images_get_the_best_network_without_a_measurement():
    pretext, side, why, asked = chosen(1000)
    assert (pretext.weights, side, asked) == ("lite2", 224, [])
    assert [choice.key for choice in why] == ["pretext.weights", "data.image_size"]
    assert why[0].reason.startswith("1,000 images leave time for the largest network")


@pytest.mark.parametrize(
    ("count", "weights", "side"),
    [(5_000, "lite2", 224), (9_000, "lite0", 224), (18_000, "lite0", 160), (30_000, "lite0", 128)],
)
def test_many_images_get_a_network_that_has_the_time(count, weights, side):
    pretext, found, why, asked = chosen(count)
    assert (pretext.weights, found, asked) == (weights, side, [("lite2", 224)])
    assert ("with lite2 at 224 pixels" in why[0].reason) == (weights != "lite2")
    assert "more than half of the time" not in why[0].reason
    # Twice the time is enough for twice the images.
    assert chosen(2 * count, budget_s=1200)[:2] == (pretext, found)


def test_more_images_than_the_time_allows_are_told():
    pretext, side, why, _ = chosen(100_000)
    assert (pretext.weights, side) == ("lite0", 128)
    assert why[0].reason.endswith("give more --minutes, or fewer images")


def test_what_was_asked_for_stays():
    for how in ({"given": {"data.image_size"}}, {"settings": SCRATCH}):
        pretext, side, why, asked = chosen(100_000, **how)
        before = how.get("settings", FOLDER)
        assert (pretext, side) == (before.pretext, before.data.image_size)
        assert (why, asked) == ([], [])


def test_kinds_sizes_and_modes_of_files_are_told(tmp_path):
    for number, (size, mode, kind) in enumerate(
        [((40, 30), "RGB", "jpg"), ((400, 300), "L", "png"), ((50, 40), "RGB", "jpg")]
    ):
        Image.new(mode, size).save(tmp_path / f"{number}.{kind}")
    (tmp_path / "3.jpg").write_text("no image")
    paths = sorted(tmp_path.iterdir())
    found = headers.look(paths)
    assert found.side == 40
    assert found.text == (
        "files: 2 JPEG, 1 PNG; 40 x 30 pixels to 400 x 300, half of them up to 50 x 40; 2 RGB, 1 L"
    )
    assert headers.look(paths[:1]).text == "files: 1 JPEG; 40 x 30 pixels; 1 RGB"
    assert headers.look(paths[3:]) is None


def test_of_very_many_files_a_part_is_looked_at(tmp_path, monkeypatch):
    monkeypatch.setattr(headers, "_LOOKED_AT", 3)
    for number in range(7):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{number}.png")
    said = headers.look(sorted(tmp_path.iterdir())).text
    assert said == "files: 3 PNG; 8 x 8 pixels; 3 RGB (of 3 files that were looked at)"
