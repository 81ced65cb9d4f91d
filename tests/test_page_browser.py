"""The page in a real browser; skipped where there is none (see browser.py)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from browser import Browser, started
from pages import HOSTILE, made

from scan_tf.evaluation import page

DESK, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as browser:
        yield browser


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A page of 1,300 images, which take two sheets; some have odd names."""
    rng = np.random.default_rng(0)
    names = HOSTILE + [f"some/{i}.png" for i in range(1300 - len(HOSTILE))]
    data = made(rng, count=1300, title=HOSTILE[0], names=names, cluster_names=HOSTILE[:3])
    path = tmp_path_factory.mktemp("page") / "odd # name %20.html"
    page.write(path, data)
    return path


def until(condition: Callable[[], object]) -> object:
    """What the condition says as soon as it is true; the browser works in its own time."""
    for _ in range(200):
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("the page did not come to it in ten seconds")


@pytest.mark.parametrize("screen", [DESK, PHONE], ids=["desktop", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_opens_without_a_complaint(browser, path, screen, dark):
    browser.log()
    browser.open(path, **screen, dark=dark)
    assert browser.run("return document.documentElement.dataset.ready") == "true"
    assert browser.log() == []
    assert browser.run("return document.title") == HOSTILE[0]
    wide = "return document.documentElement.scrollWidth"
    assert browser.run(wide) == screen["width"], "nothing sticks out on the right"
    loaded = browser.run("return performance.getEntriesByType('resource').map((e) => e.name)")
    assert all(name.startswith("data:") for name in loaded)
    paper = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 200) == dark


def test_every_picture_of_the_galleries_can_be_decoded(browser, path):
    browser.open(path, **DESK)
    # Copies, because what is far from the window waits.
    sides = browser.run(
        "return Promise.all([...document.querySelectorAll('main img')].map((image) => {"
        "const i = new Image(); i.src = image.src; return i.decode().then(() => i.naturalWidth)}))"
    )
    assert len(sides) > 100
    assert set(sides) == {8}


def test_hovering_over_the_map_shows_the_image(browser, path):
    browser.open(path, **DESK)
    browser.run("document.querySelector('.map').scrollIntoView({block: 'center'})")
    # Near some of the 1,300 points a line through the middle comes by.
    box = browser.run(
        "const b = document.querySelector('.map canvas').getBoundingClientRect();"
        "return [b.left, b.top, b.width, b.height]"
    )
    places = ((box[0] + box[2] * k / 40, box[1] + box[3] / 2) for k in range(1, 40))

    def found() -> object:
        browser.hover(*next(places))
        return browser.run("return !document.querySelector('#hover').hidden")

    until(found)
    shown = browser.run("return document.querySelector('#hover').innerText")
    assert "confidence" in shown
    drawn = "const c = document.querySelector('#hover canvas');"
    drawn += "return Math.max(...c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"
    until(lambda: browser.run(drawn) == 255)
    browser.hover(5, 5)
    until(lambda: browser.run("return document.querySelector('#hover').hidden"))


def test_a_finger_taps_moves_and_scrolls(browser, path):
    browser.open(path, **PHONE)
    browser.run("document.querySelector('.map').scrollIntoView({block: 'center'})")
    box = browser.run(
        "const b = document.querySelector('.map canvas').getBoundingClientRect();"
        "return [b.left, b.top, b.width, b.height]"
    )
    middle = box[0] + box[2] / 2, box[1] + box[3] / 2
    says = "return document.querySelector('#map-says').textContent.trim()"
    offsets = iter([(0, 0)] + [(k * 25 - 100, k * 10 - 40) for k in range(9)])

    def tapped() -> object:
        x, y = next(offsets)
        browser.touch((middle[0] + x, middle[1] + y))
        return browser.run(says)

    until(tapped)
    assert not browser.run("return document.querySelector('#hover').hidden")
    assert browser.run("return document.querySelectorAll('dialog[open]').length") == 0
    before = browser.run("return scrollY")
    browser.touch(middle, (middle[0], middle[1] - 60), (middle[0], middle[1] - 160))
    until(lambda: browser.run("return scrollY") > before)


def test_an_image_is_shown_on_the_map(browser, path):
    browser.open(path, **DESK)
    browser.click("#c2 .strip button")
    until(lambda: browser.run("return document.querySelector('#one').open"))
    name = browser.run("return document.querySelector('#one-name').textContent").strip()
    browser.click("#one .actions button:last-child")
    says = "return document.querySelector('#map-says').textContent.trim()"
    assert until(lambda: browser.run(says)).startswith(name)
    assert browser.run("return document.activeElement.tagName") == "CANVAS"


def test_the_map_by_keyboard(browser, path):
    browser.open(path, **DESK)
    browser.run("document.querySelector('.map canvas').focus()")
    says = "return document.querySelector('#map-says').textContent.trim()"
    assert browser.run(says) == ""
    browser.press("Right")
    first = until(lambda: browser.run(says))
    browser.press("Up", "Left")
    until(lambda: browser.run(says) != first)
    browser.press("+", "+", "Enter")
    until(lambda: browser.run("return document.querySelector('#one').open"))
    name = browser.run("return document.querySelector('#one-name').textContent")
    assert browser.run(says).startswith(name.strip())
    browser.press("Escape")
    until(lambda: not browser.run("return document.querySelector('#one').open"))


def test_all_images_of_a_cluster_come_as_one_scrolls(browser, path):
    browser.open(path, **PHONE)
    size = browser.run("return Number(document.querySelector('#c1 .all').dataset.cluster)")
    assert size == 1
    browser.run("document.querySelector('#c1 .all').scrollIntoView({block: 'center'})")
    browser.click("#c1 .all")
    shown = "return document.querySelectorAll('#many [data-i]').length"
    assert until(lambda: browser.run(shown)) < 400
    (total,) = browser.run(
        "return document.querySelector('#many-name').textContent.match(/[0-9]+(?= images)/)"
    )

    def more() -> object:
        browser.run("const l = document.querySelector('.all-images'); l.scrollTop = l.scrollHeight")
        return browser.run(shown) == int(total)

    until(more)
    browser.click("#many [data-i]:last-of-type")
    until(lambda: browser.run("return document.querySelector('#one').open"))
    browser.click("#one form button")
    browser.click("#many form button")
    assert browser.run("return document.querySelectorAll('dialog[open]').length") == 0


def test_a_gallery_is_one_stop_and_arrows_move_in_it(browser, path):
    browser.open(path, **DESK)
    stops = "return [...document.querySelectorAll('.strip')].map("
    stops += "(s) => s.querySelectorAll('button:not([tabindex=\"-1\"])').length)"
    assert set(browser.run(stops)) == {1}
    browser.run("document.querySelector('.strip button').focus()")
    here = "const a = document.activeElement; return [...a.parentNode.children].indexOf(a)"
    for key, place in (("Right", 1), ("Down", 5), ("Left", 4), ("Up", 0)):
        browser.press(key)
        assert browser.run(here) == place
    assert set(browser.run(stops)) == {1}
    browser.press("Enter")
    until(lambda: browser.run("return document.querySelector('#one').open"))


def test_the_table_sorts_by_what_is_clicked(browser, path):
    browser.open(path, **DESK)
    sizes = "return [...document.querySelectorAll('#overview tbody tr')].map("
    sizes += "(r) => parseInt(r.cells[1].textContent))"
    before = browser.run(sizes)
    browser.click("#overview th:nth-child(2) button")
    assert browser.run(sizes) == sorted(before, reverse=True)
    browser.click("#overview th:nth-child(2) button")
    assert browser.run(sizes) == sorted(before)


def test_everything_that_can_be_used_has_a_name(browser, path):
    browser.open(path, **DESK)
    nameless = browser.run(
        "return [...document.querySelectorAll('button, a, select, canvas[tabindex]')].filter("
        "(e) => !(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length || "
        "e.querySelector('img')?.alt)).map((e) => e.outerHTML)"
    )
    assert nameless == []


def test_it_prints_on_white_with_the_galleries_in_it(browser, path, tmp_path):
    browser.open(path, **DESK, dark=True)
    browser.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
    browser.devtools("Emulation.setEmulatedMedia", media="print")
    paper = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert paper == "rgb(255, 255, 255)"
    assert browser.run("return getComputedStyle(document.querySelector('nav')).display") == "none"
