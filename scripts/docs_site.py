"""What mkdocs does beside Markdown when it writes the site (`mkdocs.yml` names this file).

- `<!-- include FILE -->` or `<!-- include FILE: Heading -->` stands for a file of the repository,
  or for the section under one of its headings, so that nothing is written twice.
- `$$` on lines of their own, and $`...`$ in a line, are formulas; they become MathML.
- A link to a file or folder of the repository outside of docs/ leads to a page with its text.
- The pages of the API are made of the public faces of the packages.
"""

from __future__ import annotations

import ast
import json
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
_FENCE = re.compile(r"^(```+)[^\n]*\n.*?^\1[ ]*$", re.MULTILINE | re.DOTALL)
_INCLUDE = re.compile(r"^<!-- include ([\w./-]+)(?:: ([^\n]+?))? -->$", re.MULTILINE)
_LINK = re.compile(r"(\]\()([^)\s#]+)(#[^)\s]*)?(\))")
_HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
# What a page with a file's text is coloured as.
_LANGUAGES = {
    ".py": "python",
    ".yaml": "yaml",
    ".json": "json",
    ".jsonl": "json",
    ".md": "markdown",
}
# More of a file is not shown.
_MOST_CHARACTERS = 40_000


def outside_fences(change: Callable[[str], str], text: str) -> str:
    """Apply a change to what is not in a fenced block."""
    parts, end = [], 0
    for fence in _FENCE.finditer(text):
        parts += [change(text[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*parts, change(text[end:])])


def section(text: str, heading: str, where: str) -> str:
    """What stands under a heading, without it and up to the next of its level.

    Raises:
        ValueError: there is no such heading.
    """
    blank = _FENCE.sub(lambda fence: " " * len(fence[0]), text)
    for found in _HEADING.finditer(blank):
        if found[2] == heading:
            level = len(found[1])
            later = (h for h in _HEADING.finditer(blank, found.end()) if len(h[1]) <= level)
            end = next(later, None)
            return text[found.end() : end.start() if end else len(text)].strip() + "\n"
    raise ValueError(f"{where}: has no heading '{heading}'.")


def included(text: str) -> str:
    """The text with other files in the place of its includes, their links as from docs/."""

    def replace(found: re.Match[str]) -> str:
        path = ROOT / found[1]
        other = path.read_text(encoding="utf-8")
        part = section(other, found[2], found[1]) if found[2] else other

        def moved(link: re.Match[str]) -> str:
            if "://" in link[2]:
                return link[0]
            target = posixpath.normpath(posixpath.join(posixpath.dirname(found[1]), link[2]))
            return f"{link[1]}{posixpath.relpath(target, 'docs')}{link[3] or ''}{link[4]}"

        return outside_fences(lambda plain: _LINK.sub(moved, plain), part)

    return _INCLUDE.sub(replace, text)


def elsewhere(text: str) -> Iterator[str]:
    """Paths of files and folders of the repository, outside of docs/, that a page links to."""
    for link in _LINK.finditer(_FENCE.sub("", text)):
        if "://" not in link[2]:
            target = posixpath.normpath(posixpath.join("docs", link[2]))
            if not target.startswith("docs/") and (ROOT / target).exists():
                yield target


def file_page(target: str) -> str:
    """A page with the text of a file, or with the list of a folder."""
    path = ROOT / target
    if path.is_dir():
        names = sorted(p.name for p in path.iterdir() if not p.name.startswith((".", "__")))
        shown = [name for name in names if (path / name).is_file()]
        links = [f"- [{name}]({path.name}/{name}.md)" for name in shown]
        return f"# {target}\n\n" + "\n".join(links) + "\n"
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        return notebook_page(json.loads(text))
    cut = f"\n... ({len(text):,} characters)" if len(text) > _MOST_CHARACTERS else ""
    language = _LANGUAGES.get(path.suffix, "text")
    return f"# {target}\n\n````{language}\n{text[:_MOST_CHARACTERS]}{cut}\n````\n"


def notebook_page(book: dict[str, Any]) -> str:
    """A notebook of notebooks/ with its outputs, as Markdown for files/notebooks/."""

    def lead(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("notebooks", link[2]))
        inside = target.startswith("docs/")
        return f"{link[1]}../../{target[5:]}{link[3] or ''}{link[4]}" if inside else link[0]

    parts = []
    for cell in book["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(_LINK.sub(lead, source))
            continue
        parts.append(f"```python\n{source}\n```")
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data:
                pixels = "".join(data["image/png"]).replace("\n", "")
                parts.append(
                    f'<img alt="what the cell draws" src="data:image/png;base64,{pixels}">'
                )
            elif said := "".join(output.get("text", data.get("text/plain", ()))).rstrip():
                parts.append(f"```text\n{said}\n```")
    return "\n\n".join(parts) + "\n"


def faces() -> dict[str, dict[str, str]]:
    """Package -> public name -> where it is defined, read from the code without importing it."""
    found = {}
    for path in (ROOT / "scan_tf" / "__init__.py", *sorted(ROOT.glob("scan_tf/*/__init__.py"))):
        package = ".".join(path.relative_to(ROOT).parent.parts)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Dict) and node.keys:
                names = ast.literal_eval(node)
                places = {n: at if ":" in at else f"{at}:{n}" for n, at in names.items()}
                found[package] = {
                    name: f"{package}.{at.replace(':', '.')}" for name, at in places.items()
                }
    return found


def api_pages() -> dict[str, str]:
    """Page -> Markdown: one for each package, by its public names."""
    pages, rows = {}, []
    first_on: dict[str, str] = {}  # what several packages hand on is described once
    for package, names in faces().items():
        page = package.replace(".", "-")
        doc = ast.get_docstring(
            ast.parse((ROOT / package.replace(".", "/") / "__init__.py").read_text())
        )
        first = (doc or "").splitlines()[0]
        ordered = sorted(names, key=str.lower)
        new = {names[name]: page for name in ordered if names[name] not in first_on}
        called = {names[name]: name for name in ordered}
        blocks = "\n\n".join(_entry(called[place], place) for place in new)
        if known := [name for name in ordered if names[name] in first_on]:
            links = (f"[`{n}`]({first_on[names[n]]}.md#{names[n]})" for n in known)
            blocks = f"Described elsewhere: {', '.join(links)}.\n\n{blocks}"
        first_on |= new
        pages[f"api/{page}.md"] = f"# {package}\n\n{first}\n\n{blocks}\n"
        shown = ", ".join(f"`{name}`" for name in ordered)
        rows.append(f"| [{package}]({page}.md) | {first} | {shown} |")
    head = (
        "# API\n\nThe public names of every package, with arguments, shapes, errors and sources, "
        "from the docstrings. Shape letters: B batch, N images of a set, K neighbours, C clusters, "
        "H heads, S side of an image, D features of the backbone, P of the projection.\n\n"
        "| package | what it is | names |\n|---|---|---|\n"
    )
    return {"api/index.md": head + "\n".join(rows) + "\n", **pages}


def _entry(name: str, place: str) -> str:
    """What mkdocstrings makes the description of a name of; some are defined under another one."""
    if place.endswith(f".{name}"):
        return f"::: {place}"
    return f"::: {place}\n    options:\n      heading: {name}\n      toc_label: {name}"


def take_formulas(text: str, into: list[str]) -> str:
    """The text with a mark in the place of each formula, whose MathML is added to `into`.

    Markdown would take MathML in a line for a paragraph of its own: it comes in afterwards.
    """
    from latex2mathml.converter import convert

    def mark(mathml: str) -> str:
        into.append(mathml)
        return f"@formula{len(into) - 1}@"

    def block(found: re.Match[str]) -> str:
        return mark(convert(found[1].strip(), display="block"))

    text = re.sub(r"^\$\$\n(.*?)\n\$\$$", block, text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"\$`([^`\n]+)`\$", lambda found: mark(convert(found[1])), text)


def put_formulas(html: str, formulas: list[str]) -> str:
    """The page with its formulas in the places of their marks."""
    return re.sub(r"@formula(\d+)@", lambda found: formulas[int(found[1])], html)


def on_config(config: Any) -> Any:
    """Give the API its pages in the navigation."""
    pages = list(api_pages())
    config.nav[:] = [{"API": pages} if isinstance(entry, dict) and "API" in entry else entry
                     for entry in config.nav]  # fmt: skip
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of the API, and those of files that other pages link to."""
    from mkdocs.structure.files import File, InclusionLevel

    for page, text in api_pages().items():
        files.append(File.generated(config, page, content=text))
    targets = set()
    for path in sorted(DOCS.rglob("*.md")):
        targets |= set(elsewhere(included(path.read_text(encoding="utf-8"))))
    for target in [t for t in targets if (ROOT / t).is_dir()]:
        inside = (p for p in (ROOT / target).iterdir() if p.is_file() and p.name[0] != ".")
        targets |= {f"{target}/{p.name}" for p in inside}
    for target in sorted(targets):
        shown = File.generated(config, f"files/{target}.md", content=file_page(target))
        shown.inclusion = InclusionLevel.NOT_IN_NAV
        files.append(shown)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Includes, links and formulas of a page."""
    if page.file.src_uri.startswith(("api/", "files/")):
        return markdown
    markdown = included(markdown)
    known = set(elsewhere(markdown))

    def lead(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join("docs", link[2]))
        return f"{link[1]}files/{target}.md{link[4]}" if target in known else link[0]

    page.meta["formulas"] = []

    def change(plain: str) -> str:
        return take_formulas(_LINK.sub(lead, plain), page.meta["formulas"])

    return outside_fences(change, markdown)


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Put the formulas in."""
    return put_formulas(html, page.meta.get("formulas", []))
