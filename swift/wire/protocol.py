# SPDX-License-Identifier: Apache-2.0
"""The server's side of one HTTP/1.1 connection: requests in, a WSGI app, answers out.

`ServerConnection.run` reads one head after the other, strictly in order, calls the app
and sends what it returns. A request costs one recv and, when the body is a list, one
send. `RequestBody` (`wsgi.input`) reads from the socket as the app asks for bytes, so
that a slow disk slows the client down instead of filling memory; answers are pulled
from the app as fast as the client takes them, for the same reason.

What a malformed request is answered with is laid down in the reference of the API
(HTTP-layer behaviour); framing rules are RFC 9112. This room knows no application,
no option file and no process.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import responses
from typing import Any, Protocol, cast

from swift.core.errors import ClientDisconnect, ClientTimeout
from swift.core.headers import (
    CONNECTION,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    DATE,
    TRANSFER_ENCODING,
)
from swift.runtime import green
from swift.wire import environ as keys
from swift.wire.body import RequestBody
from swift.wire.channel import RECV_BYTES, Channel
from swift.wire.framing import (
    CRLF,
    PREFIXES,
    BadFraming,
    joined_head,
    read_environ_fields,
    split_target,
)
from swift.wire.heads import HeadReader, HttpLimits, request_line
from swift.wire.refusals import Refused, bad_request, date_line, refusal
from swift.wire.splicing import splice
from swift.wire.streams import FileRange, SocketSource, close_body

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_LINGER_S = 2.0  # silence after which a client that should stop sending is cut off
_LINGER_ALL_S = 30.0  # the most that such a client gets in all
_SMALL_BODY = 65536  # chunks up to this size travel with the head in one call


class Log(Protocol):
    """What this room needs of a logger."""

    def warning(self, message: str, *args: Any) -> None:
        """Something is degraded."""

    def exception(self, message: str, *args: Any) -> None:
        """An error that nobody expected, with its traceback."""


@dataclass(slots=True)
class Serving:
    """What the connections of one worker share."""

    app: WsgiApp
    log: Log
    limits: HttpLimits = field(default_factory=HttpLimits)
    base_environ: dict[str, Any] = field(default_factory=dict)
    slots: green.Semaphore = field(default_factory=lambda: green.Semaphore(1024))
    connections: set[ServerConnection] = field(default_factory=set)
    stopping: bool = False

    def stop(self) -> None:
        """Finish the requests in flight; close connections that wait for one."""
        self.stopping = True
        for connection in list(self.connections):
            if connection.heads.idle:
                connection.channel.interrupt()


def base_environ(log: Log, *, scheme: str = "http") -> dict[str, Any]:
    """The environ entries that are the same for all requests of a worker."""
    return {
        keys.SCRIPT_NAME: "",
        "GATEWAY_INTERFACE": "CGI/1.1",
        "wsgi.version": (1, 0),
        keys.WSGI_URL_SCHEME: scheme,
        keys.WSGI_ERRORS: ErrorStream(log),
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
    }


class ErrorStream(io.TextIOBase):
    """wsgi.errors: lines become log records."""

    def __init__(self, log: Log) -> None:
        super().__init__()
        self._log = log

    def write(self, text: str) -> int:
        """Log the text as a warning."""
        if text.strip():
            self._log.warning("wsgi: %s", text.rstrip())
        return len(text)

    def writable(self) -> bool:
        """True."""
        return True


# --- Heads ----------------------------------------------------------------------------


class _NoBody(RequestBody):
    """The body of all requests that have none."""

    __slots__ = ()

    def __init__(self) -> None:
        # Whoever reads it touches no channel, for it has ended.
        super().__init__(cast("Channel", None), b"", 0, 0.0)

    def continue_headers(self, headers: Iterable[tuple[str, str]]) -> None:
        """Nothing: there will be no 100."""


_NO_BODY = _NoBody()


_STATUS_LINES: dict[str, str] = {}
_STATUS_LINES_MAX = 256

_LENGTH = PREFIXES[CONTENT_LENGTH]
_CONNECTION = PREFIXES[CONNECTION]
_FRAMING = frozenset(
    (_LENGTH, _CONNECTION, PREFIXES[TRANSFER_ENCODING], PREFIXES[DATE])
)
_BODILESS = ("204", "304")
_UNSENT_BODIES = ("GET", "HEAD")  # may declare a length and send nothing

_AS_CHUNKS, _AS_FILE, _AS_SOURCE = range(3)
_WAYS: dict[type, int] = {}
_WAYS_MAX = 256


def _way(body: Any) -> int:
    """How a body is best sent; remembered by type, for asking protocols is slow."""
    if isinstance(body, SocketSource):
        way = _AS_SOURCE
    elif isinstance(body, FileRange):
        way = _AS_FILE
    else:
        way = _AS_CHUNKS
    if len(_WAYS) < _WAYS_MAX:
        _WAYS[type(body)] = way
    return way


def _status_line(status: str) -> str:
    """The first line of an answer; `status` as given to start_response."""
    line = _STATUS_LINES.get(status)
    if line is None:
        code, _, reason = status.partition(" ")
        if len(code) != 3 or not code.isdecimal():
            raise BadFraming(f"bad status {status!r}")
        line = f"HTTP/1.1 {code} {reason or responses.get(int(code), 'Unknown')}"
        if len(_STATUS_LINES) < _STATUS_LINES_MAX:
            _STATUS_LINES[status] = line
    return line


# --- One connection -------------------------------------------------------------------


class ServerConnection:
    """One client's connection: its requests are answered one after the other.

    channel: owned; `run` closes it. peer: (host, port) of the client.
    """

    __slots__ = (
        "_body",
        "_chunking",
        "_declared",
        "_head_sent",
        "_headers",
        "_keep",
        "_left",
        "_method",
        "_protocol",
        "_serving",
        "_status",
        "_timeout_s",
        "channel",
        "environ",
        "heads",
    )

    def __init__(
        self, channel: Channel, serving: Serving, peer: tuple[str, str]
    ) -> None:
        self.channel = channel
        self._serving = serving
        self._timeout_s = serving.limits.client_timeout_s
        self.heads = HeadReader(channel, serving.limits)
        self.environ = dict(serving.base_environ)
        self.environ[keys.REMOTE_ADDR], self.environ[keys.REMOTE_PORT] = peer
        self._reset()

    def _reset(self) -> None:
        self._body: RequestBody | None = None
        self._status = ""
        self._headers: list[tuple[str, str]] = []
        self._head_sent = False
        self._chunking = False
        self._declared = 0
        self._left: int | None = None  # of the declared length; None: nothing declared
        self._keep = False
        self._method = ""
        self._protocol = "HTTP/1.1"

    def cut(self) -> None:
        """End the connection now, whatever it does."""
        self._keep = False
        self.channel.watch.close()
        self.channel.sock.close()

    def run(self) -> None:
        """Serve until the connection ends; closes it. Yields."""
        serving = self._serving
        serving.connections.add(self)
        linger = False
        try:
            if serving.limits.require_proxy_protocol:
                self.heads.read_proxy_line(self.environ)
            while self._serve_one():
                pass
            body = self._body
            linger = body is not None and (body.broken or not body.finished)
        except Refused as refused:
            answer = refusal(refused, serving.limits.trans_id_suffix)
            linger = self._try_send(answer)
        except (TimeoutError, OSError):
            pass  # a silent client, or one that is gone: there is nobody to tell
        except Exception:
            serving.log.exception("connection of %s failed", self._peer())
        finally:
            try:
                if linger:
                    self._linger()
            finally:
                serving.connections.discard(self)
                self.channel.close()

    def _peer(self) -> str:
        return f"{self.environ.get(keys.REMOTE_ADDR)}"

    def _try_send(self, data: bytes) -> bool:
        try:
            self.channel.send(data, self._timeout_s)
        except (TimeoutError, OSError):
            return False
        return True

    def _linger(self) -> None:
        """Let the client read the answer before the connection breaks.

        Closing with unread bytes resets the connection and can destroy the answer on
        its way (RFC 9112 §9.6), so the client's bytes are read for a while.
        """
        channel = self.channel
        channel.end_sending()
        end = green.monotonic() + _LINGER_ALL_S
        try:
            while green.monotonic() < end and channel.recv(RECV_BYTES, _LINGER_S):
                pass
        except (TimeoutError, OSError):
            pass

    # Reading a request

    def _read_request(self) -> dict[str, Any] | None:
        """The environ of the next request, its body ready to be read; None at the end.

        Raises Refused.
        """
        head = self.heads.read(stopping=self._serving.stopping)
        if not head:
            return None
        limits = self._serving.limits
        first = head.find(CRLF)
        if len(head) >= limits.max_request_line or len(head) >= limits.max_header_size:
            self.heads.check_lines(head, first)
        method, target, protocol = request_line(head[:first])
        if head.count(b"\n") - 2 > limits.max_header_count:
            raise Refused(
                "431 Request Header Fields Too Large", "Too many headers", bare=False
            )
        environ = self.environ.copy()
        try:
            read_environ_fields(head[first:], environ)
        except BadFraming as error:
            raise Refused("400 Bad Request", bare=True) from error
        authority, raw, path, query = split_target(target)
        environ[keys.REQUEST_METHOD] = method
        environ[keys.RAW_PATH_INFO] = raw
        environ[keys.PATH_INFO] = path
        environ[keys.QUERY_STRING] = query
        environ[keys.SERVER_PROTOCOL] = protocol
        if authority:
            environ[keys.HTTP_HOST] = authority
        self._method = method
        self._protocol = protocol
        self._keep = self._wants_keep(environ, protocol)
        self._body = environ[keys.WSGI_INPUT] = self._request_body(environ)
        return environ

    def _wants_keep(self, environ: dict[str, Any], protocol: str) -> bool:
        if not self._serving.limits.keepalive_timeout_s:
            return False
        wish = environ.get("HTTP_CONNECTION")
        if wish is None:
            return protocol == "HTTP/1.1"
        wish = wish.lower()
        if protocol == "HTTP/1.1":
            return "close" not in wish
        return protocol == "HTTP/1.0" and "keep-alive" in wish

    def _request_body(self, environ: dict[str, Any]) -> RequestBody:
        length: int | None
        coding = environ.get(keys.HTTP_TRANSFER_ENCODING)
        if coding is None:
            # The parser has seen to it that the length is a number, given once.
            length = int(environ.get(keys.CONTENT_LENGTH) or 0)
        else:
            coding = coding.strip().lower()
            if "," in coding:
                raise Refused(
                    "501 Not Implemented", "Multiple transfer codings", bare=False
                )
            if coding != "chunked":
                raise bad_request("Invalid Transfer-Encoding header value")
            # Chunked wins, and nobody behind us shall believe the other (RFC 9112 §6.3)
            environ.pop(keys.CONTENT_LENGTH, None)
            length = None
            if self._protocol != "HTTP/1.1":
                self._keep = False
        if length == 0:
            return _NO_BODY
        expects = False
        if self._protocol == "HTTP/1.1":
            wish = environ.get("HTTP_EXPECT")
            expects = wish is not None and wish.lower() == "100-continue"
        body = RequestBody(
            self.channel,
            self.heads.buffer,
            length,
            self._timeout_s,
            expects_continue=expects,
        )
        self.heads.buffer = b""
        return body

    # Answering it

    def _serve_one(self) -> bool:
        """Read and answer one request; True when another may follow. Yields."""
        self._reset()
        environ = self._read_request()
        if environ is None:
            return False
        serving = self._serving
        slots = serving.slots
        slots.acquire()
        result: Any = None
        try:
            result = serving.app(environ, self._start_response)
            self._send_result(result, environ)
        except (ConnectionError, TimeoutError) as error:
            self._keep = False
            if not self._head_sent and not self._channel_failed(error):
                self._fail("500 Internal Server Error", error)
        except ClientDisconnect:
            self._answer_plainly("499 Client Disconnect")
        except ClientTimeout:
            self._answer_plainly("408 Request Timeout")
        except (Exception, green.Timeout) as error:
            self._fail("500 Internal Server Error", error)
        finally:
            slots.release()
            if result is not None:
                self._close_result(result)
            hooks = environ.get(keys.POSTHOOKS)
            if hooks:
                self._run_hooks(hooks, environ)
        if not self._keep:
            return False
        body = self._body
        assert body is not None, "a request has a body reader"
        if not body.finished and not self._rid_of(body):
            return False
        if body is not _NO_BODY:
            self.heads.buffer = body.surplus()
        if self.heads.buffer:
            green.yield_now()  # a client that pipelines is not alone here
        return not body.broken

    def _rid_of(self, body: RequestBody) -> bool:
        """True when what the app left of a body is out of the way. Yields."""
        if body.absorb():
            return True
        wait = self._method not in _UNSENT_BODIES and body.discardable()
        return wait and body.discard()

    def _channel_failed(self, error: OSError) -> bool:
        return isinstance(error, _ClientGone)

    def _close_result(self, result: Any) -> None:
        try:
            close_body(result)
        except Exception:
            self._serving.log.exception("closing the body of an answer failed")

    def _run_hooks(self, hooks: Any, environ: dict[str, Any]) -> None:
        for function, args, kwargs in hooks:
            try:
                function(environ, *args, **kwargs)
            except Exception:
                self._serving.log.exception("hook after an answer failed")

    def _fail(self, status: str, error: BaseException) -> None:
        self._serving.log.exception("request failed: %s", error)
        self._answer_plainly(status)

    def _answer_plainly(self, status: str) -> None:
        """Answer for an app that raised; when its answer has begun, cut it off."""
        self._keep = False
        if self._head_sent:
            return
        body = status.partition(" ")[2].encode()
        self._headers = [(CONTENT_TYPE, "text/plain")]
        self._status = status
        with suppress(TimeoutError, OSError):
            self._send_list([body])

    def _start_response(
        self,
        status: str,
        headers: list[tuple[str, str]],
        exc_info: Any = None,
    ) -> Callable[[bytes], None]:
        """WSGI's start_response (PEP 3333)."""
        if exc_info:
            if self._head_sent:
                raise exc_info[1].with_traceback(exc_info[2])
        elif self._status:
            raise AssertionError("start_response was called twice")
        self._status = status
        self._headers = headers
        return self._write

    def _write(self, data: bytes) -> None:
        """What start_response returns: bytes sent before the app's iterable."""
        if self._head_sent:
            self._send_chunk(data)
        else:
            self._begin(data)

    def _send_result(self, result: Any, environ: dict[str, Any]) -> None:
        if environ.get(keys.CONNECTION_CLOSE):
            self._keep = False
        kind = type(result)
        if kind is list or kind is tuple:
            if not self._status:
                raise AssertionError("start_response was not called")
            if self._head_sent:
                for part in result:
                    self._send_chunk(part)
                self._finish()
            else:
                self._send_list(result)
            return
        way = _WAYS.get(kind)
        if way is None:
            way = _way(result)
        if way == _AS_CHUNKS or self._head_sent or not self._status:
            self._send_iterable(result)
        elif way == _AS_FILE:
            self._send_file(result)
        else:
            self._send_spliced(result)
        if environ.get(keys.CONNECTION_CLOSE):
            self._keep = False

    def _bodiless(self) -> bool:
        return self._method == "HEAD" or self._status[:3] in _BODILESS

    def _send_list(self, parts: list[bytes]) -> None:
        """An answer that is all there: one call."""
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        bodiless = self._bodiless()
        length = None if bodiless and not body else len(body)
        head = self._head(length, whole=True)
        self._head_sent = True
        if bodiless:
            self._send(head)
            return
        body = self._counted(body)
        if len(body) <= _SMALL_BODY:
            self._send(head + body)
        else:
            self._send_parts([head, body])
        if self._left:
            self._cut()

    def _cut(self) -> None:
        """End the connection: the client must not take the body for whole."""
        self._keep = False
        self._serving.log.warning(
            "answer ends %d bytes short of %d", self._left, self._declared
        )

    def _head(self, known_length: int | None, *, whole: bool) -> bytes:
        """The head of the answer; decides its framing and if the connection stays.

        known_length: of the body, when the app gave none. whole: nothing can be read
        of the request's body any more. Sets _left to the length declared.
        """
        lines = [_status_line(self._status)]
        declared: str | None = None
        prefixes = PREFIXES
        for name, value in self._headers:
            prefix = prefixes[name]
            if prefix in _FRAMING:
                if prefix == _LENGTH:
                    declared = value
                elif prefix == _CONNECTION and value.lower() == "close":
                    self._keep = False
                continue
            lines.append(prefix + value)
        self._chunking = False
        if declared is None and known_length is not None:
            declared = str(known_length)
        if declared is not None:
            lines.append(_LENGTH + declared)
            self._left = self._declared = int(declared)
        elif not self._bodiless():
            if self._protocol == "HTTP/1.1":
                lines.append("Transfer-Encoding: chunked")
                self._chunking = True
            else:
                self._keep = False
        lines.append(date_line())
        body = self._body
        if body is not None and (body.broken or not body.finished):
            self._keep = self._keep and self._keep_with_unread(body, whole=whole)
        if not self._keep or self._serving.stopping:
            self._keep = False
            lines.append("Connection: close")
        elif self._protocol == "HTTP/1.0":
            lines.append("Connection: keep-alive")
        if self._protocol == "HTTP/0.9":
            return b""
        return joined_head(lines)

    def _keep_with_unread(self, body: RequestBody, *, whole: bool) -> bool:
        """Whether the connection can live on though the app left bytes unread.

        A GET or HEAD may declare a length and send nothing (backend contract §1), so
        only what has arrived counts there.
        """
        if body.expects_continue or body.broken:
            return False
        if not whole or body.absorb():
            return True  # if not whole, the app may still be reading
        return self._method not in _UNSENT_BODIES and body.discardable()

    def _send_iterable(self, result: Iterable[bytes]) -> None:
        """Send chunk after chunk, as the client takes them; closes no iterable."""
        chunks = iter(result)
        if not self._head_sent:
            first = b""
            for first in chunks:
                if first:
                    break
            if not self._status:
                raise AssertionError("start_response was not called")
            if self._bodiless():
                self._begin(b"")
                return
            self._begin(first)
            if not first:
                self._finish()
                return
        for chunk in chunks:
            if chunk:
                self._send_chunk(chunk)
        self._finish()

    def _begin(self, first: bytes) -> None:
        """Send the head with the first chunk, which may be empty."""
        body = self._body
        head = self._head(None, whole=body is None or body.finished)
        self._head_sent = True
        if not first or self._bodiless():
            self._send(head)
        elif self._chunking:
            self._send_parts([head, b"%x\r\n" % len(first), first, CRLF])
        else:
            self._send_parts([head, self._counted(first)])

    def _counted(self, chunk: bytes) -> bytes:
        """The chunk, without what exceeds the declared length."""
        left = self._left
        if left is None:
            return chunk
        if len(chunk) > left:
            self._keep = False
            self._serving.log.warning("answer longer than its declared length")
            chunk = chunk[:left]
        self._left = left - len(chunk)
        return chunk

    def _send_chunk(self, chunk: bytes) -> None:
        if self._bodiless() or not chunk:
            return
        if self._chunking:
            self._send_parts([b"%x\r\n" % len(chunk), chunk, CRLF])
        else:
            chunk = self._counted(chunk)
            if chunk:
                self._send(chunk)

    def _finish(self) -> None:
        if self._chunking:
            self._send(b"0\r\n\r\n")
        elif self._left and not self._bodiless():
            self._cut()

    def _send_file(self, body: FileRange) -> None:
        """Send a part of a file by sendfile, as far as it may be sent."""
        bodiless = self._bodiless()
        # Asked before the head goes out: what is found out now has its own status.
        passable = 0 if bodiless else body.passable(body.offset)
        head = self._head(body.length, whole=True)
        self._head_sent = True
        if bodiless:
            self._send(head)
            return
        assert self._left is not None, "a file range has a length"
        offset, end = body.offset, body.offset + min(self._left, body.length)
        self._send_more(head)
        while offset < end:
            count = min(passable or body.passable(offset), end - offset)
            sent = self._send_from_file(body.fileno(), offset, count)
            self._left -= sent
            if sent < count:
                break
            offset += sent
            passable = 0
        if self._left:
            self._cut()

    def _send_more(self, data: bytes) -> None:
        try:
            self.channel.send_more(data, self._timeout_s)
        except (TimeoutError, OSError) as error:
            raise _ClientGone(str(error)) from error

    def _send_from_file(self, fileno: int, offset: int, count: int) -> int:
        try:
            return self.channel.send_file(fileno, offset, count, self._timeout_s)
        except (TimeoutError, OSError) as error:
            raise _ClientGone(str(error)) from error

    def _send_spliced(self, body: SocketSource) -> None:
        """Send a body that comes from another socket, in the kernel if it can be.

        Where its source breaks off, the body itself is asked for the rest.
        """
        source = body.spliceable() if self.channel.can_splice else None
        if source is None or self._bodiless():
            self._send_iterable(body)
            return
        first = body.take_buffered()
        head = self._head(len(first) + body.unread_length, whole=True)
        self._head_sent = True
        self._send_parts([head, self._counted(first)])
        count = min(self._left or 0, body.unread_length)
        if count:
            try:
                moved = splice(
                    source, self.channel, count, self._timeout_s, body.await_bytes
                )
            except (TimeoutError, OSError) as error:
                raise _ClientGone(str(error)) from error
            self._left = (self._left or 0) - moved
            body.skipped(moved)
            if moved < count:
                for chunk in body:
                    self._send_chunk(chunk)
        if self._left:
            self._cut()

    def _send(self, data: bytes) -> None:
        try:
            self.channel.send(data, self._timeout_s)
        except (TimeoutError, OSError) as error:
            raise _ClientGone(str(error)) from error

    def _send_parts(self, parts: list[bytes]) -> None:
        try:
            self.channel.send_parts(parts, self._timeout_s)
        except (TimeoutError, OSError) as error:
            raise _ClientGone(str(error)) from error


class _ClientGone(ConnectionError):
    """The client does not take the answer."""
