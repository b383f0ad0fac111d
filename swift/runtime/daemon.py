# SPDX-License-Identifier: Apache-2.0
"""The runner of every background daemon: passes, workers, pace, progress, signals.

A daemon says which jobs a pass has and how one is handled; all else is here. Jobs
are an iterator that is read as fast as they are handled, so a pass needs the memory of
a few jobs however many there are. A job that fails is logged, counted and left for the
next pass; a pass that fails is logged and tried again. Any process may be killed at any
moment: what a daemon did stands, what it did not do is found again by the next pass.

Rules: contract daemons §1.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, ClassVar, Generic, NoReturn, TypeVar

from swift.core.settings import Reserve, boolean, option, reserve, seconds
from swift.runtime import green
from swift.runtime.cluster import Cluster
from swift.runtime.config import ConfFile, io_class, io_priority, optional, port
from swift.runtime.logs import Logger
from swift.runtime.metrics import Metrics

J = TypeVar("J")

REAP_S = 5.0
"""Time between looks for workers that died."""

CHILD_POLL_S = 0.2
"""Time between looks for a child where the kernel cannot tell of its end."""

_DEFAULT_RESERVE = Reserve(percent=1.0)

PROGRESS_S = 300.0
"""Default time between two progress lines of a pass."""


@dataclass(frozen=True)
class DaemonConfig:
    """The options that every daemon's section has."""

    interval_s: float = option(
        300.0, name="interval", parse=seconds, doc="Least time between passes' starts."
    )
    user: str = option("swift", doc="Whom the daemon runs as, when started by root.")
    swift_dir: str = option("/etc/swift", doc="Where swift.conf and rings are.")
    devices: str = option("/srv/node", doc="Where the devices are mounted.")
    mount_check: bool = option(
        True, parse=boolean, doc="Skip devices that are no mount points."
    )
    recon_cache_path: str = option(
        "/var/cache/swift", doc="Where facts for recon are left."
    )
    daemonize: bool = option(True, parse=boolean, doc="false is like --once.")
    eventlet_debug: bool = option(
        False,
        parse=boolean,
        doc="Log what is raised in the scheduler itself, where no job is.",
    )
    fallocate_reserve: Reserve = option(
        _DEFAULT_RESERVE, parse=reserve, doc="Free space to keep on a device."
    )
    disable_fallocate: bool = option(False, parse=boolean, doc="Do not preallocate.")
    bind_ip: str = option("0.0.0.0", doc="Address of this node's server.")  # noqa: S104
    bind_port: int = option(0, parse=port, doc="Port of this node's server.")
    ring_ip: str = option("", doc="Our address in the rings, if not bind_ip.")
    nice_priority: int | None = option(
        None, parse=optional(int), doc="Niceness of the process, -20 to 19."
    )
    ionice_class: str = option("", parse=io_class, doc="IOPRIO_CLASS_RT, _BE or _IDLE.")
    ionice_priority: int | None = option(
        None, parse=optional(io_priority), doc="Priority within the class, 0 to 7."
    )


class Pause(Enum):
    """How long to sleep before the first pass, or after one."""

    NONE = "none"
    RANDOM = "random × interval"
    REST = "rest of the interval"
    RANDOM_REST = "random × rest of the interval"
    FULL = "full interval"


@dataclass(frozen=True)
class Scope:
    """What one run of passes is limited to; empty means everything.

    once: a single pass. devices: names. partitions, policies: numbers. extra: what only
    one kind of daemon knows (`processes`, `zero_byte_fps`), by option name.
    """

    once: bool = False
    devices: tuple[str, ...] = ()
    partitions: tuple[int, ...] = ()
    policies: tuple[int, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def is_limited(self) -> bool:
        """True when the pass sees a part only; its totals are no totals then."""
        return bool(self.devices or self.partitions or self.policies)


@dataclass(frozen=True)
class Frame:
    """What a daemon is given by its process.

    conf: the whole file that it was started with, None in tests that have none.
    """

    cluster: Cluster
    log: Logger
    metrics: Metrics
    conf: ConfFile | None = None


class Daemon(Generic[J]):
    """One kind of background work.

    section: of the .conf file, also the log name. first_pause, pause: see `Pause`.
    """

    section: ClassVar[str] = ""
    Config: ClassVar[type[Any]] = DaemonConfig
    first_pause: ClassVar[Pause] = Pause.RANDOM
    pause: ClassVar[Pause] = Pause.REST

    def __init__(self, config: Any, frame: Frame) -> None:
        self.config = config
        self.frame = frame
        self.cluster = frame.cluster
        self.log = frame.log
        self.metrics = frame.metrics

    @property
    def concurrency(self) -> int:
        """Jobs in flight in one process."""
        return 1

    @property
    def jobs_per_second(self) -> float:
        """Jobs begun a second, 0 for no limit."""
        return 0.0

    @property
    def progress_s(self) -> float:
        """Time between progress lines."""
        return PROGRESS_S

    def shares(self, scope: Scope) -> Sequence[Scope]:
        """The scopes of the worker processes; none means to work in this process."""
        return ()

    def shares_changed(self) -> bool:
        """True when the workers must be dealt anew (the rings or devices changed)."""
        return False

    def check(self, scope: Scope) -> None:
        """Called once, before anything runs. Raises SwiftError for a scope that cannot
        be: the daemon does not start then.
        """

    def begin(self, scope: Scope) -> None:
        """Called before the jobs of a pass."""

    def jobs(self, scope: Scope) -> Iterable[J]:
        """The jobs of one pass; read lazily."""
        raise NotImplementedError

    def handle(self, job: J) -> None:
        """Do one job. Yields. An exception counts as the job's failure."""
        raise NotImplementedError

    def progress(self, tally: Tally) -> None:
        """Say how far the pass is; the default is one line."""
        self.log.info("%s: %s", self.section, tally.line())

    def end(self, scope: Scope, tally: Tally) -> None:
        """Called after the jobs of a pass, also when some failed."""


@dataclass
class Tally:
    """How far one pass is.

    total: jobs expected, when the daemon knows (0 when not).
    """

    started: float
    handled: int = 0
    failed: int = 0
    total: int = 0

    @property
    def elapsed_s(self) -> float:
        """Time since the pass began."""
        return max(1e-6, green.monotonic() - self.started)

    @property
    def per_second(self) -> float:
        """Jobs a second so far."""
        return self.handled / self.elapsed_s

    @property
    def remaining_s(self) -> float | None:
        """Time the rest will take at this rate; None when the total is not known."""
        if not self.total or not self.handled:
            return None
        return max(0, self.total - self.handled) / self.per_second

    def line(self) -> str:
        """Done, rate and what is left, for people."""
        text = f"{self.handled}"
        if self.total:
            percent = 100.0 * self.handled / self.total
            text += f"/{self.total} ({percent:.2f}%)"
        text += f" done in {self.elapsed_s:.2f}s ({self.per_second:.2f}/sec"
        left = self.remaining_s
        if left is not None:
            text += f", {_spell(left)} remaining"
        return f"{text}), {self.failed} failed"


def _spell(time_s: float) -> str:
    for unit_s, letter in ((3600, "h"), (60, "m")):
        if time_s >= unit_s:
            return f"{time_s / unit_s:.0f}{letter}"
    return f"{time_s:.0f}s"


class RateLimiter:
    """Spreads events over time; unused time is kept up to a buffer."""

    def __init__(self, per_second: float, buffer_s: float = 5.0) -> None:
        self._interval_s = 1.0 / per_second if per_second > 0 else 0.0
        self._buffer_s = buffer_s
        self._next = 0.0

    def wait(self, events: float = 1.0) -> None:
        """Sleep until the next event may begin. Yields."""
        if not self._interval_s:
            return
        now = green.monotonic()
        self._next = max(self._next, now - self._buffer_s)
        due = self._next
        self._next += events * self._interval_s
        if due > now:
            green.sleep(due - now)


def run_pass(daemon: Daemon[J], scope: Scope) -> Tally:
    """Run one pass to its end. Yields."""
    tally = Tally(started=green.monotonic())
    daemon.begin(scope)
    limiter = RateLimiter(daemon.jobs_per_second)
    pool = green.Pool(daemon.concurrency)
    next_progress = tally.started + daemon.progress_s

    def handle(job: J) -> None:
        try:
            daemon.handle(job)
        # The one loop that must live on: whatever a job meets, the others are tried.
        except (Exception, green.Timeout):
            tally.failed += 1
            daemon.log.exception("%s: %r failed", daemon.section, job)
        tally.handled += 1

    try:
        for job in daemon.jobs(scope):
            limiter.wait()
            if daemon.concurrency == 1:
                handle(job)
            else:
                pool.spawn(handle, job)
            if green.monotonic() >= next_progress:
                daemon.progress(tally)
                next_progress = green.monotonic() + daemon.progress_s
        pool.wait_all()
    finally:
        pool.kill_all()
        daemon.end(scope, tally)
    return tally


def run_passes(daemon: Daemon[J], scope: Scope) -> None:
    """Run one pass, or passes forever. Yields."""
    if scope.once:
        _guarded_pass(daemon, scope)
        return
    interval_s = daemon.config.interval_s
    if daemon.first_pause is Pause.RANDOM:
        green.sleep(random.random() * interval_s)  # noqa: S311 (spreads load)
    while True:
        began = green.monotonic()
        _guarded_pass(daemon, scope)
        rest_s = max(0.0, began + interval_s - green.monotonic())
        pauses = {
            Pause.REST: rest_s,
            Pause.RANDOM_REST: random.random() * rest_s,  # noqa: S311
            Pause.FULL: interval_s,
        }
        # A pass that fails at once must not become a busy loop, whatever the options.
        green.sleep(max(0.1, pauses.get(daemon.pause, 0.0)))


def _guarded_pass(daemon: Daemon[J], scope: Scope) -> None:
    try:
        run_pass(daemon, scope)
    except (Exception, green.Timeout):
        daemon.log.exception(
            "%s: pass failed, the next one tries again", daemon.section
        )


class Workers:
    """The forked processes of one daemon, one a share; the dead are replaced.

    They end with this process, however it ends: nobody would stop or replace them, and
    the next start of the daemon would have them work beside its own.
    """

    def __init__(self, daemon: Daemon[Any], scope: Scope) -> None:
        self._daemon = daemon
        self._scope = scope
        self._pids: dict[int, tuple[int, Scope]] = {}
        self._life: tuple[int, int] = (-1, -1)

    def run(self, shares: Sequence[Scope]) -> None:
        """Fork, then watch over the workers: until all are done (once), or forever."""
        # Only this process keeps the end for writing, so it closes when we are gone.
        self._life = os.pipe2(os.O_CLOEXEC)
        try:
            self._run(shares)
        finally:
            for descriptor in self._life:
                os.close(descriptor)

    def _run(self, shares: Sequence[Scope]) -> None:
        while True:
            for index, share in enumerate(shares, 1):
                self._fork(index, len(shares), share)
            if self._watch():
                return
            shares = self._daemon.shares(self._scope)

    def _watch(self) -> bool:
        """True when the work is done; False when it must be dealt anew."""
        while True:
            for pid, (index, share) in self._dead():
                if self._scope.once:
                    continue
                self._daemon.log.notice("worker %s died, a new one starts", pid)
                self._fork(index, len(self._pids) + 1, share)
            if self._scope.once and not self._pids:
                return True
            if not self._scope.once and self._daemon.shares_changed():
                self.stop()
                return False
            green.sleep(REAP_S if not self._scope.once else 0.1)

    def _fork(self, index: int, count: int, share: Scope) -> None:
        pid = os.fork()
        if pid:
            self._pids[pid] = (index, share)
            return
        code = 1
        try:
            green.after_fork()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.close(self._life[1])
            green.Watch(self._life[0], lambda: os._exit(1))
            prefix = f"[worker {index}/{count} pid={os.getpid()}] "
            self._daemon.log = self._daemon.log.with_prefix(prefix)
            run_passes(self._daemon, share)
            code = 0
        finally:
            os._exit(code)

    def _dead(self) -> Iterator[tuple[int, tuple[int, Scope]]]:
        for pid in list(self._pids):
            done, _status = os.waitpid(pid, os.WNOHANG)
            if done:
                yield pid, self._pids.pop(pid)

    def stop(self) -> None:
        """End all workers and wait for them."""
        for pid in self._pids:
            os.kill(pid, signal.SIGTERM)
        for pid in list(self._pids):
            os.waitpid(pid, 0)
            del self._pids[pid]


def in_child(work: Callable[[], object], log: Logger) -> bool:
    """Do `work` in a forked process; True when it came to its end. Yields.

    What the work keeps in memory is gone with its process, and what it breaks too. The
    child dies with the caller.
    """
    pid = os.fork()
    if not pid:
        _be_child(work, log)
    ended = 0
    try:
        with suppress(OSError):  # a kernel before 5.3, or the limit of descriptors
            descriptor = os.pidfd_open(pid)
            try:
                green.wait_readable(descriptor)
            finally:
                os.close(descriptor)
        ended, status = os.waitpid(pid, os.WNOHANG)
        while not ended:
            green.sleep(CHILD_POLL_S)
            ended, status = os.waitpid(pid, os.WNOHANG)
    finally:
        if not ended:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    if status:
        log.error("child process %d ended with status %d", pid, status)
    return not status


def _be_child(work: Callable[[], object], log: Logger) -> NoReturn:
    code = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        green.after_fork()
        work()
        code = 0
    # Beyond lies the parent's code, which must not run twice.
    except BaseException:
        log.exception("child process %d failed", os.getpid())
    finally:
        os._exit(code)


def run(daemon: Daemon[Any], scope: Scope) -> None:
    """Run a daemon in this process, or in the workers that it asks for."""
    shares = daemon.shares(scope)
    if shares:
        Workers(daemon, scope).run(shares)
    else:
        run_passes(daemon, scope)
