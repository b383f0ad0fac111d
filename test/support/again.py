# SPDX-License-Identifier: Apache-2.0
"""pytest, where a few failing tests are tried a second time, alone, and named.

Thousands of tests with real processes on a shared machine meet moments that say
nothing about the code. One of them must not hide what the others say, nor may it pass
unseen: what fails is run once more, in a new process, one at a time. What fails twice
is a failure; what passes is named as unsteady, to be mended. Many failures are no
accident and are not tried again.

Usage: python -m test.support.again [pytest's arguments]
"""

from __future__ import annotations

import subprocess
import sys

import pytest

MOST = 3
"""More failing tests than these are not tried again."""


class Failures:
    """A plug-in of pytest that keeps the names of the tests that failed, in order."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def pytest_configure(self, config):
        self._root = config.rootpath

    def pytest_runtest_logreport(self, report):
        name = f"{self._root}/{report.nodeid}"
        if report.failed and name not in self.names:
            self.names.append(name)


def main(arguments: list[str]) -> int:
    """Run pytest; answer its exit code, or that of the second attempt."""
    failures = Failures()
    code = int(pytest.main(arguments, plugins=[failures]))
    if code != pytest.ExitCode.TESTS_FAILED or not 0 < len(failures.names) <= MOST:
        return code
    print(f"\n== {len(failures.names)} failed; a second attempt, alone", flush=True)
    command = [sys.executable, "-m", "pytest", *failures.names]
    second = subprocess.run(command, check=False).returncode
    if second == 0:
        print("== UNSTEADY, passed only at the second attempt (mend them):")
        print("\n".join(failures.names), flush=True)
    return second


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
