"""Holds the code to docs/architecture.md: who may import whom is read from its table."""

from __future__ import annotations

import ast
import importlib
import pathlib
import re
import subprocess
import sys

import architecture
import pytest
from architecture import MODULES, imported, imports_of, package_of

import scan_tf

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "scan_tf"
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 320
MAX_MODULES = 8
# Every package may import it.
FOOT = {"settings", "storage"}
# They may import everything.
ABOVE_ALL = {"scan_tf"}
# Packages that may know a run.
KNOW_RUNS = {"pipeline", "experiments", "explorer", "cli"}


def documented() -> dict[str, set[str]]:
    """Package -> packages that it may import, from the table in docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \|.*\| ([^|]+) \|$", text, re.MULTILINE)
    return {name: set(re.findall(r"`(\w+)`", allowed)) for name, allowed in rows}


TABLE = documented()


def test_the_table_is_read():
    assert TABLE["methods"] == {"models"}
    assert TABLE["data"] == set()
    assert {"data", "features", "training"} < TABLE["pipeline"]


def test_imports_are_read():
    source = "import scan_tf.training.loop\ndef f():\n    from ..data.images import fitter\n"
    assert imported(source, "scan_tf.augment") == {"scan_tf.training.loop", "scan_tf.data.images"}
    assert imported("from . import ops", "scan_tf.augment") == {"scan_tf.augment.ops"}
    assert imported("from scan_tf.data import load", "scan_tf.augment") == {"scan_tf.data"}


def test_code_and_documentation_name_the_same_packages():
    assert {package_of(module) for module in MODULES} - {None} == set(TABLE)
    assert all(allowed <= set(TABLE) for allowed in TABLE.values())


def test_few_modules_lie_beside_the_packages():
    assert sum(package_of(module) is None for module in MODULES) <= MAX_MODULES


@pytest.mark.parametrize("module", sorted(set(MODULES) - ABOVE_ALL))
def test_a_package_imports_what_the_table_allows(module):
    own = package_of(module)
    others = {package_of(other) for other in imports_of(module)} - {own, None} - FOOT
    allowed = TABLE[own] if own else set()
    assert others <= allowed, f"{own} may import {sorted(allowed) or 'nothing'}"


@pytest.mark.parametrize("module", [m for m in MODULES if package_of(m) not in KNOW_RUNS])
def test_a_run_stops_at_the_door_of_the_pipeline(module):
    if module in ABOVE_ALL:
        return
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.arg) and node.annotation is not None:
            names = {n.id for n in ast.walk(node.annotation) if isinstance(n, ast.Name)}
            assert "Run" not in names, f"line {node.lineno}: '{node.arg}' is a run"


def test_the_documentation_says_who_imports_whom():
    text = architecture.DOCUMENT.read_text(encoding="utf-8")
    assert text == architecture.with_table(text), "run: python scripts/architecture.py"


def test_there_is_no_circle():
    waiting = {module: imports_of(module) - {"scan_tf"} for module in MODULES}
    while waiting:
        free = {module for module, needs in waiting.items() if not needs & set(waiting)}
        assert free, f"these import each other: {sorted(waiting)}"
        waiting = {m: needs for m, needs in waiting.items() if m not in free}


def identify(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_files_are_short_and_have_a_subject(path):
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_LINES, f"{identify(path)} has {lines} lines; split it by subject"
    assert not re.search(r"util|helper|misc|common", path.stem), "name the module by its subject"


@pytest.mark.parametrize("path", FILES, ids=identify)
def test_nothing_that_was_read_is_executed(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    modules = {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    modules |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not modules & {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}

    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
    names = {ast.unparse(call.func) for call in calls}
    assert not names & {"eval", "exec", "compile", "yaml.load", "yaml.unsafe_load"}
    keywords = {k.arg for call in calls for k in call.keywords if ast.unparse(k.value) == "True"}
    assert "allow_pickle" not in keywords


FACES = sorted(f"scan_tf.{package}" for package in TABLE)


@pytest.mark.parametrize("module", ["scan_tf", "scan_tf.cli", "scan_tf.config", *FACES])
def test_import_loads_no_tensorflow(module):
    program = (
        f"import sys, {module}; heavy = ['tensorflow', 'keras', 'albumentations', 'sklearn'];"
        "print([name for name in heavy if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("module", ["scan_tf", *FACES])
def test_public_names_exist(module):
    face = importlib.import_module(module)
    assert face.__all__
    for name in face.__all__:
        assert f"{module}.{name}" not in MODULES, "a module of that name would hide it"
        assert getattr(face, name) is not None
        assert name in dir(face)


@pytest.mark.parametrize("package", sorted(TABLE))
def test_the_documentation_names_the_public_face(package):
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (row,) = re.findall(rf"^\| `{package}` \|.*$", text, re.MULTILINE)
    shown = set(re.findall(r"`(\w+)`", row.split("|")[3]))
    assert shown <= set(importlib.import_module(f"scan_tf.{package}").__all__)


def test_unknown_public_name():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        scan_tf.trian  # noqa: B018


def test_version_is_in_the_changelog():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {scan_tf.__version__} " in changelog
