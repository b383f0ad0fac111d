# SPDX-License-Identifier: Apache-2.0
"""A process dies before each system call that changes a file; a rerun mends the rest.

What the disk door counts step by step (test/unit/storage/test_storage_crash.py) is
counted here by the system calls of a real process, those of SQLite among them, and the
process is killed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from test.support.cluster import ROOT
from test.support.crash_operations import OPERATIONS
from test.support.deaths import build

if shutil.which("cc") is None:
    pytest.skip("a C compiler makes what counts the calls", allow_module_level=True)


@pytest.fixture(scope="module")
def deaths(tmp_path_factory):
    """Operation → (number of its changes, what went wrong when it died)."""
    folder = tmp_path_factory.mktemp("deaths")
    done = subprocess.run(
        [sys.executable, "-m", "test.support.crash_operations", str(folder / "run")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "LD_PRELOAD": str(build(folder)),
        },
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", [operation.name for operation in OPERATIONS])
def test_a_process_may_die_before_each_change(deaths, name):
    count, problems = deaths[name]
    assert count >= 3
    assert not problems
