# SPDX-License-Identifier: Apache-2.0
"""The heads of the requests of one connection, and what may be wrong with them.

What a malformed head is answered with is laid down in the reference of the API
(HTTP-layer behaviour).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from swift.runtime import green
from swift.wire import environ as keys
from swift.wire.channel import RECV_BYTES, Channel
from swift.wire.framing import (
    CRLF,
    HEAD_END,
    BadFraming,
    UnsupportedVersion,
    split_request_line,
)
from swift.wire.refusals import Refused, bad_request

_LAST_S = 1.0  # for a request on a connection accepted at the very end
_EMPTY_LINES_MAX = 8  # before a request line (RFC 9112 §2.2 asks for one)
_PROXY_LINE_MAX = 107  # PROXY protocol v1, section 2.1

_PROXY_LINE = re.compile(
    r"PROXY (?:(?:TCP4|TCP6) ([0-9A-Fa-f.:]+) ([0-9A-Fa-f.:]+)"
    r" ([0-9]{1,5}) ([0-9]{1,5})|UNKNOWN(?: .*)?)"
)


@dataclass(frozen=True, slots=True)
class HttpLimits:
    """What one connection may ask for; times in seconds, sizes in bytes."""

    client_timeout_s: float = 60.0
    keepalive_timeout_s: float = 60.0  # 0 closes after every answer
    max_request_line: int = 8192
    max_header_size: int = 8192
    max_headers_size: int = 65536
    max_header_count: int = 201
    require_proxy_protocol: bool = False
    trans_id_suffix: str = ""


class HeadReader:
    """Reads heads from a channel, one after the other.

    buffer: what has come of what follows the last head. idle: True while nothing has
    come of the next one.
    """

    __slots__ = ("_channel", "_limits", "buffer", "idle")

    def __init__(self, channel: Channel, limits: HttpLimits) -> None:
        self._channel = channel
        self._limits = limits
        self.buffer = b""
        self.idle = False

    def read_proxy_line(self, environ: dict[str, Any]) -> None:
        """Put into the environ what a PROXY line says of the client; raises Refused."""
        end = -1
        while end < 0:
            data = self._channel.recv(RECV_BYTES, self._limits.client_timeout_s)
            if not data:
                raise ConnectionResetError
            self.buffer += data
            end = self.buffer.find(CRLF, 0, _PROXY_LINE_MAX)
            if end < 0 and len(self.buffer) >= _PROXY_LINE_MAX:
                raise bad_request("Invalid PROXY line")
        line = self.buffer[:end].decode("latin-1")
        match = _PROXY_LINE.fullmatch(line)
        if match is None:
            raise bad_request("Invalid PROXY line")
        self.buffer = self.buffer[end + 2 :]
        if match[1] is None:
            return
        environ[keys.REMOTE_ADDR], environ[keys.REMOTE_PORT] = match[1], match[3]
        environ["SERVER_ADDR"] = environ[keys.SERVER_NAME] = match[2]
        environ[keys.SERVER_PORT] = match[4]
        if match[4] == "443":
            environ[keys.WSGI_URL_SCHEME] = "https"
            environ["HTTPS"] = "on"

    def read(self, *, stopping: bool) -> bytes:
        """A head with its empty line; `buffer` keeps what follows. Empty at the end.

        A head that comes in one piece, as nearly all do, is looked at once. stopping:
        there is no time to wait for a next one. Raises Refused, TimeoutError, OSError.
        """
        data = self.buffer
        if not data:
            limits = self._limits
            self.idle = True
            wait_s = limits.keepalive_timeout_s or limits.client_timeout_s
            if stopping:
                wait_s = min(wait_s, _LAST_S)
            data = self._channel.recv(RECV_BYTES, wait_s)
            self.idle = False
            if not data:
                return b""
        end = data.find(HEAD_END)
        if end < 0 or data[0] < 33:
            data, end = self._rest_of_head(data)
            if end < 0:
                return b""
        head = data[: end + 4]
        self.buffer = data[end + 4 :]
        return head

    def _rest_of_head(self, data: bytes) -> tuple[bytes, int]:
        """Read on until the head is whole: all bytes read, and where it ends.

        Also skips empty lines before the request, and sees to HTTP/0.9, which has no
        head. Raises Refused at the first byte that makes the head impossible.
        """
        limits = self._limits
        deadline = green.monotonic() + limits.client_timeout_s
        skipped = 0
        while True:
            while data.startswith(CRLF):
                data = data[2:]
                skipped += 1
                if skipped > _EMPTY_LINES_MAX:
                    raise bad_request("Empty lines")
            end = data.find(HEAD_END)
            if end >= 0:
                return data, end
            first = data.find(CRLF)
            self._check_partial_head(data, first)
            if first >= 0 and request_line(data[:first])[2] == "HTTP/0.9":
                return data.replace(CRLF, HEAD_END, 1), first
            more = self._channel.recv(RECV_BYTES, deadline - green.monotonic())
            if not more:
                return data, -1
            data += more

    def _check_partial_head(self, data: bytes, first: int) -> None:
        """Refuse what no further byte can make good; first: the end of line one."""
        limits = self._limits
        if first < 0:
            if b"\n" in data:
                raise bad_request("Bad line end")
            if len(data) >= limits.max_request_line:
                raise Refused("414 Request URI Too Long", bare=True)
            return
        if first >= limits.max_request_line:
            raise Refused("414 Request URI Too Long", bare=True)
        if len(data) - data.rfind(CRLF) - 2 >= limits.max_header_size:
            raise Refused("400 Header Line Too Long", bare=True)
        if len(data) - first > limits.max_headers_size + 4:
            raise Refused("400 Headers Too Large", bare=True)
        if data.endswith(b"\n\n"):
            raise bad_request("Bad line end")

    def check_lines(self, head: bytes, first: int) -> None:
        """Refuse a head with a line, or all lines, longer than allowed."""
        limits = self._limits
        if first + 2 >= limits.max_request_line:
            raise Refused("414 Request URI Too Long", bare=True)
        lines = head[first + 2 : -2].split(CRLF)
        if max(map(len, lines)) + 2 >= limits.max_header_size:
            raise Refused("400 Header Line Too Long", bare=True)
        if len(head) - first - 4 > limits.max_headers_size:
            raise Refused("400 Headers Too Large", bare=True)


def request_line(line: bytes) -> tuple[str, str, str]:
    """(method, target, protocol); raises Refused."""
    try:
        return split_request_line(line.decode("latin-1"))
    except UnsupportedVersion as error:
        raise Refused(
            "505 HTTP Version Not Supported", "HTTP/1.1 is spoken here.", bare=False
        ) from error
    except BadFraming as error:
        raise bad_request("Bad request syntax") from error
