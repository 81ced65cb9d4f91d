"""The short form of `make torture`."""

from __future__ import annotations

import pytest
import torture


def test_what_is_equal_and_what_is_not():
    assert torture._equal({"a": [1.0, None]}, {"a": [1.0, None]})
    assert not torture._equal({"a": [1.0]}, {"a": [1.0 + 2**-52]})
    assert not torture._equal([1], [1, 2])


@pytest.mark.slow
def test_a_run_that_is_killed_at_random_moments_loses_nothing(capsys):
    assert torture.main(["--kills", "6", "--epochs", "10", "--seed", "1"]) == 0
    assert "compared with the run without faults: tried" in capsys.readouterr().out
