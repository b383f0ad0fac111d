# SPDX-License-Identifier: Apache-2.0
"""A connected stream socket under green threads: what calls recv and send.

The socket does not block. A call is tried first, and only when it would block the
thread waits for an edge from the hub, so that a request on a busy connection costs one
recv and one send. Waits have a limit and raise TimeoutError; a peer that is gone raises
OSError. TLS connections have the same interface and their own class.
"""

from __future__ import annotations

import fcntl
import os
import socket
import ssl
import sys
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from swift.core.errors import PeerError
from swift.runtime import green

RECV_BYTES = 65536
"""What one recv asks for when the amount is not known."""

BODY_BYTES = 262144
"""What one recv of a body that is passed on asks for: fewer, larger steps cost a fifth
less than steps of 64 KiB, and a slow reader holds no more than one of them."""

BULK_BYTES = 524288
"""Bytes of a large body that are waited for before they are moved."""

_JOIN_MAX = 32768  # smaller buffers are joined before sending; copying costs less
_STREAK_MAX = 32  # reads in a row without waiting, before others get their turn
_WINDOW = 1 << 20  # bytes one sendfile moves at most
_PAUSE_S = 0.1  # a sender that has paused for so long is not waited for
_CACHED = getattr(os, "RWF_NOWAIT", 0)
_NO_BYTES = bytes(4)  # room for the answer of FIONREAD


class Channel:
    """One connected socket; owns it and its watch."""

    __slots__ = ("_drained", "_low_water", "_streak", "sock", "watch")

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self.sock = sock
        self.watch = green.Watch(sock.fileno())
        self._drained = False  # the last read got less than it asked for
        self._streak = 0
        self._low_water = 1  # bytes that must have come for the hub to notice

    def recv(self, size: int, timeout_s: float | None) -> bytes:
        """At most `size` bytes; empty at the end of the stream. Yields.

        Raises TimeoutError, OSError.
        """
        if self._low_water > 1:
            self.read_as_it_comes()
        if self._drained:
            self._drained = False
            self._streak = 0
            if not self.watch.readable(timeout_s):
                raise TimeoutError("read")
        elif self._streak >= _STREAK_MAX:
            self._streak = 0
            green.yield_now()
        while True:
            try:
                data = self.sock.recv(size)
            except BlockingIOError:
                self._streak = 0
                if not self.watch.readable(timeout_s):
                    raise TimeoutError("read") from None
                continue
            if len(data) < size:
                self._drained = True
            else:
                self._streak += 1
            return data

    def recv_now(self, size: int) -> bytes | None:
        """What has arrived, at most `size` bytes; None if nothing has. Never waits."""
        self._drained = False
        try:
            data = self.sock.recv(size)
        except BlockingIOError:
            return None
        self._drained = 0 < len(data) < size
        return data

    def await_bytes(self, count: int, timeout_s: float) -> bool:
        """Wait for `count` bytes, or fewer when the peer pauses; False if none come.

        A large body is taken in large steps so: to be woken for each packet costs more
        than to move it. True may be wrong; the read then says that it would block.
        `read_as_it_comes` ends the mode. Yields.
        """
        if self.watch.closed:
            return False
        if self._arrived() >= count:
            return True
        self._set_low_water(count)
        if self.watch.readable(min(_PAUSE_S, timeout_s)) or self._arrived():
            return True
        self._set_low_water(1)
        return self.watch.readable(timeout_s)

    def read_as_it_comes(self) -> None:
        """Be woken by the first byte again."""
        self._set_low_water(1)
        self._drained = False  # bytes left behind here give no further edge

    def _set_low_water(self, count: int) -> None:
        if count != self._low_water:
            with suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
            self._low_water = count

    def _arrived(self) -> int:
        """How many bytes wait to be read."""
        with suppress(OSError):
            found = fcntl.ioctl(self.sock.fileno(), termios.FIONREAD, _NO_BYTES)
            return int.from_bytes(found, sys.byteorder)
        return 0

    def send(self, data: bytes, timeout_s: float | None) -> None:
        """Send all. Yields when the peer reads slowly. Raises TimeoutError, OSError."""
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        if sent != len(data):
            self._send_rest(memoryview(data)[sent:], timeout_s)

    def send_parts(self, parts: list[bytes], timeout_s: float | None) -> None:
        """Send buffers one after the other, in one call if they fit."""
        size = sum(map(len, parts))
        if size <= _JOIN_MAX or len(parts) > 512:
            self.send(b"".join(parts), timeout_s)
            return
        try:
            sent = self.sock.sendmsg(parts)
        except BlockingIOError:
            sent = 0
        for part in parts:
            if sent >= len(part):
                sent -= len(part)
            else:
                self._send_rest(memoryview(part)[sent:], timeout_s)
                sent = 0

    def send_more(self, data: bytes, timeout_s: float | None) -> None:
        """Send all, telling the kernel that more follows at once."""
        try:
            sent = self.sock.send(data, socket.MSG_MORE)
        except BlockingIOError:
            sent = 0
        if sent != len(data):
            self._send_rest(memoryview(data)[sent:], timeout_s)

    def _send_rest(self, rest: memoryview, timeout_s: float | None) -> None:
        while rest:
            try:
                rest = rest[self.sock.send(rest) :]
            except BlockingIOError:
                if not self.watch.writable(timeout_s):
                    raise TimeoutError("write") from None

    def send_file(
        self, fileno: int, offset: int, count: int, timeout_s: float | None
    ) -> int:
        """Send part of a file without copying it; how many bytes it had. Yields.

        Parts that are not in the page cache are read by a real thread. Raises
        TimeoutError, OSError.
        """
        out = self.sock.fileno()
        end = offset + count
        while offset < end:
            step = min(end - offset, _WINDOW)
            try:
                if _is_cached(fileno, offset, step):
                    sent = os.sendfile(out, fileno, offset, step)
                else:
                    sent = green.in_thread(os.sendfile, out, fileno, offset, step)
            except BlockingIOError:
                if not self.watch.writable(timeout_s):
                    raise TimeoutError("write") from None
                continue
            if sent == 0:
                break
            offset += sent
        return count - (end - offset)

    def pending(self) -> bool:
        """True when a byte or the end of the stream waits to be read. Never waits."""
        try:
            self.sock.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def end_sending(self) -> None:
        """Tell the peer that no more comes, and go on reading."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)

    def interrupt(self) -> None:
        """Make a waiting read return the end of the stream."""
        with suppress(OSError):
            self.sock.shutdown(socket.SHUT_RD)

    def close(self) -> None:
        """Close the socket; who waits on it gets an error."""
        self.watch.close()
        self.sock.close()

    can_splice = True


def _is_cached(fileno: int, offset: int, count: int) -> bool:
    """True when both ends of a file range are in memory, or it cannot be known.

    The kernel may still have dropped the middle: the check makes a stall unlikely, the
    read-ahead started by the thread makes it short.
    """
    if not _CACHED:
        return False
    probe = bytearray(1)
    try:
        os.preadv(fileno, [probe], offset, _CACHED)
        os.preadv(fileno, [probe], offset + count - 1, _CACHED)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


class TlsChannel(Channel):
    """A channel over a TLS socket whose handshake is still to be made.

    Only for tests and small sites, as the options that ask for it say: slower, and one
    direction at a time.
    """

    __slots__ = ()
    can_splice = False

    sock: ssl.SSLSocket

    def handshake(self, timeout_s: float | None) -> None:
        """Agree on keys. Yields. Raises TimeoutError, OSError (ssl.SSLError)."""
        self._retry(self.sock.do_handshake, timeout_s)

    def _retry(self, call: Any, timeout_s: float | None, *args: Any) -> Any:
        while True:
            try:
                return call(*args)
            except ssl.SSLWantReadError:
                ready = self.watch.readable(timeout_s)
            except ssl.SSLWantWriteError:
                ready = self.watch.writable(timeout_s)
            if not ready:
                raise TimeoutError("tls")

    def recv(self, size: int, timeout_s: float | None) -> bytes:
        """As Channel.recv."""
        try:
            data: bytes = self._retry(self.sock.recv, timeout_s, size)
        except ssl.SSLEOFError:
            return b""
        return data

    def recv_now(self, size: int) -> bytes | None:
        """As Channel.recv_now."""
        try:
            return self.sock.recv(size)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return None

    def send(self, data: bytes, timeout_s: float | None) -> None:
        """As Channel.send."""
        rest = memoryview(data)
        while rest:
            rest = rest[self._retry(self.sock.send, timeout_s, rest) :]

    def send_parts(self, parts: list[bytes], timeout_s: float | None) -> None:
        """As Channel.send_parts."""
        self.send(b"".join(parts), timeout_s)

    def send_more(self, data: bytes, timeout_s: float | None) -> None:
        """As Channel.send_more."""
        self.send(data, timeout_s)

    def send_file(
        self, fileno: int, offset: int, count: int, timeout_s: float | None
    ) -> int:
        """As Channel.send_file, but reading and encrypting the bytes."""
        done = 0
        while done < count:
            step = min(count - done, RECV_BYTES)
            data = green.in_thread(os.pread, fileno, step, offset + done)
            if not data:
                break
            self.send(data, timeout_s)
            done += len(data)
        return done

    def pending(self) -> bool:
        """As Channel.pending, as far as it can be known."""
        return self.sock.pending() > 0


def tls_dialer(
    dial: Callable[[str, int, float], Channel], context: ssl.SSLContext
) -> Callable[[str, int, float], TlsChannel]:
    """A dialer that speaks TLS over what `dial` connects.

    Dialers take host, port and a timeout in seconds, yield, and raise PeerError.
    """

    def dial_tls(host: str, port: int, timeout_s: float) -> TlsChannel:
        plain = dial(host, port, timeout_s)
        plain.watch.close()
        try:
            channel = TlsChannel(
                context.wrap_socket(
                    plain.sock, server_hostname=host, do_handshake_on_connect=False
                )
            )
            channel.handshake(timeout_s)
        except OSError as error:
            raise PeerError(f"{host}:{port}", f"TLS: {error}") from error
        return channel

    return dial_tls
