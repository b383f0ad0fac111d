# SPDX-License-Identifier: Apache-2.0
"""Passes of daemons on the nodes of a swift-saio cluster, when a test says so.

`run_passes` lets daemons pass on every node, one after the other, in one process of
their own: starting Python for each would take most of the time. `command` is the
command line of one daemon of one node, for tests that kill it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from test.support.cluster import ROOT

NODES = (1, 2, 3, 4)
HEALERS = (
    "object-updater",
    "object-replicator",
    "object-reconstructor",
    "container-replicator",
    "container-updater",
    "account-replicator",
)
"""What brings replicas, listings and counts together, in the order of a pass."""

QUICK = {
    "object-updater": {"objects_per_second": "0"},
    "object-auditor": {"files_per_second": "0", "bytes_per_second": "0"},
    "account-auditor": {"accounts_per_second": "0"},
    "container-auditor": {"containers_per_second": "0"},
    "account-replicator": {"databases_per_second": "0"},
    "container-replicator": {"databases_per_second": "0"},
    "container-updater": {"containers_per_second": "0"},
    "object-expirer": {"processes": "0", "process": "0", "tasks_per_second": "0"},
}
"""Options of a pass that spares nobody."""


def conf_of(folder: Path, node: int, daemon: str) -> Path:
    """The .conf file of a daemon of a node."""
    kind = daemon.partition("-")[0]
    return folder / "etc" / f"{kind}-server" / f"{node}.conf"


def command(folder: Path, node: int, daemon: str, *arguments: str) -> list[str]:
    """The command line of a daemon of a node."""
    program = str(ROOT / "bin" / f"swift-{daemon}")
    return [sys.executable, program, str(conf_of(folder, node, daemon)), *arguments]


def run_passes(
    folder: Path,
    daemons: Sequence[str] = HEALERS,
    options: dict[str, dict[str, str]] | None = None,
    limit_s: float = 300.0,
) -> str:
    """One pass of each daemon on every node; what they logged.

    options: daemon → option → value, over those of QUICK. AssertionError when a pass
    raises.
    """
    wanted = {
        name: {**QUICK.get(name, {}), **(options or {}).get(name, {})}
        for name in daemons
    }
    done = subprocess.run(
        [sys.executable, "-m", "test.support.passes", str(folder), json.dumps(wanted)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=limit_s,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def _main(folder: str, wanted: str) -> None:
    from swift.cli.daemons import PROGRAMS, make_daemon
    from swift.runtime import green
    from swift.runtime.config import read_conf
    from swift.runtime.daemon import Scope, run_pass
    from swift.runtime.logs import get_logger

    for name, options in json.loads(wanted).items():
        for node in NODES:
            conf = read_conf(str(conf_of(Path(folder), node, name)))
            values = {**conf.section(name), "log_level": "INFO", **options}
            log = get_logger(values, name, console=True)
            daemon = make_daemon(PROGRAMS[name].daemon, values, conf, log)
            green.spawn(run_pass, daemon, Scope(once=True)).wait()


if __name__ == "__main__":
    _main(*sys.argv[1:])
