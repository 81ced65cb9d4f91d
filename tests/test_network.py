"""Nothing reaches for a network: not at import, not in a run."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from network import watched
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tiny_runs import write_config, write_splits

ROOT = Path(__file__).parents[1]
# A network of its own, in which there is not even this machine.
_WITHOUT = ("unshare", "--map-root-user", "--net")


def test_an_attempt_is_noted():
    with watched() as seen, socket.socket() as client:
        with pytest.raises(OSError, match="refused"):
            client.connect(("127.0.0.1", 1))
        socket.getaddrinfo("localhost", 80)
    assert len(seen) == 2
    assert "127.0.0.1" in seen[0]
    assert "localhost" in seen[1]


@pytest.mark.slow
def test_no_module_opens_a_connection_when_it_is_imported():
    command = [sys.executable, str(ROOT / "tests" / "network.py")]
    done = subprocess.run(command, cwd=ROOT, env=_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    assert re.fullmatch(r"\d{3} modules; connections: \[\]\n", done.stdout)


def test_no_stage_opens_a_connection(finished):
    text = (finished.parent / "connections").read_text(encoding="utf-8")
    assert text == "", "what all stages of a tiny run have tried"


@pytest.mark.slow
def test_a_run_is_done_without_any_network(tmp_path):
    if shutil.which(_WITHOUT[0]) is None or subprocess.run([*_WITHOUT, "true"]).returncode:
        pytest.skip("this user may not make a network of its own (unshare --net)")
    config = write_config(tmp_path / "tiny.yaml", write_splits(tmp_path / "images"))
    program = [*_WITHOUT, sys.executable, "-m", "scan_tf.cli", "run", "--config", str(config)]
    command = [*program, "--run-dir", str(tmp_path / "run")]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "export" / "saved_model.pb").exists()


def test_the_pinned_versions_are_allowed_and_complete():
    text = (ROOT / "tests" / "constraints.txt").read_text(encoding="utf-8")
    assert re.match(r"# Python 3\.1[0-3]\n# .*make constraints", text)
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    pinned = {canonicalize_name(n): v for n, v in (line.split("==") for line in lines)}
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    lists = [
        re.search(rf"^{key} = \[\n(.*?)^\]", project, re.M | re.S)
        for key in ("dependencies", "dev")
    ]
    wanted = [
        Requirement(t)
        for found in lists
        if found
        for t in re.findall(r'^ +"(.+?)"', found[1], re.M)
    ]
    assert len(wanted) > 20
    for requirement in wanted:
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement}: {version} is pinned"


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
