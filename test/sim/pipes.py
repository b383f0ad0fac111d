# SPDX-License-Identifier: Apache-2.0
"""Connections in memory, in the place of sockets: two ends, and what wakes who waits.

They behave as a pair of stream sockets does, but for three things: a sender never has
to wait, nothing is spliced, and an event is one entry in the hub's queue of what is
ready. A history opens hundreds of them, and the kernel's cost more than all else there
is to a message.
"""

from __future__ import annotations

import errno
import os
import select
import socket
from itertools import count

from swift.runtime import green
from swift.runtime.scheduler.hub import this_hub
from swift.wire.channel import Channel

_DATA = select.EPOLLIN
_END = select.EPOLLIN | select.EPOLLRDHUP
_numbers = count(1)


def connected():
    """Two channels; what is sent into one comes out of the other."""
    one, other = _End(), _End()
    one.peer, other.peer = other, one
    return PipeChannel(one), PipeChannel(other)


class _End:
    """What a channel takes for its socket."""

    def __init__(self):
        self.peer = None
        self.number = -next(_numbers)
        """In the place of a descriptor; no real one is negative."""
        self.watch = None
        self.waiting = bytearray()
        self._is_closed = False
        self._has_ended = False
        self._was_reset = False
        self._events = 0

    def recv(self, size, flags=0):
        if self._is_closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self.waiting:
            data = bytes(self.waiting[:size])
            if not flags & socket.MSG_PEEK:
                del self.waiting[:size]
            return data
        if self._was_reset:
            self._was_reset = False
            raise ConnectionResetError(errno.ECONNRESET, "the peer is gone")
        if self._has_ended:
            return b""
        raise BlockingIOError

    def send(self, data, flags=0):
        if self._is_closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if self.peer._is_closed or self._no_more:
            raise BrokenPipeError(errno.EPIPE, "the peer is gone")
        self.peer.waiting += data
        self.peer.tell(_DATA)
        return len(data)

    def sendmsg(self, parts):
        return self.send(b"".join(parts))

    _no_more = False

    def shutdown(self, how):
        if how == socket.SHUT_WR:
            self._no_more = True
            self.peer.end()
        else:
            self.end()

    def close(self):
        if self._is_closed:
            return
        self._is_closed = True
        # What is closed unread is refused, as the kernel does.
        self.peer._was_reset = bool(self.waiting)
        self.peer.end()

    def end(self):
        """Nothing comes after what waits."""
        self._has_ended = True
        self.tell(_END)

    def tell(self, event):
        """Let the hub dispatch an event soon."""
        if not self._events:
            this_hub().ready.append(self._dispatch)
        self._events |= event

    def _dispatch(self):
        event, self._events = self._events, 0
        if not self.watch.closed:
            self.watch.dispatch(event)


class _Watch(green.Watch):
    """The watch of an end, of which epoll knows nothing."""

    __slots__ = ()

    def __init__(self, end):
        self._hub = this_hub()
        self._mask = 0
        self._ready = False
        self._ended = False
        self.callback = None
        self.fileno = end.number
        self.reader = None
        self.writer = None
        self.read_deadline = 0.0
        self.write_deadline = 0.0
        self._hub.watches[self.fileno] = self

    def writable(self, timeout_s=None):
        return True


class PipeChannel(Channel):
    """A channel over an end."""

    __slots__ = ()

    def __init__(self, end):
        self.sock = end
        self.watch = end.watch = _Watch(end)
        self._drained = False
        self._streak = 0
        self._low_water = 1

    can_splice = False

    def _set_low_water(self, count):
        self._low_water = count

    def _arrived(self):
        return len(self.sock.waiting)

    def send_file(self, fileno, offset, count, timeout_s):
        data = os.pread(fileno, count, offset)
        self.send(data, timeout_s)
        return len(data)
