# SPDX-License-Identifier: Apache-2.0
"""What fails by chance is tried twice and named; what fails twice has failed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]

UNSTEADY = """
from pathlib import Path

def test_fails_once():
    mark = Path(__file__).with_suffix(".mark")
    first = not mark.exists()
    mark.write_text("")
    assert not first

def test_passes():
    pass
"""
STEADY = "def test_fails():\n    assert False\n"
MANY = "\n".join(f"def test_fails_{n}():\n    assert False\n" for n in range(4))


def attempt(folder, text):
    """Exit code and output of pytest, tried twice, over a file of this text."""
    path = folder / "test_sample.py"
    path.write_text(text)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "test.support.again",
            "-p",
            "no:cacheprovider",
            str(path),
        ],
        cwd=TOP,
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout


def test_what_passes_the_second_time_is_named(tmp_path):
    code, output = attempt(tmp_path, UNSTEADY)
    assert code == 0
    unsteady = output.partition("== UNSTEADY")[2].splitlines()[1:]
    assert [line.partition("::")[2] for line in unsteady] == ["test_fails_once"]


@pytest.mark.parametrize("text", [STEADY, MANY])
def test_what_fails_twice_or_in_many_places_has_failed(tmp_path, text):
    code, output = attempt(tmp_path, text)
    assert code == 1
    assert "UNSTEADY" not in output
    assert ("a second attempt" in output) == (text == STEADY)
