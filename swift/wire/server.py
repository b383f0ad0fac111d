# SPDX-License-Identifier: Apache-2.0
"""Listening sockets, and the server that accepts connections in one process.

`Server` serves until told to stop; tests and programs of one process use it directly.
The processes of a service, and their signals, are `wire/master`'s.

Contract: config §3 (options).
"""

from __future__ import annotations

import errno
import select
import socket
import ssl
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from swift.core.errors import ConfigError
from swift.runtime import green
from swift.wire import environ as keys
from swift.wire.channel import Channel, TlsChannel
from swift.wire.heads import HttpLimits
from swift.wire.protocol import (
    Log,
    ServerConnection,
    Serving,
    WsgiApp,
    base_environ,
)

CONNECTIONS_IDLE_MAX = 4096
"""Connections of a worker beyond max_clients; further ones wait in the backlog."""

_ACCEPT_PAUSE_S = 0.1  # when descriptors have run out


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Sockets and processes of one server; times in seconds.

    source: the file that says so, for messages.
    """

    source: str = "-"
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
                is_no_address = isinstance(error, socket.gaierror) or (
                    error.errno == errno.EADDRNOTAVAIL
                )
                option = "bind_ip" if is_no_address else "bind_port"
                reason = f"{ip}:{number}: {error.strerror}"
                raise ConfigError(options.source, "DEFAULT", option, reason) from error
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
        raise ConfigError(options.source, "DEFAULT", "cert_file", str(error)) from error
    return context


class Server:
    """Serves one WSGI app on listening sockets, in this process.

    The listeners are owned from here on, unless they are handed on. `start` begins to
    accept; `stop` ends that and lets requests in flight finish; `wait` returns when all
    is over.
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
        self._hands_on = False  # somebody else goes on with the listeners
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

    def stop(self, *, hand_on: bool = False) -> None:
        """Accept no more; finish what is in flight. Safe to call twice, and from a
        signal handler's callback.

        hand_on: leave the listeners open; connections queue for who accepts next.
        """
        if self.serving.stopping:
            return
        self._hands_on = hand_on
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
            watch.close()
            if not self._hands_on:
                self._close_listener(listener)
            green.on_hub(self._check_over)

    def _close_listener(self, listener: socket.socket) -> None:
        # What has been established but not accepted would be reset by closing.
        with suppress(OSError):
            self._accept_rest(listener)
        # Another process may hold the socket too; it must queue no more for us.
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RD)
        listener.close()

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
