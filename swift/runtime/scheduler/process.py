# SPDX-License-Identifier: Apache-2.0
"""What a fork and signals mean to green threads."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress

from swift.runtime.scheduler.blocking import ThreadPool
from swift.runtime.scheduler.hub import Hub, local, on_hub, this_hub
from swift.runtime.scheduler.watches import Watch


def after_fork() -> None:
    """Give a forked child its own hub and thread pool. Call before anything waits.

    Green threads of the parent do not run in the child.
    """
    pool = getattr(local, "pool", None)
    hub = getattr(local, "hub", None)
    if isinstance(pool, ThreadPool):
        pool.abandon()
        del local.pool
    if hub is not None:
        with suppress(OSError):
            hub.poll.close()
        if hub.signal_pipe is not None:
            signal.set_wakeup_fd(-1)
            for fileno in hub.signal_pipe:
                with suppress(OSError):
                    os.close(fileno)
        del local.hub
        # Collecting it would end the parent's threads in here: their cleanup would
        # remove the parent's files and answer the parent's clients.
        _abandoned.append(hub)
    _signal_callbacks.clear()
    this_hub()


_abandoned: list[Hub] = []
_signal_callbacks: dict[int, Callable[[], object]] = {}


def on_signal(number: int, callback: Callable[[], object]) -> None:
    """Call back from the hub when a signal comes. The callback must not wait.

    Only in the main thread. Replaces what was set for that signal before.
    """
    hub = this_hub()
    if hub.signal_watch is None:
        hub.signal_pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        hub.signal_watch = Watch(hub.signal_pipe[0], hub.drain_signals)
        # Without it, epoll goes on waiting after the handler has run (PEP 475).
        signal.set_wakeup_fd(hub.signal_pipe[1], warn_on_full_buffer=False)
    _signal_callbacks[number] = callback
    signal.signal(number, _signalled)


def _signalled(number: int, _frame: object) -> None:
    callback = _signal_callbacks.get(number)
    if callback is not None:
        on_hub(callback)
