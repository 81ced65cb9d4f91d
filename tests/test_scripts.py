from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
# Modules of one of them.
MODULES = {"docs_site", "result_table", *(path.stem for path in SCRIPTS.glob("torture_*.py"))}
NAMES = sorted({path.stem for path in SCRIPTS.glob("*.py")} - MODULES)
COMMANDS = {"prepare_tfds": "scan-tf prepare", "campaign": "scan-tf"}
# They are no commands of scan-tf.
OTHERS = {
    "docs_pictures",
    "notebooks",
    "architecture",
    "gpu_run",
    "results",
    "torture",
    *(n for n in NAMES if n.startswith("bench")),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_script_shows_its_help_and_imports_no_tensorflow(name):
    # Python lists on stderr what it imports.
    command = [sys.executable, "-X", "importtime", str(SCRIPTS / f"{name}.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    program = f"{name}.py" if name in OTHERS else COMMANDS.get(name, f"scan-tf {name}")
    assert done.stdout.startswith(f"usage: {program} ")
    imported = set(re.findall(r"\| +(\S+)$", done.stderr, re.MULTILINE))
    assert name in OTHERS or "scan_tf.cli" in imported
    assert name == "docs_pictures" or not {"tensorflow", "keras", "numpy"} & imported
