# SPDX-License-Identifier: Apache-2.0
"""Settings of all tests.

Properties have no time limit, for the machines that run them are shared and slow at
times. In CI their examples are the same in every run; elsewhere they are drawn anew,
and a failure prints how to see it again.
"""

from __future__ import annotations

import os
import shutil
import tempfile

import pytest
from hypothesis import HealthCheck, settings

SAME_EXAMPLES = "SWIFT_TEST_SAME_EXAMPLES"

for _name in ("CI", "BUILD_NUMBER"):
    if os.environ.pop(_name, None):
        # pytest takes them for leave to compare unequal megabytes line by line.
        os.environ[SAME_EXAMPLES] = "1"

settings.register_profile(
    "shared",
    deadline=None,
    print_blob=True,
    derandomize=bool(os.environ.get(SAME_EXAMPLES)),
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("shared")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Let the processes that tests start share compiled modules.

    Where PYTHONDONTWRITEBYTECODE is set each of them, and a cluster has 17, would
    compile every module of a fresh checkout anew.
    """
    if os.environ.pop("PYTHONDONTWRITEBYTECODE", None):
        folder = tempfile.mkdtemp(prefix="swift-test-bytecode-")
        os.environ["PYTHONPYCACHEPREFIX"] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
