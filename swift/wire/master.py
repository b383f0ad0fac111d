# SPDX-License-Identifier: Apache-2.0
"""The processes of a server: a master, the workers that share a port, and signals.

`Master` binds a socket per worker (SO_REUSEPORT: the kernel spreads connections, and no
worker wakes in vain), forks the workers, replaces those that die, and answers signals:

TERM: end now. HUP: let requests in flight finish, and exit. USR1: run this program
anew, if it would start; the old workers serve until the new ones are ready, and then
finish. A master that serves alone finishes its own requests first, while its socket
queues the new ones for the program that goes on.

Contract: config §7 (process model and signals).
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from swift.core.errors import ConfigError
from swift.runtime import green
from swift.runtime.process import READY, RELOADING, STOPPING, Notifier
from swift.wire.protocol import Log, WsgiApp
from swift.wire.server import Server, ServerOptions, listen

OLD_WORKERS = "SWIFT_OLD_WORKERS"
"""Environment: `fd:pid,pid` of the workers that a re-executed master takes over."""
OLD_LISTENERS = "SWIFT_OLD_LISTENERS"
"""Environment: `fd,fd`, the sockets of a master that served alone, still listening."""

_POLL_S = 0.5  # the longest that a dead worker stays unnoticed
_RESPAWN_S = 1.0  # at least between two starts of one worker that fails at once
_STOP_S = 5.0  # for workers to die of TERM before they are killed
_READY_S = 120.0  # for a new worker to load its application
_GC_THRESHOLDS = (20_000, 20, 20)
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


class MasterLog(Log, Protocol):
    """What a master needs of a logger."""

    def error(self, message: str, *args: Any) -> None:
        """Somebody must look."""


@dataclass(slots=True)
class _Slot:
    """The place of one worker: its socket outlives it."""

    port: int
    listener: socket.socket
    pid: int = 0
    ready_fd: int = -1  # read end; -1 once it is ready
    started_s: float = 0.0


class Master:
    """Runs the workers of one server, as its parent process.

    make_app: called in each worker after the fork; what it raises ends the worker.
    ports: for servers_per_port; the ports that are to be served now, asked for again
    every port_check_interval, each with `workers` workers. on_worker: called in each
    worker before make_app. directory: where the program was started, for USR1.
    complaint: asked before a reload; why this program, run anew, would not start, blank
    if it would. Blocks.
    """

    def __init__(
        self,
        make_app: Callable[[], WsgiApp],
        options: ServerOptions,
        log: MasterLog,
        *,
        notifier: Notifier | None = None,
        ports: Callable[[], Collection[int]] | None = None,
        on_worker: Callable[[], object] | None = None,
        directory: str = "",
        complaint: Callable[[], str] = str,
    ) -> None:
        self._make_app = make_app
        self._options = options
        self._log = log
        self._notifier = notifier or Notifier()
        self._ports = ports
        self._on_worker = on_worker
        self._directory = directory or os.getcwd()
        self._complaint = complaint
        self._slots: list[_Slot] = []
        self._ports_checked_s = 0.0
        self._life: tuple[int, int] = (-1, -1)
        self._old_life = -1
        self._old_workers: set[int] = set()
        self._old_since_s = 0.0
        self._old_listeners: list[socket.socket] = []
        self._reloading_alone = False
        self._take_over()

    def bind(self) -> None:
        """Open the listening sockets; before privileges are dropped. ConfigError."""
        count = max(1, self._options.workers)
        for port in self._wanted_ports():
            self._slots += self._bind_port(port, count)
        for listener in self._old_listeners:  # of a port that is wanted no more
            listener.close()
        self._old_listeners.clear()
        self._ports_checked_s = green.monotonic()

    def _wanted_ports(self) -> Collection[int]:
        if self._ports is None:
            return [self._options.bind_port]
        return sorted(self._ports())

    def _bind_port(self, port: int, count: int) -> Iterator[_Slot]:
        for index in range(count):
            listener = self._inherited(port)
            if listener is None:
                # After a seamless reload the old workers still listen there.
                alone = index == 0 and not self._old_workers
                listener = listen(self._options, port, alone=alone)
            port = listener.getsockname()[1]  # 0 was the system's choice
            yield _Slot(port, listener)

    def _inherited(self, port: int) -> socket.socket | None:
        """The socket there of the program that executed us, given once."""
        for listener in self._old_listeners:
            if listener.getsockname()[:2] == (self._options.bind_ip, port):
                self._old_listeners.remove(listener)
                return listener
        return None

    @property
    def bound_ports(self) -> list[int]:
        """The ports served, once bound."""
        return sorted({slot.port for slot in self._slots})

    def run(self) -> int:
        """Serve until told to end; the exit code."""
        if not self._slots:
            self.bind()
        if self._options.workers == 0 and self._ports is None:
            return self._serve_alone()
        # Signals are taken by sigtimedwait; nothing interrupts the bookkeeping.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_SIGNALS, signal.SIGCHLD})
        self._life = os.pipe2(os.O_CLOEXEC)
        try:
            for slot in self._slots:
                self._start(slot)
            if not self._await_ready():
                self._end_all()
                return 1
            self._notifier.send(READY)
            self._retire_old()
            return self._watch()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _serve_alone(self) -> int:
        app = self._make_app()
        if self._on_worker is not None:
            self._on_worker()
        server = Server(
            app, [slot.listener for slot in self._slots], self._options, self._log
        )
        green.on_signal(signal.SIGHUP, server.stop)
        green.on_signal(signal.SIGUSR1, lambda: green.spawn(self._hand_on, server))
        green.on_signal(signal.SIGTERM, self._end_alone)
        server.start()
        self._notifier.send(READY)
        server.wait()
        if self._reloading_alone:
            self._reload()
            return 1
        self._notifier.send(STOPPING)
        return 0

    def _hand_on(self, server: Server) -> None:
        """Let a server that serves alone end, in order to run anew. Yields."""
        if self._reloading_alone:
            return
        self._reloading_alone = True
        # On a thread of its own: requests are served meanwhile.
        if green.in_thread(self._may_reload):
            self._notifier.send(RELOADING)
            server.stop(hand_on=True)
            green.sleep(self._options.stale_worker_timeout_s)
            server.close()
        else:
            self._reloading_alone = False

    def _end_alone(self) -> None:
        self._notifier.send(STOPPING)
        os._exit(0)

    # Workers

    def _start(self, slot: _Slot) -> None:
        ready_in, ready_out = os.pipe2(os.O_CLOEXEC)
        slot.started_s = green.monotonic()
        pid = os.fork()
        if pid:
            os.close(ready_out)
            slot.pid, slot.ready_fd = pid, ready_in
            return
        code = 1
        try:
            os.close(ready_in)
            self._work(slot, ready_out)
            code = 0
        except BaseException:
            self._log.exception("worker failed")
        finally:
            # Neither the parent's exit handlers nor its frames are ours to run.
            with suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _work(self, slot: _Slot, ready_out: int) -> None:
        """A worker's life."""
        for number in (*_SIGNALS, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        green.after_fork()
        for other in self._slots:
            if other is not slot:
                other.listener.close()
                if other.ready_fd >= 0:
                    os.close(other.ready_fd)
        os.close(self._life[1])
        if self._old_life >= 0:
            os.close(self._old_life)
        for number in (signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)  # until there is a server to stop
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*_SIGNALS, signal.SIGCHLD})
        # One Ctrl-C reaches the whole group; the parent says what becomes of us.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if self._on_worker is not None:
            self._on_worker()
        server = Server(self._make_app(), slot.listener, self._options, self._log)
        # What has been loaded stays: the collector need not walk it again and again,
        # and has less reason to come at all while requests make short-lived garbage.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GC_THRESHOLDS)
        for number in (signal.SIGHUP, signal.SIGUSR1):
            green.on_signal(number, server.stop)
        green.Watch(self._life[0], lambda: self._orphaned(server))
        server.start()
        os.write(ready_out, b"1")
        os.close(ready_out)
        server.wait()

    def _orphaned(self, server: Server) -> None:
        """The parent is gone: go too, unless it told us to finish our work first."""
        if not server.serving.stopping:
            os._exit(1)

    def _await_ready(self) -> bool:
        """True when all workers serve; False when one died or we were told to end."""
        deadline = green.monotonic() + _READY_S
        while waiting := [slot for slot in self._slots if slot.ready_fd >= 0]:
            if green.monotonic() > deadline:
                self._log.warning("%d workers are not ready", len(waiting))
                return True
            self._collect_ready(_POLL_S)
            if any(slot.pid == 0 for slot in self._slots):
                return False
            if signal.sigtimedwait({signal.SIGTERM, signal.SIGINT}, 0):
                return False
        return True

    def _collect_ready(self, timeout_s: float) -> None:
        """Note workers that have become ready, or died before that."""
        slots = {slot.ready_fd: slot for slot in self._slots if slot.ready_fd >= 0}
        if not slots:
            return
        poll = select.poll()
        for descriptor in slots:
            poll.register(descriptor, select.POLLIN)
        for descriptor, _ in poll.poll(timeout_s * 1000):
            slot = slots[descriptor]
            alive = bool(os.read(descriptor, 1))
            os.close(descriptor)
            slot.ready_fd = -1
            if not alive:
                with suppress(ChildProcessError):
                    os.waitpid(slot.pid, 0)
                self._log.warning("worker %d of port %d failed", slot.pid, slot.port)
                slot.pid = 0

    # The master's loop

    def _watch(self) -> int:
        while True:
            info = signal.sigtimedwait({*_SIGNALS, signal.SIGCHLD}, _POLL_S)
            number = info.si_signo if info else 0
            if number in (signal.SIGTERM, signal.SIGINT):
                self._notifier.send(STOPPING)
                self._end_all()
                return 0
            if number == signal.SIGHUP:
                self._notifier.send(STOPPING)
                self._signal_workers(signal.SIGHUP)
                return 0
            if number == signal.SIGUSR1 and self._may_reload():
                self._notifier.send(RELOADING)
                self._reload()
            self._reap()
            self._collect_ready(0)
            self._check_ports()
            self._respawn()
            self._end_stale()

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            self._old_workers.discard(pid)
            for slot in self._slots:
                if slot.pid == pid:
                    slot.pid = 0
                    if slot.ready_fd >= 0:
                        os.close(slot.ready_fd)
                        slot.ready_fd = -1
                    self._log.warning(
                        "worker %d of port %d ended with status %d",
                        pid,
                        slot.port,
                        os.waitstatus_to_exitcode(status),
                    )

    def _respawn(self) -> None:
        moment = green.monotonic()
        for slot in self._slots:
            if slot.pid or moment - slot.started_s < _RESPAWN_S:
                continue
            if not slot.listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                # Its worker was told to stop, and has shut the socket.
                slot.listener.close()
                slot.listener = listen(self._options, slot.port)
            self._start(slot)

    def _check_ports(self) -> None:
        """Open and close ports as the rings say (servers_per_port)."""
        moment = green.monotonic()
        if (
            self._ports is None
            or moment - self._ports_checked_s < self._options.port_check_interval_s
        ):
            return
        self._ports_checked_s = moment
        wanted = set(self._wanted_ports())
        for slot in [slot for slot in self._slots if slot.port not in wanted]:
            self._slots.remove(slot)
            slot.listener.close()
            if slot.pid:
                with suppress(ProcessLookupError):
                    os.kill(slot.pid, signal.SIGHUP)
        present = {slot.port for slot in self._slots}
        for port in sorted(wanted - present):
            try:
                self._slots += self._bind_port(port, max(1, self._options.workers))
            except ConfigError as error:
                self._log.warning("port is not served: %s", error)

    def _signal_workers(self, number: int) -> None:
        for slot in self._slots:
            if slot.pid:
                with suppress(ProcessLookupError):
                    os.kill(slot.pid, number)

    def _end_all(self) -> None:
        """TERM to every worker, old ones too, and wait for their end."""
        pids = {slot.pid for slot in self._slots if slot.pid} | self._old_workers
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        deadline = green.monotonic() + _STOP_S
        while pids:
            for pid in list(pids):
                try:
                    ended, _ = os.waitpid(pid, os.WNOHANG)
                except ChildProcessError:
                    ended = pid
                if ended:
                    pids.discard(pid)
            if not pids:
                return
            if green.monotonic() > deadline:
                for pid in pids:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                deadline += _STOP_S
            signal.sigtimedwait({signal.SIGCHLD}, 0.1)

    # Seamless reload

    def _may_reload(self) -> bool:
        """True when this program would start again; what is wrong goes to the log.

        Blocks: no worker is replaced meanwhile, and other signals wait their turn.
        """
        complaint = self._complaint()
        if complaint:
            self._log.error("not reloading, the old program stays: %s", complaint)
        return not complaint

    def _reload(self) -> None:
        """Become a new master with the same arguments; returns only if that fails."""
        kept = [self._life[1]] if self._life[1] >= 0 else []
        if self._reloading_alone:
            kept = [slot.listener.fileno() for slot in self._slots]
            os.environ[OLD_LISTENERS] = ",".join(map(str, kept))
        else:
            pids = [slot.pid for slot in self._slots if slot.pid]
            pids += self._old_workers
            # The workers live as long as this end is open, so it is handed on.
            os.environ[OLD_WORKERS] = f"{self._life[1]}:{','.join(map(str, pids))}"
        for descriptor in kept:
            os.set_inheritable(descriptor, True)
        self._notifier.restore_environment()
        try:
            os.chdir(self._directory)
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606
        except OSError as error:
            self._log.error("reload failed: %s", error)
            os.environ.pop(OLD_WORKERS, None)
            for descriptor in kept:
                os.set_inheritable(descriptor, False)

    def _take_over(self) -> None:
        """Learn of the workers, or the sockets, of the program that executed us."""
        for text in filter(None, os.environ.pop(OLD_LISTENERS, "").split(",")):
            os.set_inheritable(int(text), False)
            self._old_listeners.append(socket.socket(fileno=int(text)))
        text = os.environ.pop(OLD_WORKERS, "")
        if not text:
            return
        descriptor, _, pids = text.partition(":")
        self._old_life = int(descriptor)
        os.set_inheritable(self._old_life, False)
        self._old_workers = {int(pid) for pid in pids.split(",") if pid}
        self._old_since_s = green.monotonic()

    def _retire_old(self) -> None:
        """The new workers serve: let the old ones finish."""
        for pid in self._old_workers:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGHUP)

    def _end_stale(self) -> None:
        if not self._old_workers:
            return
        age_s = green.monotonic() - self._old_since_s
        if age_s > self._options.stale_worker_timeout_s:
            for pid in self._old_workers:
                self._log.warning("killing worker %d of before the reload", pid)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self._old_since_s = green.monotonic()
