# SPDX-License-Identifier: Apache-2.0
"""The processes of a daemon, forked for real."""

import os
import signal
import subprocess
import sys
from contextlib import suppress

LIMIT_S = 60

DAEMON = """
import os
from swift.runtime import green
from swift.runtime.daemon import Daemon, DaemonConfig, Frame, Pause, Scope, run
from swift.runtime.logs import NULL_LOG

class Endless(Daemon):
    section = "endless"
    first_pause = Pause.NONE

    def shares(self, scope):
        return [scope, scope]

    def jobs(self, scope):
        os.write(1, b"%d\\n" % os.getpid())
        green.sleep(3600)
        return []

daemon = Endless(DaemonConfig(), Frame(None, NULL_LOG, None))
green.spawn(run, daemon, Scope()).wait()
"""


def test_workers_end_with_a_parent_that_was_killed() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", DAEMON], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    workers: list[int] = []
    try:
        workers += [int(parent.stdout.readline()) for _ in range(2)]
        parent.kill()
        # The workers hold the pipe's other end: it closes when the last one is gone.
        parent.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        for worker in workers:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)
        raise
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
