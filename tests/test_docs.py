"""The documentation: what it says can be done is done here, or says why not.

The line above a block of code says how it is tested:

    <!-- tested: fast -->               it runs in `make test`
    <!-- tested: slow -->               it runs in `make test-slow`, after those above it
    <!-- tested: tests/test_x.py -->    that file runs it
    <!-- not tested: why -->            it does not run

A block of `text` is output, and the line above it says where it stands in full:
`<!-- shown: docs/first-run.md -->`. A number that was measured stands under
`<!-- numbers: SOURCE ... -->`, which names files or folders of `results/` that hold it; `none` says
that the numbers of a paragraph are settings and examples, not measured ones.
"""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import docs_site
import pytest
import yaml

from scan_tf import config
from scan_tf.cli import arguments, program

ROOT = Path(__file__).parents[1]
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
# Pages of what was measured, dated and beside its commands, and pages that a program writes.
DATED = {
    *("README", "CONTRIBUTING", "architecture", "changelog", "experiments"),
    *("fidelity", "first-run", "how-many-clusters", "limited-time", "performance", "reliability"),
    *("results", "scaling", "settings"),
}
FENCE = re.compile(
    r"^(?:<!-- ((?:tested|not tested|shown): [^\n]+) -->\n)?```(\w*)\n(.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
PROGRAMS = re.compile(
    r"^\$? ?(?:scan-tf|python3?|pip|make|git|source|export|for|bash) ", re.MULTILINE
)
RESULTS = ROOT / "results"


def blocks(page: Path) -> list[tuple[str, str, str]]:
    """What is said above each block, its language and its text."""
    return FENCE.findall(page.read_text(encoding="utf-8"))


def is_code(language: str, text: str) -> bool:
    """Whether a block can be run: by its language, or for what it begins with where it has none."""
    return language in ("sh", "python") or (not language and bool(PROGRAMS.search(text)))


def name_of(page: Path) -> str:
    return page.stem


def prose(page: Path) -> list[tuple[str, str]]:
    """Paragraphs without code, links and formulas, each with the sources of its numbers."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    text = re.sub(r"\$\$\n.*?\n\$\$|\$`[^`]*`\$|`[^`]*`|\]\([^)]*\)", "", text, flags=re.DOTALL)
    found = []
    for paragraph in re.split(r"\n\s*\n", text):
        sources = re.search(r"<!-- numbers: (.+?) -->", paragraph)
        found.append((re.sub(r"<!--.*?-->", "", paragraph), sources[1] if sources else ""))
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_of_code_says_how_it_is_tested(page):
    for said, language, text in blocks(page):
        first = text.splitlines()[0] if text.strip() else ""
        if is_code(language, text):
            assert said.startswith(("tested: ", "not tested: ")), f"above '{first}'"
            _, _, how = said.partition(": ")
            assert len(how) >= 4
            assert all((ROOT / file).exists() for file in re.findall(r"\w+/[\w-]+\.\w+", how)), how
            if said.startswith("tested") and not how.startswith("tests/"):
                assert how in ("fast", "slow")
        if language == "text" and re.search(r"\d\.\d", text) and name_of(page) not in DATED:
            assert said.startswith("shown: "), f"above '{first}': say where it stands in full"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_output_stands_where_it_is_said_to_stand(page):
    for said, _, text in blocks(page):
        if said.startswith("shown: "):
            whole = (ROOT / said.removeprefix("shown: ")).read_text(encoding="utf-8").splitlines()
            assert set(text.splitlines()) <= set(whole)


def commands(text: str) -> list[list[str]]:
    """The arguments of each `scan-tf` in a block."""
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    if typed := [line for line in lines if line.startswith("$ ")]:
        lines = typed  # the others are output
    elif lines[:1] == ["^C"]:
        lines = []
    found = []
    for line in lines:
        for part in re.split(r"[;&|]+(?=\s)", line.removeprefix("$ ")):
            words = shlex.split(part, comments=True) if "scan-tf" in part else []
            if words and "scan-tf" in words[0]:
                found.append(words[1:])
            elif "scan-tf" in words:
                found.append(words[words.index("scan-tf") + 1 :])
    return found


def known_settings() -> set[str]:
    text = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    return set(re.findall(r"^\| `([\w.]+)` \|", text, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_is_one_that_the_program_knows(page, capsys):
    names = known_settings()
    parser = program._parser()
    for _, language, text in blocks(page):
        for words in commands(text) if is_code(language, text) else []:
            if words in (["--help"], []):
                continue
            try:
                parsed = arguments.parse(parser, words)
            except SystemExit:
                pytest.fail(f"scan-tf {shlex.join(words)}\n{capsys.readouterr().err}")
            settings = [word for word in words[1:] if re.match(r"[a-z_]+(\.[a-z_]+)+=|seed=", word)]
            assert {word.partition("=")[0] for word in settings} <= names, shlex.join(words)
            recipe = ROOT / "configs" / f"{Path(str(getattr(parsed, 'config', ''))).stem}.yaml"
            if settings and recipe.exists() and words[0] != "sweep":
                config.load(recipe, settings)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_recipe_on_a_page_is_a_valid_one(page):
    for _, language, text in blocks(page):
        if language == "yaml":
            assert config.from_dict(yaml.safe_load(text)).name


def test_every_recipe_stands_in_the_table_of_recipes():
    table = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    for path in (ROOT / "configs").glob("*.yaml"):
        assert f"`{path.stem}`" in table, path.name


def values(source: str) -> set[str]:
    """Numbers of a file as they are written; of a result as they are and in percent, rounded."""
    path = ROOT / source
    if path.is_file():
        return set(re.findall(r"\d+(?:\.\d+)?", path.read_text(encoding="utf-8")))
    assert path.parent == RESULTS, f"{source}: no such file, and no folder of results/"
    found: set[str] = set()

    def add(value: object) -> None:
        if isinstance(value, dict):
            for inner in value.values():
                add(inner)
        elif isinstance(value, list):
            for inner in value:
                add(inner)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            for number in (value, 100 * value, value / 60):
                found.update(f"{number:.{digits}f}" for digits in range(4))

    for name in ("report.json", "scores.json"):
        if (path / name).exists():
            add(json.loads((path / name).read_text(encoding="utf-8")))
    return found


@pytest.mark.parametrize("page", [p for p in PAGES if p.stem not in DATED], ids=name_of)
def test_every_measured_number_stands_in_its_source(page):
    for text, sources in prose(page):
        numbers = re.findall(
            r"(?<![\w-])\d+\.\d+|\d+(?= %)|\d+(?= ±)", re.sub(r"^\|.*", "", text, flags=re.M)
        )
        if sources == "none":
            continue
        assert sources or not numbers, f"{numbers} without a source: {text.strip()[:90]}"
        known = set().union(*map(values, sources.split()))
        assert set(numbers) <= known, text.strip()[:90]


def anchors(page: Path) -> set[str]:
    """The places in a page that a link can lead to, as Python-Markdown names them."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", head).strip().lower() for head in heads)
    return {re.sub(r"[-\s]+", "-", head) for head in plain}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target, anchor in re.findall(r"\]\(([^)\s#]*)(?:#([^)\s]+))?\)", text):
        if "://" in target or target.startswith("api/"):  # pages of the API are made by the site
            continue
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        if anchor:
            assert anchor in anchors(path), f"{target}#{anchor}"
    for command in re.findall(r"<!-- include (.+?) -->", text):
        file, _, heading = command.partition(": ")
        whole = (ROOT / file).read_text(encoding="utf-8")
        assert not heading or re.search(rf"^#+ {re.escape(heading)}$", whole, re.MULTILINE), command


def test_every_page_and_every_picture_is_used():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert f"- {page.name}\n" in navigation, page.name
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    for picture in (ROOT / "docs").rglob("*.png"):
        assert picture.name in text, picture.name


def run_block(language: str, text: str, folder: Path) -> str:
    """Run a block as a reader would; what it printed."""
    bin_folder = str(Path(sys.executable).parent)
    environment = os.environ | {
        "PATH": bin_folder + os.pathsep + os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    if language == "python":
        command = [sys.executable, "-c", text]
    else:
        program = shlex.join([sys.executable, "-m", "scan_tf.cli"])
        command = ["bash", "-euc", f'scan-tf() {{ {program} "$@"; }}\n{text}']
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    return done.stdout


FAST = [(page, language, text) for page in PAGES for said, language, text in blocks(page)
        if said == "tested: fast"]  # fmt: skip
SLOW = [page for page in PAGES if any(said == "tested: slow" for said, _, _ in blocks(page))]


@pytest.mark.parametrize(
    ("language", "text"), [pytest.param(*rest, id=f"{page.stem}-{i}")
                           for i, (page, *rest) in enumerate(FAST)])  # fmt: skip
def test_what_is_quick_runs(language, text, tmp_path, capsys):
    if language == "python":  # in this process, which has TensorFlow already
        exec(compile(text, "block", "exec"), {"__name__": "__main__"})
        assert capsys.readouterr().out.strip()
    else:
        assert run_block(language, text, tmp_path).strip()


@pytest.mark.slow
@pytest.mark.parametrize("page", SLOW, ids=name_of)
def test_a_page_runs_from_top_to_bottom(page, tmp_path):
    for said, language, text in blocks(page):
        if said == "tested: slow":
            run_block(language, text, tmp_path)


def test_the_data_set_of_the_documentation_works(tmp_path, monkeypatch):
    from scan_tf.config import DataConfig
    from scan_tf.data import sets, sources

    page = ROOT / "docs" / "extending.md"
    (text,) = [text for _, _, text in blocks(page) if text.startswith("# scan_tf/data/sets/")]
    (tmp_path / "stripes.py").write_text(text, encoding="utf-8")
    monkeypatch.setattr(sets, "__path__", [*sets.__path__, str(tmp_path)])
    found = sources.load(DataConfig(name="stripes"), "train")
    assert found.images.shape == (200, 16, 16, 3)
    assert found.class_names == ("horizontal", "vertical")
    assert sources.load(DataConfig(name="stripes"), "test") is None
    assert found.class_names[found.labels[0]] == "vertical"
    down, along = (found.images[0].std(axis=axis).mean() for axis in (0, 1))
    assert along > 2 * down, "vertical stripes differ along a row"
    monkeypatch.delitem(sys.modules, "scan_tf.data.sets.stripes")


def public_functions() -> list[tuple[str, ast.FunctionDef]]:
    """The functions of the public faces, read from the code."""
    found = []
    for names in docs_site.faces().values():
        for place in sorted(set(names.values())):
            module, _, name = place.rpartition(".")
            tree = ast.parse((ROOT / f"{module.replace('.', '/')}.py").read_text(encoding="utf-8"))
            nodes = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name]
            found += [(place, node) for node in nodes]
    return found


def test_public_functions_say_what_they_take():
    functions = public_functions()
    assert len(functions) > 30
    for place, node in functions:
        taken = node.args.posonlyargs + node.args.args + node.args.kwonlyargs
        if taken:
            assert "Args:" in (ast.get_docstring(node) or ""), place
