# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 to the other servers of the cluster: the Connector that dials, kept
connections, and the pool that keeps them.

A small request is one send, a small answer one recv, and a connection whose answer has
been read to its end goes back to the pool by itself. A kept connection that its peer
has closed meanwhile is noticed and replaced; a request is sent a second time only when
nothing of an answer has come and its whole body is at hand, so that no consumed body is
ever repeated silently.

Everything that goes wrong with a peer is a PeerError, or its PeerTimeout. Tests stand
in this door: they give a pool or an uploader a `Connector` of their own.
"""

from __future__ import annotations

import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Protocol

from swift.core.errors import PeerError, PeerTimeout
from swift.core.headers import (
    CONNECTION,
    CONTENT_LENGTH,
    HOST,
    TRANSFER_ENCODING,
    Headers,
)
from swift.runtime import green
from swift.wire.channel import RECV_BYTES, Channel
from swift.wire.client_response import ClientResponse
from swift.wire.framing import (
    CRLF,
    HEAD_END,
    PREFIXES,
    BadFraming,
    joined_head,
    read_header_fields,
    split_status_line,
)

ANSWER_HEAD_MAX = 131072
"""Bytes of the head of an answer; more is taken for nonsense."""

MAX_IDLE_PER_PEER = 64
IDLE_S = 50.0  # less than the least idle limit a server has by default (60 s)

_SEND_S = 60.0  # a peer that takes no byte for so long is given up
_BODY_METHODS = frozenset(("PUT", "POST", "UPDATE", "REPLICATE"))
_INTERIM_MAX = 16  # 1xx answers in a row

_HOST = PREFIXES[HOST]
_LENGTH = PREFIXES[CONTENT_LENGTH]
_FRAMING = (_LENGTH, PREFIXES[TRANSFER_ENCODING])
_IN_PROGRESS = (errno.EINPROGRESS, errno.EAGAIN, errno.EALREADY)


class HttpConnection:
    """One connection to a peer. Requests follow each other; each waits for its answer.

    peer: `ip:port`. reusable: nothing has happened that forbids another request.
    idle_since: when it came back to its pool (monotonic), 0 while it is in use.
    fresh: no request was answered on it yet, so that a failure is the peer's and not
    that of a stale connection.
    """

    __slots__ = (
        "_buffer",
        "_head_only",
        "_on_free",
        "channel",
        "fresh",
        "idle_since",
        "peer",
        "reusable",
    )

    def __init__(
        self,
        channel: Channel,
        peer: str,
        on_free: Callable[[HttpConnection], object] | None = None,
    ) -> None:
        """on_free: called when an answer has been read and the connection is usable."""
        self.channel = channel
        channel.watch.callback = self._unasked
        self.peer = peer
        self.reusable = True
        self.fresh = True
        self.idle_since = 0.0
        self._buffer = b""
        self._head_only = False
        self._on_free = on_free

    def send_head(
        self,
        method: str,
        target: str,
        headers: Iterable[tuple[str, str]],
        body: bytes = b"",
    ) -> None:
        """Send a request's head, and a small body with it, in one call. Yields if slow.

        target: percent-encoded, with its query. Host is added when it is missing, and
        Content-Length when a body is given or the method usually has one. Raises
        PeerError, PeerTimeout.
        """
        lines = [f"{method} {target} HTTP/1.1"]
        prefixes = PREFIXES
        hosted = framed = False
        for name, value in headers:
            prefix = prefixes[name]
            if prefix == _HOST:
                hosted = True
            elif prefix in _FRAMING:
                framed = True
            lines.append(prefix + value)
        if not hosted:
            lines.insert(1, _HOST + self.peer)
        if not framed and (body or method in _BODY_METHODS):
            lines.append(f"{_LENGTH}{len(body)}")
        self._head_only = method == "HEAD"
        head = joined_head(lines)
        if len(body) <= RECV_BYTES:
            self.send(head + body if body else head)
        else:
            self._send_parts([head, body])

    def send(self, data: bytes) -> None:
        """Send bytes of the body. Yields. Raises PeerError, PeerTimeout."""
        try:
            self.channel.send(data, _SEND_S)
        except (TimeoutError, OSError) as error:
            raise self.failed(error) from error

    def send_now(self, data: bytes) -> int:
        """How many bytes of the body the kernel took at once. Raises PeerError.

        For who has other connections to see to; the rest is his to send.
        """
        try:
            return self.channel.sock.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self.failed(error) from error

    def send_chunk_now(self, data: bytes) -> bytes:
        """Send bytes as one chunk as far as the kernel takes it at once.

        What is left of the chunk, framing and all, is the caller's to `send`. Raises
        PeerError.
        """
        line = b"%x\r\n" % len(data)
        try:
            sent = self.channel.sock.sendmsg([line, data, CRLF])
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise self.failed(error) from error
        if sent == len(line) + len(data) + len(CRLF):
            return b""
        return b"".join([line, data, CRLF])[sent:]

    def send_chunk(self, data: bytes) -> None:
        """Send bytes as one chunk of a chunked body; none of no bytes. Yields."""
        if data:
            self._send_parts([b"%x\r\n" % len(data), data, CRLF])

    def end_chunks(self) -> None:
        """End a chunked body, or one of its phases. Yields."""
        self.send(b"0\r\n\r\n")

    def _send_parts(self, parts: list[bytes]) -> None:
        try:
            self.channel.send_parts(parts, _SEND_S)
        except (TimeoutError, OSError) as error:
            raise self.failed(error) from error

    def failed(self, error: OSError) -> PeerError:
        """What an error of its socket means; no other request can follow."""
        self.reusable = False
        if isinstance(error, TimeoutError):
            return PeerTimeout(self.peer, "takes no more bytes")
        return PeerError(self.peer, f"broke off: {error.strerror or error}")

    def wait_continue(self, timeout_s: float) -> ClientResponse:
        """A `100 Continue` with its headers, or the final answer. Yields.

        After a final answer that came instead, the body must not be sent; unless the
        connection is closed by reading it, it is not reused.
        """
        answer = self._answer(timeout_s)
        if answer.status >= 200:
            self.reusable = False  # the peer may still take our body for the next one
        return answer

    def response(self, timeout_s: float) -> ClientResponse:
        """The final answer of the request sent. Yields.

        timeout_s: for the head; the same limit then holds for each wait for the body.
        Raises PeerError, PeerTimeout; the connection is closed then.
        """
        for _ in range(_INTERIM_MAX):
            answer = self._answer(timeout_s)
            if answer.status >= 200:
                return answer
        self.close()
        raise PeerError(self.peer, "only interim answers")

    def _answer(self, timeout_s: float) -> ClientResponse:
        data = self._read_head(timeout_s)
        end = data.find(HEAD_END)
        first = data.find(CRLF)
        try:
            minor, status, reason = split_status_line(data[:first])
            headers = read_header_fields(data[first : end + 4])
        except BadFraming as error:
            self.close()
            raise PeerError(self.peer, f"answers nonsense: {error}") from error
        rest = data[end + 4 :]
        if status < 200:
            self._buffer = rest
            self.fresh = False
            interim = ClientResponse(self, status, reason, headers, 0, b"", timeout_s)
            interim._connection = None  # its body has ended, the exchange goes on
            return interim
        self._buffer = b""
        self.fresh = False
        wish = dict.get(headers, CONNECTION)
        if wish is None:
            if not minor:
                self.reusable = False
        elif "close" in wish.lower() or (not minor and "keep" not in wish.lower()):
            self.reusable = False
        length, chunked = self._framing(status, headers)
        if length is None and not chunked:
            self.reusable = False
        answer = ClientResponse(
            self, status, reason, headers, length, rest, timeout_s, chunked=chunked
        )
        if length == 0:
            answer._end()
        return answer

    def _framing(self, status: int, headers: Headers) -> tuple[int | None, bool]:
        """(length, chunked) of the body that follows a head (RFC 9112 §6.3)."""
        if self._head_only or status in (204, 304):
            return 0, False
        coding = dict.get(headers, TRANSFER_ENCODING)
        if coding is not None:
            if coding.lower() != "chunked":
                self.close()
                raise PeerError(self.peer, f"unknown transfer coding {coding[:80]!r}")
            return None, True
        length = dict.get(headers, CONTENT_LENGTH)
        return (int(length) if length is not None else None), False

    def _read_head(self, timeout_s: float) -> bytes:
        """Bytes that hold a whole head and what came with it."""
        data = self._buffer
        if data and HEAD_END in data:
            return data
        deadline = green.monotonic() + timeout_s
        left = timeout_s
        while True:
            try:
                more = self.channel.recv(RECV_BYTES, left)
            except TimeoutError as error:
                self.close()
                raise PeerTimeout(
                    self.peer, f"no answer within {timeout_s}s"
                ) from error
            except OSError as error:
                self._buffer = data
                self.close()
                raise self.failed(error) from error
            if not more:
                self._buffer = data
                self.close()
                raise PeerError(self.peer, "closed the connection without an answer")
            data = data + more if data else more
            if HEAD_END in data:
                return data
            if len(data) > ANSWER_HEAD_MAX:
                self.close()
                raise PeerError(self.peer, "head of the answer is too long")
            left = max(0.0, deadline - green.monotonic())

    def answer_came(self) -> bool:
        """True when `response` has not to wait for a head. Never waits.

        For who awaits several connections, after `first_readable` of their watches.
        """
        try:
            data = self.channel.recv_now(RECV_BYTES)
        except OSError:
            return True  # `response` finds the connection ended
        if data is None:
            return False
        self._buffer += data
        return not 0 < len(data) < RECV_BYTES or HEAD_END in self._buffer

    @property
    def answering(self) -> bool:
        """True when bytes of an answer have come that were not given out."""
        return bool(self._buffer)

    def finished(self, *, clean: bool) -> None:
        """The answer's body has been read; clean: and nothing came after it."""
        if not clean:
            self.reusable = False
        if not self.reusable:
            self.close()
        elif self._on_free is not None:
            self._on_free(self)

    def stale(self, *, look: bool = True) -> bool:
        """True when an idle connection has been closed by its peer, or talks unasked.

        look: ask the socket; else only what the hub has seen so far counts, which
        costs no call. A close that comes later shows as a PeerError.
        """
        watch = self.channel.watch
        if not self.reusable or watch.closed or watch.ended:
            return True
        return (look or watch.readable_seen) and self.channel.pending()

    def _unasked(self) -> None:
        """Something came while nobody read: an idle connection has been closed."""
        if self.idle_since and self.stale():
            self.close()

    def close(self) -> None:
        """Close the connection; safe to call twice."""
        self.reusable = False
        self.channel.close()


class Connector(Protocol):
    """The network door: who opens connections to peers. Tests stand in it."""

    def connect(self, ip: str, port: int, timeout_s: float) -> HttpConnection:
        """A new connection. Yields. Raises PeerError, PeerTimeout."""


class TcpConnector:
    """Opens TCP connections."""

    def connect(self, ip: str, port: int, timeout_s: float) -> HttpConnection:
        """A new connection. Yields. Raises PeerError, PeerTimeout."""
        channel = open_channel(ip, port, timeout_s)
        return HttpConnection(channel, peer_name(ip, port))


def peer_name(ip: str, port: int) -> str:
    """`ip:port`, an IPv6 address in brackets."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def open_channel(ip: str, port: int, timeout_s: float) -> Channel:
    """A connected channel, for HTTP and for other protocols (memcached). Yields.

    ip: an address; a host name is resolved by a real thread. Raises PeerError,
    PeerTimeout.
    """
    peer = peer_name(ip, port)
    try:
        family, address = _address(ip, port)
        sock = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise PeerError(peer, f"no connection: {error}") from error
    sock.setblocking(False)
    with suppress(OSError):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        code = sock.connect_ex(address)
    except OSError as error:
        sock.close()
        raise PeerError(peer, f"no connection: {error}") from error
    channel = Channel(sock)
    try:
        if code:
            _await_connected(channel, code, timeout_s)
    except TimeoutError as error:
        channel.close()
        raise PeerTimeout(peer, f"no connection within {timeout_s}s") from error
    except OSError as error:
        channel.close()
        raise PeerError(peer, f"no connection: {error.strerror or error}") from error
    except BaseException:
        channel.close()
        raise
    return channel


def _await_connected(channel: Channel, code: int, timeout_s: float) -> None:
    if code not in _IN_PROGRESS:
        raise OSError(code, os.strerror(code))
    if not channel.watch.writable(timeout_s):
        raise TimeoutError
    code = channel.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


def _address(host: str, port: int) -> tuple[int, tuple[object, ...]]:
    for family in (socket.AF_INET, socket.AF_INET6):
        with suppress(OSError):
            socket.inet_pton(family, host)
            return family, (host, port)
    found = green.in_thread(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    return found[0][0], found[0][4]


class ConnectionPool:
    """Kept connections, by peer.

    connector: dials. max_idle_per_peer: connections kept of one peer; idle_s: how long.
    """

    def __init__(
        self,
        connector: Connector | None = None,
        max_idle_per_peer: int = MAX_IDLE_PER_PEER,
        idle_s: float = IDLE_S,
    ) -> None:
        self._connector: Connector = connector or TcpConnector()
        self._max_idle = max_idle_per_peer
        self._idle_s = idle_s
        self._idle: dict[tuple[str, int], deque[HttpConnection]] = {}

    def take(self, ip: str, port: int, connect_timeout_s: float) -> HttpConnection:
        """A kept connection that looks alive, else a new one. Yields when it dials.

        It comes back by itself when an answer on it has been read to its end; else the
        taker closes it. Raises PeerError, PeerTimeout.
        """
        kept = self._kept(ip, port, look=True)
        return kept if kept is not None else self.dial(ip, port, connect_timeout_s)

    def take_kept(self, ip: str, port: int) -> HttpConnection | None:
        """A kept connection; None when none is. Never waits.

        Without a look, so it may be dead after all: for requests that can be sent anew.
        """
        return self._kept(ip, port, look=False)

    def _kept(self, ip: str, port: int, *, look: bool) -> HttpConnection | None:
        idle = self._idle.get((ip, port))
        while idle:
            # The newest first: the others grow old together and can be closed.
            connection = idle.pop()
            if (
                green.monotonic() - connection.idle_since < self._idle_s
                and not connection.stale(look=look)
            ):
                connection.idle_since = 0.0
                return connection
            connection.close()
        return None

    def dial(self, ip: str, port: int, connect_timeout_s: float) -> HttpConnection:
        """A new connection that this pool will keep. Yields. Raises PeerError."""
        connection = self._connector.connect(ip, port, connect_timeout_s)
        key = (ip, port)
        connection._on_free = lambda freed: self._keep(key, freed)
        return connection

    def _keep(self, key: tuple[str, int], connection: HttpConnection) -> None:
        idle = self._idle.get(key)
        if idle is None:
            idle = self._idle[key] = deque()
        moment = green.monotonic()
        connection.idle_since = moment
        idle.append(connection)
        # The oldest stands first; one look a time keeps the pool young.
        if len(idle) > self._max_idle or moment - idle[0].idle_since > self._idle_s:
            idle.popleft().close()

    def request(
        self,
        ip: str,
        port: int,
        method: str,
        target: str,
        headers: Iterable[tuple[str, str]],
        body: bytes = b"",
        *,
        connect_timeout_s: float,
        response_timeout_s: float,
    ) -> ClientResponse:
        """The answer to a request that is all at hand. Yields.

        When a kept connection turns out to be dead before a byte of an answer, the
        request is sent again on a new one. The answer's body is the caller's to read
        or close. Raises PeerError, PeerTimeout.
        """
        # Without a look: should it be dead after all, the request is just sent anew.
        kept = self._kept(ip, port, look=False)
        if kept is not None:
            headers = tuple(headers)
            try:
                kept.send_head(method, target, headers, body)
                return kept.response(response_timeout_s)
            except PeerTimeout:
                kept.close()
                raise
            except PeerError:
                kept.close()
                if kept.answering:
                    raise
            except BaseException:
                kept.close()
                raise
        connection = self.dial(ip, port, connect_timeout_s)
        try:
            connection.send_head(method, target, headers, body)
            return connection.response(response_timeout_s)
        except BaseException:
            connection.close()
            raise

    def idle_count(self) -> int:
        """How many connections are kept."""
        return sum(map(len, self._idle.values()))

    def close(self) -> None:
        """Close the connections that are kept."""
        for idle in self._idle.values():
            while idle:
                idle.pop().close()
        self._idle.clear()
