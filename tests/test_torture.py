"""The short form of `make torture`."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torture
import torture_commands
from torture_runs import CASES, Torture, equal
from torture_table import table


def test_what_is_equal_and_what_is_not():
    assert equal({"a": [1.0, None]}, {"a": [1.0, None]})
    assert equal([float("nan")], [float("nan")])
    assert not equal({"a": [1.0]}, {"a": [1.0 + 2**-52]})
    assert not equal([1], [1, 2])


def test_parts_of_a_torture_are_added_up(tmp_path, capsys):
    results = tmp_path / "results.jsonl"
    for good in (True, False):
        part = Torture(tmp_path, 0, 1)
        part.check("SIGKILL", "moco: scan", True, "")
        part.check("SIGKILL", "scan", good, "lost")
        part.tell(results)
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert [row["wrong"] for row in rows] == [[], [], [], ["lost"]]
    found = table(results).splitlines()[-1]
    assert found.startswith("| SIGKILL | 4 | scan 4 | the same command goes on | 1 | `")
    assert rows[0]["commit"] in found
    assert torture.main(["--table", str(results)]) == 0
    assert "| SIGKILL | 4 |" in capsys.readouterr().out


def test_the_same_seed_kills_at_the_same_moments(tmp_path):
    moments = [Torture(tmp_path, seed, 1).random.random() for seed in (3, 3, 4)]
    assert moments[0] == moments[1] != moments[2]


def test_every_case_is_a_config(tmp_path):
    from scan_tf import config

    for case, changes in CASES.items():
        run = Torture(tmp_path, 0, 5).new(case, case)
        found = config.load(run / "config.yaml", [])
        assert found.scan.epochs == 5
        for stage, settings in changes.items():
            assert settings.items() >= {"name": getattr(found, stage).name}.items() or (
                "name" not in settings
            )


@pytest.mark.slow
def test_a_run_that_is_killed_at_random_moments_loses_nothing():
    # In a process of its own, of which copies become the program.
    given = ["--quick", "--kills", "4", "--epochs", "3", "--seed", "1", "--cases", "moco"]
    command = [sys.executable, torture.__file__, *given]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same bits as without faults, moco: tried" in done.stdout


@pytest.mark.slow
def test_a_full_disk_and_a_killed_pack_lose_nothing(capsys, tmp_path):
    given = ["--kills", "0", "--epochs", "4", "--cases", "simclr", "--folder", str(tmp_path)]
    assert torture.main([*given, "--faults", "full-disk", "--commands", "pack", "unpack"]) == 0
    assert "SIGKILL and the command again, pack" in capsys.readouterr().out
    assert {"export", "sort", "prepare"} < set(torture_commands.COMMANDS)
