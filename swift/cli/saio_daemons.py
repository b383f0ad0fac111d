# SPDX-License-Identifier: Apache-2.0
"""All background daemons of one node of a one-machine cluster, in one process.

On a real node each daemon is a process of its own; here that would be a dozen for each
of four nodes, most of them asleep. Daemons and options are the real ones, read
from the sections of the node's .conf files; only the process is shared.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from swift.cli.daemons import PROGRAMS, make_daemon
from swift.core.errors import SwiftError
from swift.runtime import green
from swift.runtime.config import ConfFile, read_conf
from swift.runtime.daemon import Scope, run_passes
from swift.runtime.logs import Logger, bridge_stdlib, get_logger


def run_node(confs: Sequence[Path]) -> int:
    """Run the daemons whose sections stand in `confs`, until SIGTERM. Yields."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threads = []
    try:
        for path in confs:
            conf = read_conf(str(path))
            for name in conf.sections:
                if name in PROGRAMS:
                    threads.append(green.spawn(_run, conf, name))
    except SwiftError as error:
        print(f"daemons: {error}", file=sys.stderr)
        return 1
    for thread in threads:
        thread.wait()
    return 0


def _run(conf: ConfFile, name: str) -> None:
    values = conf.section(name)
    log = _logger(conf, name)
    bridge_stdlib(log)
    run_passes(make_daemon(PROGRAMS[name].daemon, values, conf, log), Scope())


def _logger(conf: ConfFile, name: str) -> Logger:
    values = conf.section(name)
    return get_logger(values, name, console=True, source=conf.source, section=name)
