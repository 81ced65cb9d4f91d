"""The explorer in a real browser; skipped where there is none (see browser.py)."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser import Browser, started
from explorer_run import made, served
from tiny_runs import scan_tf

DESK, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
SCREENS = pytest.mark.parametrize("screen", [DESK, PHONE], ids=["desktop", "phone"])
AXE = Path(__file__).parent / "data" / "axe" / "axe.min.js"
STORED = Path(__file__).parent / "data" / "run-format-1"
HOSTILE = "<b>&amp;\"'日本"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with started() as browser:
        yield browser


class Page:
    """The page of a session in a window."""

    def __init__(self, browser: Browser, address: str, screen: dict[str, int], dark: bool = False):
        self.browser = browser
        browser.visit("about:blank", **screen, dark=dark)
        browser.log()  # of the page before
        browser.visit(address, **screen, dark=dark)
        self.until("document.documentElement.dataset.ready === 'true'")

    def get(self, expression: str) -> Any:
        return self.browser.run(f"return {expression}")

    def until(self, expression: str) -> Any:
        """The value as soon as it is true."""
        for _ in range(400):
            if found := self.get(expression):
                return found
            time.sleep(0.05)
        raise AssertionError(f"in twenty seconds there was no {expression}")

    def saved(self, act: Callable[[], object]) -> dict[str, Any]:
        """Do something that is saved; the next state."""
        before = self.get("explorer.state.seq")
        act()
        self.until(f"explorer.state.seq > {before}")
        return self.get("explorer.state")

    def click(self, selector: str) -> None:
        """Click what may have to be scrolled to first."""
        scroll = "scrollIntoView({block: 'nearest', inline: 'center'})"
        self.browser.run(f"document.querySelector(arguments[0]).{scroll}", selector)
        self.browser.click(selector)

    def press(self, *keys: str) -> None:
        self.browser.press(*keys)

    def answer(self, text: str) -> None:
        """Type into the dialog that is open, and send it."""
        self.until("document.querySelector('dialog[open] input')")
        self.browser.run("document.querySelector('dialog[open] input').value = ''")
        self.press(*text, "Enter")

    def group(self, row: int) -> int:
        return int(self.get(f"explorer.images.group[{row}]"))

    def look_at(self, group: int) -> None:
        """Show the list of a cluster."""
        self.click(f"#groups [data-id='{group}']")
        assert self.get("explorer.view") == group

    def complaints(self) -> list[str]:
        return self.browser.log()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return made(tmp_path_factory.mktemp("browser"), count=300, clusters=5)


@pytest.fixture
def fresh(run, tmp_path) -> Path:
    """A copy of its own of the run."""
    return Path(shutil.copytree(run, tmp_path / "run"))


@SCREENS
def test_name_merge_split_move_undo_and_reload(browser, fresh, screen):
    with served(fresh) as (session, client):
        page = Page(browser, client.keys.address, screen)
        assert page.get("location.href") == f"http://{client.host}/", "the token is gone"

        page.look_at(1)
        page.click("#name")
        state = page.saved(lambda: page.answer("bee"))
        assert state["groups"][1]["name"] == "bee"
        assert page.get("document.querySelector('#list-name').textContent") == "bee"

        page.look_at(4)
        members = page.get("explorer.grid.rows.length")
        page.click("#merge")
        state = page.saved(lambda: page.answer("bee"))
        assert [group["id"] for group in state["groups"]] == [0, 1, 2, 3]
        assert page.get("explorer.view") == 1
        assert page.get("explorer.grid.rows.length") > members

        state = page.saved(lambda: page.click("#split"))
        assert [group["id"] for group in state["groups"]] == [0, 1, 2, 3, 5]

        page.look_at(0)
        row = page.get("explorer.grid.cursor")
        page.click("#move")
        page.saved(lambda: page.answer("2"))
        assert page.group(row) == 2
        assert page.get(f"explorer.images.mark[{row}]") == 1
        page.saved(lambda: page.click("#undo"))
        assert page.group(row) == 0
        page.saved(lambda: page.click("#redo"))
        assert page.group(row) == 2

        page.click("#none")
        page.until("explorer.images.mark.filter((m) => m === 3).length === 1")
        page.click("#make")
        state = page.saved(lambda: page.answer(HOSTILE))
        assert state["groups"][-1]["name"] == HOSTILE
        seen = page.get("[...document.querySelectorAll('#groups .label')].at(-1).textContent")
        assert seen == HOSTILE

        groups = page.get("[...explorer.images.group]")
        browser.run("location.reload()")
        page.until("window.explorer?.state && document.documentElement.dataset.ready")
        assert page.get("[...explorer.images.group]") == groups
        assert page.get("document.documentElement.scrollWidth") == screen["width"]
        assert page.complaints() == []
        assert session.journal.seq == page.get("explorer.state.seq")


@SCREENS
@pytest.mark.parametrize("dark", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_axe_finds_nothing(browser, fresh, screen, dark):
    with served(fresh) as (_, client):
        page = Page(browser, client.keys.address, screen, dark)
        browser.run(AXE.read_text(encoding="utf-8") + "; window.axe = axe;")
        check = (
            "return axe.run({resultTypes: ['violations']}).then((r) => r.violations.map((v) => "
            "[v.id, v.help, v.nodes.slice(0, 3).map((n) => n.html.slice(0, 200))]))"
        )
        assert browser.run(check) == []
        page.press("m")
        page.until("document.querySelector('dialog[open]')")
        assert browser.run(check) == []
        page.press("Escape", "?")
        page.until("document.querySelector('dialog[open] .keys')")
        assert browser.run(check) == []
        page.press("Escape", "Enter")
        page.until("document.querySelector('dialog[open] .look')")
        assert browser.run(check) == []
        page.press("Escape")
        client.act(do="move", rows=[0, 1], to=1)
        browser.run("location.reload()")
        page.until("window.explorer?.state?.pending && document.documentElement.dataset.ready")
        page.press("a")
        page.until("document.querySelector('dialog[open] tbody')")
        browser.run(AXE.read_text(encoding="utf-8") + "; window.axe = axe;")
        assert browser.run(check) == []
        page.press("Escape")


def test_everything_by_keyboard(browser, fresh):
    with served(fresh) as (_, client):
        page = Page(browser, client.keys.address, DESK)
        page.press("]", "n")
        page.saved(lambda: page.answer("ant"))
        first = page.get("[...explorer.grid.rows.slice(0, 3)]")
        page.press(" ", "Right", " ")
        assert page.get("[...explorer.grid.selected]") == first[:2]
        page.saved(lambda: page.press("u"))
        assert page.get(f"explorer.images.mark[{first[1]}]") == 2
        page.press("m")
        page.saved(lambda: page.answer("3"))
        assert [page.group(row) for row in first] == [3, 3, 0]
        page.saved(lambda: page.press("z"))
        page.saved(lambda: page.press("z"))
        assert page.get("explorer.state.redo") == "2 images marked as not sure"
        page.saved(lambda: page.press("y"))
        page.press("Escape")
        assert page.get("explorer.grid.selected.size") == 0
        page.press("l")
        page.until("explorer.view === 'found'")
        assert page.get("explorer.grid.rows[0]") == page.get("explorer.grid.cursor")
        page.press("]", "]")
        page.press("g")
        page.saved(lambda: page.answer("ant"))
        page.saved(lambda: page.press("s"))
        page.press("Enter")
        page.until("document.querySelector('dialog[open] .look')")
        title = page.get("document.querySelector('dialog h2').textContent")
        page.press("Right")
        shown = "document.querySelector('dialog[open] h2')?.textContent"
        page.until(f"![undefined, '{title}'].includes({shown})")
        page.press("Escape")
        page.until("!document.querySelector('dialog')")
        assert page.get("document.activeElement.id") == "grid"
        page.press("o")
        assert page.get("document.querySelector('#order').value") == "unsure"
        assert page.complaints() == []


def test_a_lasso_selects_what_is_inside(browser, run):
    with served(run) as (_, client):
        page = Page(browser, client.keys.address, DESK)
        page.click("#lasso")
        left, top, width, height = page.get(
            "(({left, top, width, height}) => [left, top, width, height])"
            "(document.querySelector('#canvas').getBoundingClientRect())"
        )
        half = [(1, 1), (width / 2, 1), (width / 2, height - 2), (1, height - 2)]
        browser.drag(*((left + x, top + y) for x, y in half))
        chosen = set(page.until("explorer.grid.selected.size && [...explorer.grid.selected]"))
        points = np.array(page.get("[...explorer.points]")).reshape(-1, 2)
        # A point on the line may be taken for either side.
        inside = {int(i) for i in np.flatnonzero(points[:, 0] < 0.499)}
        maybe = {int(i) for i in np.flatnonzero(points[:, 0] < 0.501)}
        assert inside <= chosen <= maybe
        assert page.get("explorer.view") == "found"
        assert page.get("document.querySelector('#chosen').textContent").startswith(
            f"{len(chosen)}"
        )


def test_the_map_by_keyboard(browser, run):
    with served(run) as (_, client):
        page = Page(browser, client.keys.address, DESK)
        browser.run("document.querySelector('#canvas').focus()")
        page.press("Right", " ")
        assert page.get("explorer.grid.selected.size") == 1
        page.press(*"gggggggg")
        assert page.until("explorer.grid.selected.size > 1")


def test_a_second_window_takes_over_what_the_first_has_done(browser, fresh):
    with served(fresh) as (_, client):
        page = Page(browser, client.keys.address, DESK)
        client.act(do="move", rows=[7], to=3)
        row = page.get("explorer.grid.cursor")
        page.press("u")
        page.until("document.querySelector('#says').textContent.includes('another window')")
        assert page.group(7) == 3
        assert page.get(f"explorer.images.mark[{row}]") == 0
        page.saved(lambda: page.press("u"))


def test_the_tiles_in_sight_are_all_that_there_are(browser, run):
    with served(run) as (_, client):
        page = Page(browser, client.keys.address, PHONE)
        assert 10 < page.get("document.querySelectorAll('.tile').length") < 80
        page.until("document.body.classList.contains('pixels')")
        page.press("End")
        last = page.get("explorer.grid.rows.at(-1)")
        assert page.get("explorer.grid.cursor") == last
        page.until(f"document.querySelector('#tile-{last} img').naturalWidth === 24")


def test_an_explorer_that_has_ended_says_so(browser, run):
    with served(run) as (_, client):
        page = Page(browser, client.keys.address, DESK)
    page.press("u")
    told = page.until("document.querySelector('.stop')?.textContent")
    assert "scan-tf explore RUN" in told


@pytest.mark.parametrize(
    "screen", [DESK, pytest.param(PHONE, marks=pytest.mark.slow)], ids=["desktop", "phone"]
)
def test_what_apply_would_change_is_shown_and_can_be_left(browser, fresh, screen):
    with served(fresh) as (_, client):
        page = Page(browser, client.keys.address, screen)
        page.look_at(1)
        page.browser.run("document.querySelector('#grid').focus()")
        page.press(" ", "Right", " ", "Right", " ")
        page.click("#move")
        page.saved(lambda: page.answer("2"))
        page.click("#apply")
        page.until("document.querySelector('dialog[open] tbody')")
        assert page.get("document.querySelectorAll('dialog tbody tr').length") == 5
        wide = page.get("document.querySelector('dialog').getBoundingClientRect().width")
        assert wide <= screen["width"]
        page.press("Escape")
        assert page.get("explorer.state.accepted") is False
        assert not (fresh / "corrected").exists()
        assert page.complaints() == []


@pytest.mark.slow
@SCREENS
def test_apply_accept_and_export(browser, tmp_path, monkeypatch, screen):
    shutil.copytree(STORED, tmp_path / "stored")
    monkeypatch.chdir(tmp_path / "stored")
    run = Path("run")
    assert scan_tf("run", "--run-dir", run, "--redo", "evaluate") == 0
    with served(run) as (_, client):
        page = Page(browser, client.keys.address, screen)
        page.look_at(1)
        page.press("n")
        page.saved(lambda: page.answer("bee"))
        page.browser.run("document.querySelector('#grid').focus()")
        page.press("c")
        page.until("explorer.state.undo?.includes('1 image to')")
        page.click("#apply")
        page.until("document.querySelector('#accept')")
        page.click("#accept")
        for _ in range(60):
            if page.get("explorer.state.accepted"):
                break
            time.sleep(2)
        assert page.get("explorer.state.pending") == 0
        assert page.complaints() == []
    assert scan_tf("export", "--run-dir", run, "--redo", "export") == 0
    assert "corrected by hand" in (run / "export" / "MODEL_CARD.md").read_text("utf-8")
    assert "bee" in (run / "export" / "model.json").read_text("utf-8")
