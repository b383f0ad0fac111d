# SPDX-License-Identifier: Apache-2.0
"""Green threads, the clock, and threads for calls that block: the first of three doors.

Everything that waits in this project waits here. The scheduler is eventlet's hub, so
that filters of third parties which use eventlet work in our pipelines, with the hot
parts replaced: descriptors stay registered with epoll for life (edge triggered), waking
a thread costs no timer, and the limits of long socket waits are swept once a second
instead of being timers of their own. No other module than those of `scheduler`, which
only this one imports, knows eventlet or greenlet.

A descriptor that is waited for often has a `Watch`. Its user first tries the call
(recv, send), and waits only when it would block; waking up means "try again".

Waits may end by exceptions thrown in from outside: `Timeout` of an enclosing block, or
`Killed`. Both are BaseExceptions.
"""

from __future__ import annotations

from swift.runtime.scheduler.blocking import (
    THREADS_MAX,
    Threads,
    in_thread,
    install_threads,
    set_threads,
)
from swift.runtime.scheduler.clock import Clock, JumpingClock, monotonic, now
from swift.runtime.scheduler.hub import install, on_hub, show_hub_errors
from swift.runtime.scheduler.meeting import (
    Event,
    Pool,
    Queue,
    QueueEmpty,
    QueueFull,
    Semaphore,
)
from swift.runtime.scheduler.process import after_fork, on_signal
from swift.runtime.scheduler.threads import (
    Killed,
    Thread,
    Timeout,
    sleep,
    spawn,
    yield_now,
)
from swift.runtime.scheduler.watches import (
    Watch,
    first_readable,
    wait_readable,
    wait_writable,
)

__all__ = [
    "THREADS_MAX",
    "Clock",
    "Event",
    "JumpingClock",
    "Killed",
    "Pool",
    "Queue",
    "QueueEmpty",
    "QueueFull",
    "Semaphore",
    "Thread",
    "Threads",
    "Timeout",
    "Watch",
    "after_fork",
    "first_readable",
    "in_thread",
    "install",
    "install_threads",
    "monotonic",
    "now",
    "on_hub",
    "on_signal",
    "set_threads",
    "show_hub_errors",
    "sleep",
    "spawn",
    "wait_readable",
    "wait_writable",
    "yield_now",
]
