# SPDX-License-Identifier: Apache-2.0
"""The simulation repeats itself, and notices a disk that breaks the rules."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def simulate(*arguments, program="run"):
    """(exit code, lines) of a run of the simulation in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", f"test.sim.{program}", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


def test_one_seed_is_one_history_to_the_letter():
    code, lines = simulate("--seed", 1002, "--count", 4, program="repeat")

    assert (code, lines) == (0, ["4 of 4 seeds repeat themselves"])


@pytest.mark.parametrize("rule", ["fsync", "pending", "rows", "tombstones"])
def test_a_broken_rule_is_noticed_within_some_seeds(rule):
    code, lines = simulate("--seed", 2000, "--count", 30, "--break", rule)

    assert code == 1
    assert any("FAILED" in line for line in lines)
    assert lines[-1].endswith(" 1 failed")
