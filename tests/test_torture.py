"""The short form of `make torture`."""

from __future__ import annotations

import json

import pytest
import torture
from torture_cases import CASES
from torture_commands import COMMANDS
from torture_faults import FAULTS
from torture_results import equal
from torture_runs import Torture
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
    *_, found, _, slowest = table(results).splitlines()
    assert slowest == "The slowest end after a signal took 0.0 s."
    assert found.startswith("| SIGKILL | 4 | scan 4 | the same command goes on | 1 | `")
    assert rows[0]["commit"] in found
    assert torture.main(["--table", str(results)]) == 0
    assert "| SIGKILL | 4 |" in capsys.readouterr().out


def test_by_default_every_case_fault_and_command_is_tried():
    arguments = torture._parser().parse_args(["--faults", "--commands"])
    parts = torture.parts(arguments)
    assert sum(part.kills for part in parts) == 100
    assert {part.case for part in parts if part.kills} == set(CASES)
    assert [part.fault for part in parts if part.fault] == [*FAULTS]
    assert [name for part in parts for name in part.commands] == [*COMMANDS]
    few = torture._parser().parse_args(["--kills", "3", "--cases", "moco", "byol"])
    assert [(part.case, part.kills) for part in torture.parts(few)] == [("moco", 1), ("byol", 2)]


def test_the_same_seed_kills_at_the_same_moments(tmp_path):
    moments = [Torture(tmp_path, seed, 1).random.random() for seed in (3, 3, 4)]
    assert moments[0] == moments[1] != moments[2]


def test_every_case_is_a_config(tmp_path):
    from scan_tf import config

    for case, changes in CASES.items():
        run = Torture(tmp_path, 0, 5).new(case, case)
        found = config.load(run / "config.yaml", [])
        assert found.scan.epochs == 5
        for section, settings in changes.items():
            there = getattr(found, section)
            wanted = {key: value for key, value in settings.items() if value is not None}
            assert {key: getattr(there, key) for key in wanted} == wanted


@pytest.mark.slow
def test_what_is_killed_at_random_moments_loses_nothing(tmp_path, capfd):
    given = ["--kills", "4", "--seed", "1", "--cases", "moco", "--folder", str(tmp_path)]
    assert torture.main([*given, "--faults", "full-disk", "--commands", "pack", "unpack"]) == 0
    rows = capfd.readouterr().out
    assert "| run to its end |" in rows
    assert "moco, after a full disk 1" in rows or "No file system can be made here" in rows
    assert "unpack" in rows
