from __future__ import annotations

import base64
import hashlib
import re

import numpy as np
import pytest
from pages import HOSTILE, Parsed, decoded, made, written

from scan_tf.errors import DataError
from scan_tf.evaluation import page, thumbnails


def test_the_arrays_come_back(tmp_path, rng):
    data = made(rng)
    found = written(tmp_path, data)
    rows = found.array("row")
    assert sorted(rows) == list(range(60))
    np.testing.assert_array_equal(found.array("cluster"), data.clusters[rows])
    np.testing.assert_array_equal(found.array("confidence"), data.confidence[rows])
    np.testing.assert_array_equal(found.array("coordinates"), data.coordinates[rows])
    np.testing.assert_array_equal(found.array("label"), data.labels[rows])
    assert found.data["names"] == [data.names[row] for row in rows]
    falling = np.sort(data.probs[rows], axis=1)[:, ::-1]
    np.testing.assert_allclose(found.array("lead"), falling[:, 0] - falling[:, 1], atol=1e-7)
    np.testing.assert_array_equal(found.array("second"), np.argsort(data.probs[rows])[:, -2])


def test_images_lie_by_cluster_the_most_confident_first(tmp_path, rng):
    found = written(tmp_path, made(rng))
    clusters, confidence = found.array("cluster").astype(int), found.array("confidence")
    assert (np.diff(clusters) >= 0).all()
    assert (np.diff(confidence)[np.diff(clusters) == 0] <= 0).all()


def test_thumbnails_of_tiny_images_are_exact(tmp_path, rng):
    data = made(rng, count=thumbnails.PER_SHEET + 40)
    found = written(tmp_path, data)
    sheets = found.sheets
    assert [sheet.shape for sheet in sheets] == [(256, 256, 3), (16, 256, 3)]
    for place in (0, 31, 32, 500, 1023, 1024, 1063):
        image = data.images[found.array("row")[place]]
        np.testing.assert_array_equal(found.thumbnail(place), image)


def test_thumbnails_of_larger_images_are_small_copies(tmp_path, rng):
    ramp = np.arange(96, dtype=np.uint8)[:, None, None] * 2
    images = np.broadcast_to(ramp, (60, 96, 96, 3))
    found = written(tmp_path, made(rng, images=images))
    assert found.data["side"] == 64
    expected = np.linspace(0, 190, 64)[:, None, None]
    assert np.abs(found.thumbnail(17) - expected).max() < 12


def test_pictures_of_the_galleries_are_the_images(tmp_path, rng):
    data = made(rng)
    found = written(tmp_path, data)
    pictures = [attributes for attributes in found.all("img") if attributes["alt"]]
    assert len(pictures) > 3 * 12
    for picture in pictures:
        row = data.names.index(picture["alt"])
        pixels = decoded(picture["src"].removeprefix("data:image/webp;base64,"))
        np.testing.assert_array_equal(pixels, data.images[row])


def test_galleries_say_what_is_in_a_cluster(tmp_path, rng):
    clusters = np.array([0] * 30 + [2] * 30)
    data = made(rng, clusters=clusters, labels=np.array([1] * 15 + [3] * 45))
    found = written(tmp_path, data)
    assert [a["id"] for a in found.all("article")] == ["c0", "c1", "c2"]
    sure = f"{100 * data.confidence[:30].mean():.1f}\u00a0%"
    said = f"30 images, 50.0\u00a0%; mean confidence {sure}; 50\u00a0% are bee"
    assert said in found.text
    assert "100\u00a0% are dog" in found.text
    assert "No images." in found.text
    assert len(found.all("button", class_="all")) == 2


def test_names_of_clusters(tmp_path, rng):
    found = written(tmp_path, made(rng, cluster_names=["sunny", "", HOSTILE[0]]))
    assert found.data["clusters"] == ["sunny", "Cluster 1", HOSTILE[0]]
    assert "sunny cluster 0" in found.text
    assert HOSTILE[0] in found.text


def test_nothing_that_a_name_holds_becomes_markup(tmp_path, rng):
    plain = written(
        tmp_path / "plain", made(rng, count=len(HOSTILE), cluster_names=["a", "b", "c"])
    )
    hostile = made(
        rng,
        count=len(HOSTILE),
        title=HOSTILE[0],
        subtitle=HOSTILE[1],
        names=HOSTILE,
        cluster_names=HOSTILE[:3],
        class_names=HOSTILE[:4],
        warnings=HOSTILE,
        skipped=HOSTILE,
        settings=HOSTILE[0],
        environment={HOSTILE[0]: HOSTILE[1]},
        scores={HOSTILE[0]: {"acc": 0.5}},
        stages=[page.StageFacts(HOSTILE[0], HOSTILE[1], 1.0, [{"epoch": 1, HOSTILE[0]: 2.0}])],
    )
    found = written(tmp_path / "hostile", hostile)
    assert len(found.scripts) == len(plain.scripts)
    assert {tag for tag, _ in found.tags} == {tag for tag, _ in plain.tags}
    allowed = {name for _, attributes in plain.tags for name in attributes}
    assert {name for _, attributes in found.tags for name in attributes} <= allowed
    assert not any(name.startswith("on") for name in allowed)
    assert HOSTILE[3] in found.text
    assert "not UTF-8 \\udcff.jpg" in found.text
    assert sorted(found.data["names"]) == sorted(HOSTILE)


def test_nothing_comes_from_elsewhere(tmp_path, rng):
    found = written(tmp_path, made(rng))
    for _, attributes in found.tags:
        for name in ("src", "href"):
            assert re.match("data:image/webp;|#", attributes.get(name) or "#")
    (script,) = [text for attributes, text in found.scripts if not attributes]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [a for a in found.all("meta") if "http-equiv" in a]
    assert policy["http-equiv"] == "Content-Security-Policy"
    assert policy["content"] == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )


def test_the_same_clustering_gives_the_same_bytes(tmp_path, rng):
    data = made(rng)
    page.write(tmp_path / "a.html", data)
    page.write(tmp_path / "b.html", data)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


SECTIONS = {"overview", "map", "galleries", "duplicates", "confidence", "scores", "confusion",
            "stages", "settings"}  # fmt: skip


def sections(found: Parsed) -> set[str]:
    return {attributes["id"] for attributes in found.all("section")}


def test_what_is_unknown_has_no_section(tmp_path, rng):
    everything = made(rng)
    assert sections(written(tmp_path / "all", everything)) == SECTIONS
    least = page.PageData(
        title="least",
        images=everything.images,
        clusters=everything.clusters,
        confidence=everything.confidence,
        num_clusters=3,
    )
    found = written(tmp_path / "least", least)
    assert sections(found) == {"overview", "galleries", "confidence"}
    assert "Commonest class" not in found.text
    assert found.data["arrays"].keys() == {"row", "cluster", "confidence"}
    assert found.data["names"] is None
    assert "Most confident" in found.text
    assert "Borderline</figcaption>" not in found.html


def test_outliers_are_shown_the_farthest_first(tmp_path, rng):
    data = made(rng, count=600, outliers=np.arange(500, 400, -1))
    found = written(tmp_path, data)
    assert sections(found) == SECTIONS | {"outliers"}
    part = found.html.split('id="outliers"')[1].split("</section>")[0]
    assert "100, the farthest first" in part
    assert re.findall(r"<bdi>some/(\d+)\.png</bdi>", part) == [str(n) for n in range(500, 476, -1)]


def test_the_confusion_matrix_is_that_of_the_classes(tmp_path, rng):
    labels = np.array([0] * 20 + [1] * 20)
    clusters = np.where(np.arange(40) < 15, 2, 0)
    data = made(rng, count=40, clusters=clusters, num_clusters=3, labels=labels,
                class_names=["ant", "bee", "cat"])  # fmt: skip
    hints = [a["title"] for a in written(tmp_path, data).all("span") if "title" in a]
    assert hints == ["ant as ant: 15", "ant as bee: 5", "bee as bee: 20"]


def test_more_images_than_a_page_holds(tmp_path, rng, monkeypatch):
    monkeypatch.setattr(page, "MOST_IMAGES", 50)
    data = made(rng, count=300, num_clusters=2)
    found = written(tmp_path, data)
    rows = found.array("row")
    shown = {data.names.index(a["alt"]) for a in found.all("img") if a["alt"]}
    assert shown <= set(rows.tolist())
    assert 50 <= len(rows) <= 50 + 2 * 48 + 5
    assert f"{len(rows)} of 300 images" in found.text
    places = [int(a["data-i"]) for a in found.all("button") if "data-i" in a]
    names = [a["alt"] for a in found.all("img")]
    for place, name in zip(places, names, strict=True):
        assert name in ("", found.data["names"][place])


@pytest.mark.parametrize("clusters", [1, 2, 100])
def test_any_number_of_clusters(tmp_path, rng, clusters):
    data = made(rng, count=40, num_clusters=clusters)
    assert len(written(tmp_path, data).all("article")) == clusters


def test_many_clusters_have_fewer_images_each(tmp_path, rng):
    data = made(rng, count=2000, num_clusters=200)
    found = written(tmp_path, data)
    assert len(found.all("img")) <= 4800 + 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": np.zeros((60, 8, 9, 3), np.uint8)}, "images: expected uint8"),
        ({"images": np.zeros((60, 8, 8, 3), np.float32)}, "images: expected uint8, got float32"),
        ({"images": np.zeros((0, 8, 8, 3), np.uint8)}, "N >= 1"),
        ({"clusters": np.full(60, 3)}, r"clusters: expected values in 0..2, got 3..3"),
        ({"clusters": np.zeros(59, int)}, r"clusters: expected \[60\], got \[59\]"),
        ({"labels": np.full(60, 4)}, r"labels: expected values in 0..3"),
        ({"confidence": np.full(60, np.nan)}, "confidence: expected finite"),
        ({"coordinates": np.zeros((60, 3))}, r"coordinates: expected \[60, 2\], got \[60, 3\]"),
        ({"probs": np.zeros((60, 2))}, r"probs: expected \[60, 3\]"),
        ({"names": ["a"]}, "names: expected 60 of them, got 1"),
        ({"cluster_names": ["a"]}, "cluster_names: expected 3 of them, got 1"),
        ({"features": np.zeros((4, 2))}, "features: expected 60 of them, got 4"),
    ],
)
def test_parts_must_fit_together(rng, change, message):
    with pytest.raises(DataError, match=message):
        made(rng, **change)


@pytest.mark.slow
def test_fifty_thousand_images_take_less_than_30_mb(tmp_path, rng):
    # Smooth like photos: noise does not compress.
    small = rng.integers(0, 256, (50_000, 5, 5, 3), np.uint8)
    images = np.stack([thumbnails.Image.fromarray(i).resize((32, 32)) for i in small])
    page.write(tmp_path / "page.html", made(rng, count=50_000, num_clusters=10, images=images))
    assert (tmp_path / "page.html").stat().st_size < 30e6
