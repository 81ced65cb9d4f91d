"""Holds the code to docs/architecture.md: its tree and its layers are read from there."""

from __future__ import annotations

import ast
import importlib
import pathlib
import re
import subprocess
import sys

import pytest

import scan_tf

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / "scan_tf"
FILES = sorted(PACKAGE.rglob("*.py"))
# All but the package's own file, which imports what it re-exports only on first use.
MODULES = [path for path in FILES if path != PACKAGE / "__init__.py"]
MAX_LINES = 320


def documented_layers() -> dict[str, int]:
    """Module or folder name -> layer, from the tree in docs/architecture.md."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    tree = text.split("```\nscan_tf/\n")[1].split("```")[0]
    rows = re.findall(r"^  (\w+)(?:/|\.py) .*?(\d+)$", tree, re.MULTILINE)
    return {name: int(layer) for name, layer in rows}


LAYERS = documented_layers()


def part_of(path: pathlib.Path) -> str:
    """The first component of a module's name inside the package: `data`, `train`, ..."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(source: str, package: str) -> set[str]:
    """The parts of scan_tf that a source text imports, also inside of functions.

    `package` is the dotted package that holds the module, for relative imports.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, *filter(None, [node.module])])
            names |= {f"{base}.{alias.name}" for alias in node.names}
    inside = {name.split(".")[1] for name in names if name.startswith("scan_tf.")}
    return inside - set(vars(scan_tf)["__all__"])


def identify(path: pathlib.Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_the_tree_is_read():
    assert LAYERS["errors"] == 0 < LAYERS["schema"] < LAYERS["config"]
    assert LAYERS["data"] < LAYERS["task"] < LAYERS["train"] < LAYERS["cli"]
    assert len(LAYERS) > 20


def test_imports_are_read():
    source = "import scan_tf.training.loop\ndef f():\n    from ..data import load\n    from . import ops\n"
    assert imported_parts(source, "scan_tf.augment.policies") == {"train", "data", "augment"}
    assert imported_parts("from scan_tf import __version__, task", "scan_tf") == {"task"}


def test_code_and_documentation_name_the_same_modules():
    parts = {part_of(path) for path in MODULES}
    assert parts == set(LAYERS)


@pytest.mark.parametrize("path", MODULES, ids=identify)
def test_imports_point_to_lower_layers(path):
    part = part_of(path)
    package = ".".join(path.relative_to(ROOT).parts[:-1])
    imported = imported_parts(path.read_text(encoding="utf-8"), package)
    unknown = (imported | {part}) - set(LAYERS)
    assert not unknown, f"the tree in docs/architecture.md lacks {sorted(unknown)}"
    upward = {
        other
        for other in imported - {part}
        if LAYERS[other] >= LAYERS[part]
    }
    assert not upward, f"{identify(path)} (layer {LAYERS[part]}) imports {sorted(upward)}"


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


@pytest.mark.parametrize("module", ["scan_tf", "scan_tf.cli", "scan_tf.config"])
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


@pytest.mark.parametrize("name", sorted(scan_tf._EXPORTS))
def test_public_names_exist(name):
    module, _, attribute = scan_tf._EXPORTS[name].partition(":")
    assert getattr(scan_tf, name) is getattr(importlib.import_module(module), attribute)
    assert name in dir(scan_tf)


def test_unknown_public_name():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        scan_tf.trian  # noqa: B018


def test_version_is_in_the_changelog():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {scan_tf.__version__} " in changelog
