from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
# Modules of one of them.
MODULES = {"docs_site", "result_table", *(path.stem for path in SCRIPTS.glob("torture_*.py"))}
# What draws the documentation looks at images.
NAMES = sorted({path.stem for path in SCRIPTS.glob("*.py")} - MODULES - {"docs_pictures"})
COMMANDS = {"prepare_tfds": "scan-tf prepare", "campaign": "scan-tf"}
# They are no commands of scan-tf.
OTHERS = {
    "notebooks",
    "architecture",
    "gpu_run",
    "results",
    "scaling_plan",
    "torture",
    *(n for n in NAMES if n.startswith("bench")),
}


# Runs the scripts one after the other, and says what each printed and what is loaded after it.
HELP = """
import contextlib, io, json, runpy, sys
heavy = {"tensorflow", "keras", "numpy"}
for path in sys.argv[1:]:
    before, said, code = set(sys.modules), io.StringIO(), None
    sys.argv = [path, "--help"]
    sys.path[0] = path.rpartition("/")[0]
    with contextlib.redirect_stdout(said):
        try:
            runpy.run_path(path, run_name="__main__")
        except SystemExit as error:
            code = error.code
    new = set(sys.modules) - before
    has_cli = "scan_tf.cli" in sys.modules
    print(json.dumps([path, code, said.getvalue(), sorted(heavy & new), has_cli]))
    for name in [n for n in sys.modules if n.partition(".")[0] == "scan_tf"]:
        del sys.modules[name]
"""


@pytest.fixture(scope="module")
def helped():
    """Of every script: exit code, output, heavy modules that it loads, whether scan_tf.cli is."""
    paths = [str(SCRIPTS / f"{name}.py") for name in NAMES]
    done = subprocess.run([sys.executable, "-c", HELP, *paths], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = map(json.loads, done.stdout.splitlines())
    return {Path(path).stem: rest for path, *rest in rows}


@pytest.mark.parametrize("name", NAMES)
def test_a_script_shows_its_help_and_imports_no_tensorflow(helped, name):
    code, said, heavy, has_cli = helped[name]
    assert not code
    program = f"{name}.py" if name in OTHERS else COMMANDS.get(name, f"scan-tf {name}")
    assert said.startswith(f"usage: {program} ")
    assert name in OTHERS or has_cli
    assert heavy == []
