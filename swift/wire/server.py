# SPDX-License-Identifier: Apache-2.0
"""Listening sockets, the worker processes that share a port, and their signals.

`Server` accepts connections in one process and serves them until told to stop; tests
and single-process programs use it directly. `Master` binds a socket per worker
(SO_REUSEPORT: the kernel spreads connections, and no worker wakes in vain), forks the
workers, replaces those that die, and answers signals:

TERM: end now. HUP: let requests in flight finish, and exit. USR1: run this program
anew; the old workers serve until the new ones are ready, and then finish.

Contract: config §3 (options) and §7 (process model and signals).
"""

from __future__ import annotations

import errno
import gc
import os
import select
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from swift.core.errors import ConfigError
from swift.runtime import green
from swift.runtime.process import READY, RELOADING, STOPPING, Notifier
from swift.wire import environ as keys
from swift.wire.channel import Channel, TlsChannel
from swift.wire.protocol import (
    HttpLimits,
    Log,
    ServerConnection,
    Serving,
    WsgiApp,
    base_environ,
)

CONNECTIONS_IDLE_MAX = 4096
"""Connections of a worker beyond max_clients; further ones wait in the backlog."""

OLD_WORKERS = "SWIFT_OLD_WORKERS"
"""Environment: `fd:pid,pid` of the workers that a re-executed master takes over."""

_POLL_S = 0.5  # the longest that a dead worker stays unnoticed
_RESPAWN_S = 1.0  # at least between two starts of one worker that fails at once
_ACCEPT_PAUSE_S = 0.1  # when descriptors have run out
_STOP_S = 5.0  # for workers to die of TERM before they are killed
_READY_S = 120.0  # for a new worker to load its application
_GC_THRESHOLDS = (20_000, 20, 20)
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Sockets and processes of one server; times in seconds."""

    bind_ip: str = "0.0.0.0"  # noqa: S104 (the documented default)
    bind_port: int = 0
    bind_timeout_s: float = 30.0
    backlog: int = 4096
    keep_idle_s: int = 600
    workers: int = 1  # 0: serve in the master
    max_clients: int = 1024
    cert_file: str = ""
    key_file: str = ""
    stale_worker_timeout_s: float = 86400.0
    port_check_interval_s: float = 15.0
    limits: HttpLimits = field(default_factory=HttpLimits)


def listen(
    options: ServerOptions, port: int | None = None, *, alone: bool = False
) -> socket.socket:
    """A listening socket, non-blocking, whose port other sockets may share.

    port: instead of options.bind_port; 0 lets the system choose. alone: nobody else may
    listen there yet. Tries for bind_timeout while the address is taken. Raises
    ConfigError.
    """
    ip = options.bind_ip
    number = options.bind_port if port is None else port
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    deadline = green.monotonic() + options.bind_timeout_s
    while True:
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            if alone:
                _refuse_if_taken(family, ip, number)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            # Accepted sockets inherit these, which saves calls for each of them.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            sock.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, options.keep_idle_s
            )
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.bind((ip, number))
            sock.listen(options.backlog)
        except OSError as error:
            sock.close()
            if error.errno != errno.EADDRINUSE or green.monotonic() + 0.2 > deadline:
                raise ConfigError(
                    "-", "DEFAULT", "bind_port", f"{ip}:{number}: {error.strerror}"
                ) from error
            select.select([], [], [], 0.2)
            continue
        sock.setblocking(False)
        return sock


def _refuse_if_taken(family: int, ip: str, port: int) -> None:
    """Raise OSError when another server listens there.

    Sharing a port is for our own workers: with SO_REUSEPORT two servers of one user
    would both start, and the kernel would deal requests of one cluster to the other.
    """
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((ip, port))


def tls_context(options: ServerOptions) -> ssl.SSLContext | None:
    """The context of cert_file and key_file; None without them. Raises ConfigError."""
    if not options.cert_file:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(options.cert_file, options.key_file or None)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError("-", "DEFAULT", "cert_file", str(error)) from error
    return context


# --- Serving in one process -----------------------------------------------------------


class Server:
    """Serves one WSGI app on listening sockets, in this process.

    The listeners are owned from here on. `start` begins to accept; `stop` ends that
    and lets requests in flight finish; `wait` returns when all is over.
    """

    def __init__(
        self,
        app: WsgiApp,
        listeners: socket.socket | Collection[socket.socket],
        options: ServerOptions,
        log: Log,
    ) -> None:
        if isinstance(listeners, socket.socket):
            listeners = [listeners]
        self._listeners = list(listeners)
        self._options = options
        self._log = log
        self._tls = tls_context(options)
        if self._tls is not None:
            log.warning("TLS of the server itself is for tests; use a TLS terminator")
        environ = base_environ(log, scheme="https" if self._tls else "http")
        self.serving = Serving(
            app,
            log,
            options.limits,
            environ,
            green.Semaphore(max(1, options.max_clients)),
        )
        self._acceptors: list[green.Thread] = []
        self._watches: list[green.Watch] = []
        self._refusing = False  # the system lets us accept nothing; said once
        self._room = green.Event[None]()
        self._room.set()
        self._connections_max = options.max_clients + CONNECTIONS_IDLE_MAX
        self._over = green.Event[None]()

    @property
    def port(self) -> int:
        """The port of the first listener."""
        port: int = self._listeners[0].getsockname()[1]
        return port

    def start(self) -> None:
        """Begin to accept, in green threads of its own."""
        for listener in self._listeners:
            listener.setblocking(False)
            self._acceptors.append(green.spawn(self._accept, listener))

    def serve(self) -> None:
        """Accept and serve until `stop`, and all requests have finished. Yields."""
        self.start()
        self.wait()

    def stop(self) -> None:
        """Accept no more; finish what is in flight. Safe to call twice, and from a
        signal handler's callback."""
        if self.serving.stopping:
            return
        self.serving.stop()
        for watch in self._watches:
            watch.close()
        self._room.set()
        self._check_over()

    def wait(self, timeout_s: float | None = None) -> None:
        """Return when the server has stopped and is done. Yields. TimeoutError."""
        self._over.wait(timeout_s)

    def close(self) -> None:
        """Stop at once: connections are cut. Yields."""
        self.stop()
        for connection in list(self.serving.connections):
            connection.cut()
        self.wait()

    def _check_over(self) -> None:
        if (
            self.serving.stopping
            and not self.serving.connections
            and all(acceptor.ended for acceptor in self._acceptors)
        ):
            self._over.set()

    def _accept(self, listener: socket.socket) -> None:
        watch = green.Watch(listener.fileno())
        self._watches.append(watch)
        name, port = _own_name(listener)
        self.serving.base_environ[keys.SERVER_NAME] = name
        self.serving.base_environ[keys.SERVER_PORT] = port
        try:
            while not self.serving.stopping:
                self._room.wait()
                self._accept_ready(listener, watch)
        finally:
            # What has been established but not accepted would be reset by closing.
            with suppress(OSError):
                self._accept_rest(listener)
            watch.close()
            # Another process may hold the socket too; it must queue no more for us.
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RD)
            listener.close()
            green.on_hub(self._check_over)

    def _accept_ready(self, listener: socket.socket, watch: green.Watch) -> None:
        """Accept what waits, until there is no more or no room. Yields."""
        try:
            sock, address = listener.accept()
        except BlockingIOError:
            watch.readable()
            return
        except OSError as error:
            if error.errno != errno.ECONNABORTED and not self.serving.stopping:
                if not self._refusing:
                    self._log.warning("cannot accept: %s; trying on", error.strerror)
                self._refusing = True
                green.sleep(_ACCEPT_PAUSE_S)
            return
        self._refusing = False
        self._begin(sock, address)

    def _accept_rest(self, listener: socket.socket) -> None:
        while True:
            sock, address = listener.accept()
            self._begin(sock, address)

    def _begin(self, sock: socket.socket, address: tuple[Any, ...]) -> None:
        peer = (str(address[0]), str(address[1]))
        if self._tls is None:
            connection = ServerConnection(Channel(sock), self.serving, peer)
            target = self._run
        else:
            sock = self._tls.wrap_socket(
                sock, server_side=True, do_handshake_on_connect=False
            )
            connection = ServerConnection(TlsChannel(sock), self.serving, peer)
            target = self._run_tls
        serving = self.serving
        serving.connections.add(connection)
        if len(serving.connections) >= self._connections_max:
            self._room.clear()
        green.spawn(target, connection)

    def _run(self, connection: ServerConnection) -> None:
        try:
            connection.run()
        finally:
            self._left()

    def _run_tls(self, connection: ServerConnection) -> None:
        channel = connection.channel
        assert isinstance(channel, TlsChannel), "made by _begin"
        try:
            channel.handshake(self._options.limits.client_timeout_s)
        except (TimeoutError, OSError):
            self.serving.connections.discard(connection)
            channel.close()
        else:
            connection.run()
        finally:
            self._left()

    def _left(self) -> None:
        if len(self.serving.connections) < self._connections_max:
            self._room.set()
        if self.serving.stopping:
            green.on_hub(self._check_over)


def _own_name(listener: socket.socket) -> tuple[str, str]:
    address = listener.getsockname()
    return str(address[0]), str(address[1])


def serve(
    app: WsgiApp, listener: socket.socket, options: ServerOptions, log: Log
) -> None:
    """Serve an app on one listener until HUP or USR1; what a worker does. Yields."""
    server = Server(app, listener, options, log)
    for number in (signal.SIGHUP, signal.SIGUSR1):
        green.on_signal(number, server.stop)
    server.serve()


# --- Many processes -------------------------------------------------------------------


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
    """

    def __init__(
        self,
        make_app: Callable[[], WsgiApp],
        options: ServerOptions,
        log: Log,
        *,
        notifier: Notifier | None = None,
        ports: Callable[[], Collection[int]] | None = None,
        on_worker: Callable[[], object] | None = None,
        directory: str = "",
    ) -> None:
        self._make_app = make_app
        self._options = options
        self._log = log
        self._notifier = notifier or Notifier()
        self._ports = ports
        self._on_worker = on_worker
        self._directory = directory or os.getcwd()
        self._slots: list[_Slot] = []
        self._ports_checked_s = 0.0
        self._life: tuple[int, int] = (-1, -1)
        self._old_life = -1
        self._old_workers: set[int] = set()
        self._old_since_s = 0.0
        self._take_over()

    def bind(self) -> None:
        """Open the listening sockets; before privileges are dropped. ConfigError."""
        count = max(1, self._options.workers)
        for port in self._wanted_ports():
            self._slots += self._bind_port(port, count)
        self._ports_checked_s = green.monotonic()

    def _wanted_ports(self) -> Collection[int]:
        if self._ports is None:
            return [self._options.bind_port]
        return sorted(self._ports())

    def _bind_port(self, port: int, count: int) -> Iterator[_Slot]:
        for index in range(count):
            # After a seamless reload the old workers still listen there.
            alone = index == 0 and not self._old_workers
            listener = listen(self._options, port, alone=alone)
            port = listener.getsockname()[1]  # 0 was the system's choice
            yield _Slot(port, listener)

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
        for number in (signal.SIGHUP, signal.SIGUSR1):
            green.on_signal(number, server.stop)
        green.on_signal(signal.SIGTERM, self._end_alone)
        server.start()
        self._notifier.send(READY)
        server.wait()
        self._notifier.send(STOPPING)
        return 0

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
            if number == signal.SIGUSR1:
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

    def _reload(self) -> None:
        """Become a new master with the same arguments; returns only if that fails."""
        self._notifier.send(RELOADING)
        pids = [slot.pid for slot in self._slots if slot.pid]
        pids += self._old_workers
        # The workers live as long as this end is open, so it is handed on.
        os.set_inheritable(self._life[1], True)
        os.environ[OLD_WORKERS] = f"{self._life[1]}:{','.join(map(str, pids))}"
        self._notifier.restore_environment()
        try:
            os.chdir(self._directory)
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606
        except OSError as error:
            self._log.warning("reload failed, the old program stays: %s", error)
            os.environ.pop(OLD_WORKERS, None)
            os.set_inheritable(self._life[1], False)

    def _take_over(self) -> None:
        """Learn of the workers of the program that executed us."""
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
