"""The documentation as a site: it is whole, and it loads nothing from a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.parse
from html.parser import HTMLParser
from pathlib import Path

import browser
import docs_site
import pytest

ROOT = Path(__file__).parents[1]
# Elements that load what they name; links to other pages do not.
LOADS = {"script": "src", "img": "src", "iframe": "src", "source": "src", "link": "href"}


def test_a_section_ends_at_the_next_heading_of_its_level():
    text = (
        "# A\n\none\n\n## B\n\ntwo\n\n```sh\n# no heading\n```\n\n### C\n\nthree\n\n## D\n\nfour\n"
    )
    assert docs_site.section(text, "B", "x.md") == (
        "two\n\n```sh\n# no heading\n```\n\n### C\n\nthree\n"
    )
    with pytest.raises(ValueError, match="^x.md: has no heading 'E'.$"):
        docs_site.section(text, "E", "x.md")


def test_links_of_an_included_file_lead_to_the_same_places():
    text = docs_site.included("<!-- include README.md: Results -->")
    assert "(results.md)" in text
    assert "(../results/2026-11-22-digits-simclr)" in text
    assert "results/2026-11-22-digits-simclr" in set(docs_site.elsewhere(text))


def test_formulas_become_mathml_and_code_stays():
    pytest.importorskip("latex2mathml", reason="needs the extra docs")
    text = "$$\n\\frac{a}{b}\n$$\n\nwith $`a`$ and `$x$`\n\n```sh\necho $$\n```\n"
    formulas: list[str] = []
    found = docs_site.outside_fences(lambda part: docs_site.take_formulas(part, formulas), text)
    assert found == "@formula0@\n\nwith @formula1@ and `$x$`\n\n```sh\necho $$\n```\n"
    html = docs_site.put_formulas(f"<p>{found}</p>", formulas)
    assert html.count("<math") == 2
    assert "<mfrac>" in html


def test_the_api_has_every_public_name_once():
    places = re.findall(r"^::: (\S+)$", "\n".join(docs_site.api_pages().values()), re.MULTILINE)
    assert len(places) == len(set(places))
    wanted = {place for names in docs_site.faces().values() for place in names.values()}
    assert set(places) == wanted


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    pytest.importorskip("material", reason="needs the extra docs (Python 3.11 or newer)")
    pytest.importorskip("mkdocstrings", reason="needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


class Page(HTMLParser):
    """What a page loads, where it leads, and the places in it."""

    def __init__(self, path: Path):
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if name := found.get("id") or (found.get("name") if tag == "a" else None):
            self.places.add(name)
        if found.get(LOADS.get(tag, "")) and found.get("rel") not in ("canonical", "next", "prev"):
            self.loads.append(found[LOADS[tag]])
        if tag == "a" and found.get("href"):
            self.links.append(found["href"])
        self.loads += re.findall(r"url\(['\"]?(http[^)'\"]+)", found.get("style") or "")


@pytest.mark.slow
def test_the_site_loads_nothing_from_a_network_and_no_link_is_broken(site):
    pages = {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}
    assert len(pages) > 30
    for path, page in pages.items():
        for target in page.loads:
            assert not re.match(r"(?:https?:)?//", target), f"{path}: loads {target}"
        for target in [*page.loads, *page.links]:
            if re.match(r"[a-z]+:|//", target):
                continue
            name, _, place = urllib.parse.unquote(target.partition("?")[0]).partition("#")
            other = (path.parent / name).resolve() if name else path
            assert other.exists(), f"{path.relative_to(site)}: {target}"
            if place and other in pages:
                assert place in pages[other].places, f"{path.relative_to(site)}: {target}"
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"@import|url\(['\"]?https?:", text), style


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_every_page_opens_from_the_disk_at_this_width(site, width):
    with browser.started() as window:
        for path in sorted(site.glob("*.html")):
            window.open(path, width=width, height=900)
            assert window.run("return document.documentElement.scrollWidth") <= width, path.name
            broken = "return [...document.images].filter(i => i.complete && !i.naturalWidth).length"
            assert window.run(broken) == 0, path.name
            errors = [line for line in window.log() if "SEVERE" in line or "Error" in line]
            assert not errors, (path.name, errors)


@pytest.mark.slow
def test_the_search_works_from_the_disk(site):
    with browser.started() as window:
        window.open(site / "index.html", width=1280, height=900)
        found = window.run(
            """
            const field = document.querySelector("input.md-search__input");
            field.focus();
            field.value = "neighbours";
            field.dispatchEvent(new Event("input", { bubbles: true }));
            field.dispatchEvent(new KeyboardEvent("keyup", { bubbles: true }));
            return new Promise((done) => {
              const look = () => {
                const items = document.querySelectorAll(".md-search-result__item");
                items.length ? done(items.length) : requestAnimationFrame(look);
              };
              look();
            });
            """
        )
        assert found > 3
