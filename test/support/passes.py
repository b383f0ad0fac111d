# SPDX-License-Identifier: Apache-2.0
"""Passes of daemons on the nodes of a swift-saio cluster, when a test says so.

`run_passes` lets daemons pass on every node, one after the other, in one process of
their own: starting Python for each would take most of the time. `run_here` does without
even that, for daemons that do not fork. `command` is the command line of one daemon of
one node, for tests that kill it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from swift.cli.daemons import PROGRAMS, make_daemon
from swift.runtime import green
from swift.runtime.config import read_conf
from swift.runtime.daemon import Daemon, Scope, run_pass
from swift.runtime.logs import ListSink, Logger, get_logger
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

Options = dict[str, dict[str, str]]


def conf_of(folder: Path, node: int, daemon: str) -> Path:
    """The .conf file of a daemon of a node: one of its own, or that of its server."""
    own = folder / "etc" / f"{daemon}.conf"
    kind = daemon.partition("-")[0]
    return own if own.exists() else folder / "etc" / f"{kind}-server" / f"{node}.conf"


def command(folder: Path, node: int, daemon: str, *arguments: str) -> list[str]:
    """The command line of a daemon of a node."""
    program = str(ROOT / "bin" / f"swift-{daemon}")
    return [sys.executable, program, str(conf_of(folder, node, daemon)), *arguments]


def began(daemon: str, node: int) -> str:
    """The line of the output that says that a pass begins."""
    return f"{daemon} passes on node {node}"


def start_passes(
    folder: Path,
    daemons: Sequence[str] = HEALERS,
    options: Options | None = None,
    **channels: Any,
) -> subprocess.Popen[str]:
    """Start one pass of each daemon on every node; its output has a line for each.

    options: daemon → option → value, over those of QUICK. channels: of Popen.
    """
    wanted = json.dumps(_wanted(daemons, options))
    return subprocess.Popen(
        [sys.executable, "-m", "test.support.passes", str(folder), wanted],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        **channels,
    )


def run_passes(
    folder: Path,
    daemons: Sequence[str] = HEALERS,
    options: Options | None = None,
    limit_s: float = 300.0,
) -> str:
    """As `start_passes`, to the end; what was said. AssertionError when one raises."""
    running = start_passes(folder, daemons, options, stderr=subprocess.STDOUT)
    try:
        said = running.communicate(timeout=limit_s)[0]
    finally:
        running.kill()
    assert running.returncode == 0, said
    return said


def run_here(
    folder: Path, daemons: Sequence[str], options: Options | None = None
) -> str:
    """As `run_passes`, in this process; what was logged."""
    sink = ListSink()
    wanted = _wanted(daemons, options)
    for _, _, daemon in _made(folder, wanted, lambda name, _: Logger(name, [sink])):
        run_pass(daemon, Scope(once=True))
        if hasattr(daemon, "local"):
            daemon.local.databases.close()
    return "\n".join(line for _, line in sink.lines)


def _wanted(daemons: Sequence[str], options: Options | None) -> Options:
    """Daemon → its options beside those of its file."""
    return {
        name: {**QUICK.get(name, {}), **(options or {}).get(name, {})}
        for name in daemons
    }


def _made(
    folder: Path,
    wanted: Options,
    logger: Callable[[str, Mapping[str, str]], Logger],
) -> Iterator[tuple[str, int, Daemon[Any]]]:
    """Each daemon on each node: its name, the node, and the daemon made for it."""
    for name, options in wanted.items():
        for node in NODES:
            conf = read_conf(str(conf_of(folder, node, name)))
            if name not in conf.sections:
                continue  # not every node runs every daemon
            values = {**conf.section(name), "log_level": "INFO", **options}
            log = logger(name, values)
            yield name, node, make_daemon(PROGRAMS[name].daemon, values, conf, log)


def _main(folder: str, wanted: str) -> None:
    made = _made(
        Path(folder),
        json.loads(wanted),
        lambda name, values: get_logger(values, name, console=True),
    )
    for name, node, daemon in made:
        print(began(name, node), flush=True)
        green.spawn(run_pass, daemon, Scope(once=True)).wait()


if __name__ == "__main__":
    _main(*sys.argv[1:])
