"""What travels: the source distribution has every file of the repository."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What setuptools takes by itself: the packages, and these.
BY_ITSELF = {"scan_tf", "README.md", "LICENSE", "pyproject.toml", "setup.py", "MANIFEST.in"}


def tracked() -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    command = ["git", "-C", str(ROOT), "ls-files"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_every_file_is_in_the_source_distribution():
    manifest = (ROOT / "MANIFEST.in").read_text(encoding="utf-8")
    taken = set(re.findall(r"^graft (\S+)$", manifest, re.MULTILINE)) | BY_ITSELF
    for line in re.findall(r"^include (.+)$", manifest, re.MULTILINE):
        taken |= set(line.split())
    left_out = {path.split("/")[0] for path in tracked()} - taken
    assert left_out == set(), "add it to MANIFEST.in"
    (excluded,) = re.findall(r"^global-exclude (.+)$", manifest, re.MULTILINE)
    assert excluded == "__pycache__/* *.py[cod]"


def test_files_of_the_package_that_are_no_code_are_named_in_setup_py():
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    files = [Path(p) for p in tracked() if p.startswith(("scan_tf/", "configs/"))]
    others = {path.suffix for path in files} - {".py"}
    named = {Path(name).suffix for name in re.findall(r'"([\w.*]+)"', setup)}
    assert others <= named
