# SPDX-License-Identifier: Apache-2.0
"""Waiting for descriptors: each stays registered with epoll for as long as it lives."""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from greenlet import getcurrent

from swift.runtime.scheduler.hub import Hub, this_hub

COARSE_S = 3.0  # waits at least this long are ended by the hub's sweep
_READ_EVENTS = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_END_EVENTS = select.EPOLLRDHUP | select.EPOLLHUP
_WRITE_EVENTS = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
_INTEREST = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET


class Watch:
    """The hub's lasting interest in one descriptor.

    Events are edge triggered: call `readable` or `writable` only after the operation
    would have blocked, or, for reading, after it returned less than was asked for. One
    thread may wait for each direction. `close` before the descriptor is closed.
    """

    __slots__ = (
        "_ended",
        "_hub",
        "_mask",
        "_ready",
        "callback",
        "fileno",
        "read_deadline",
        "reader",
        "write_deadline",
        "writer",
    )

    def __init__(
        self, fileno: int, callback: Callable[[], object] | None = None
    ) -> None:
        """callback: called from the hub when readable while no thread waits for it."""
        self._hub: Hub | None = this_hub()
        self._mask = _INTEREST
        self._ready = False
        self._ended = False  # the other side has closed: reading never blocks again
        self.callback = callback
        self.fileno = fileno
        self.reader: Any = None
        self.writer: Any = None
        self.read_deadline = 0.0
        self.write_deadline = 0.0
        self._hub.poll.register(fileno, _INTEREST)
        self._hub.watches[fileno] = self

    def dispatch(self, event: int) -> None:
        """Wake who waits for these events (called by the hub)."""
        if event & _READ_EVENTS:
            if event & _END_EVENTS:
                self._ended = True
            thread = self.reader
            if thread is not None:
                self.reader = None
                thread.switch(True)
            else:
                self._ready = True
                if self.callback is not None:
                    self.callback()
        if event & _WRITE_EVENTS:
            thread = self.writer
            if thread is not None:
                self.writer = None
                thread.switch(True)

    def expire(self, moment: float) -> None:
        """End the waits whose time is up (called by the hub)."""
        thread = self.reader
        if thread is not None and 0 < self.read_deadline <= moment:
            self.reader = None
            thread.switch(False)
        thread = self.writer
        if thread is not None and 0 < self.write_deadline <= moment:
            self.writer = None
            thread.switch(False)

    def readable(self, timeout_s: float | None = None) -> bool:
        """True when a read is worth trying, False when the time is up. Yields.

        A limit of 3 s or more may be overrun by a second.
        """
        hub = self._hub
        if self._ready or self._ended or hub is None:
            self._ready = False
            return True
        assert self.reader is None, "two threads read one descriptor"
        timer = None
        if timeout_s is not None:
            if timeout_s >= COARSE_S:
                self.read_deadline = hub.clock() + timeout_s
                if not hub.sweeping:
                    hub.start_sweep()
            else:
                self.read_deadline = hub.clock() + max(timeout_s, 1e-9)
                timer = hub.schedule_call_global(
                    timeout_s, self.expire, self.read_deadline
                )
        self.reader = getcurrent()
        try:
            return hub.switch()  # type: ignore[no-any-return]
        finally:
            self.reader = None
            self.read_deadline = 0.0
            if timer is not None:
                timer.cancel()

    def is_pending(self) -> bool:
        """True when a read is worth trying now; an event counts once."""
        if self._ready or self._ended or self._hub is None:
            self._ready = False
            return True
        return False

    def writable(self, timeout_s: float | None = None) -> bool:
        """True when a write is worth trying, False when the time is up. Yields.

        A limit of 3 s or more may be overrun by a second.
        """
        hub = self._hub
        if hub is None:
            return True
        assert self.writer is None, "two threads write one descriptor"
        timer = None
        self.writer = getcurrent()
        if timeout_s is not None:
            self.write_deadline = hub.clock() + max(timeout_s, 1e-9)
            if timeout_s >= COARSE_S:
                hub.start_sweep()
            else:
                timer = hub.schedule_call_global(
                    timeout_s, self.expire, self.write_deadline
                )
        try:
            if not self._mask & select.EPOLLOUT:
                # Changing the mask reports a state that is writable already, so
                # nothing is lost between the failed write and here.
                self._mask |= select.EPOLLOUT
                hub.poll.modify(self.fileno, self._mask)
            return hub.switch()  # type: ignore[no-any-return]
        finally:
            self.writer = None
            self.write_deadline = 0.0
            if timer is not None:
                timer.cancel()

    @property
    def closed(self) -> bool:
        """True after `close`."""
        return self._hub is None

    @property
    def ended(self) -> bool:
        """True when the hub has seen that the other side closed."""
        return self._ended

    @property
    def readable_seen(self) -> bool:
        """True when an event came that no thread was waiting for."""
        return self._ready

    def abandon(self) -> None:
        """Forget the descriptor, but let a parent's epoll, which a fork shares, go on
        waking the parent."""
        self._hub = None

    def close(self) -> None:
        """Forget the descriptor; threads that wait for it are woken."""
        hub = self._hub
        if hub is None:
            return
        self._hub = None
        if hub.watches.get(self.fileno) is self:
            del hub.watches[self.fileno]
            with suppress(OSError, ValueError):
                hub.poll.unregister(self.fileno)
        for thread in (self.reader, self.writer):
            if thread is not None:
                hub.ready.append(_resume_if(self, thread))


def first_readable(
    watches: Sequence[Watch], timeout_s: float | None = None
) -> Watch | None:
    """One of several watches at which a read is worth trying. Yields.

    None when the time is up, which may be overrun as in `Watch.readable`.
    """
    for watch in watches:
        if watch.is_pending():
            return watch
    hub = this_hub()
    current = getcurrent()
    deadline = 0.0 if timeout_s is None else hub.clock() + max(timeout_s, 1e-9)
    timer = None
    for watch in watches:
        assert watch.reader is None, "two threads read one descriptor"
        watch.reader = current
        watch.read_deadline = deadline
    if timeout_s is not None:
        if timeout_s >= COARSE_S:
            hub.start_sweep()
        else:
            timer = hub.schedule_call_global(timeout_s, watches[0].expire, deadline)
    try:
        if not hub.switch():
            return None
        # The one that woke us has let go of its reader.
        return next(watch for watch in watches if watch.reader is not current)
    finally:
        for watch in watches:
            if watch.reader is current:
                watch.reader = None
            watch.read_deadline = 0.0
        if timer is not None:
            timer.cancel()


def _resume_if(watch: Watch, thread: Any) -> Callable[[], None]:
    def resume() -> None:
        if watch.reader is thread:
            watch.reader = None
            thread.switch(True)
        elif watch.writer is thread:
            watch.writer = None
            thread.switch(True)

    return resume


def _fileno(descriptor: Any) -> int:
    return descriptor if isinstance(descriptor, int) else int(descriptor.fileno())


def wait_readable(descriptor: Any, timeout_s: float | None = None) -> bool:
    """True when a socket or descriptor can be read, False at the timeout. Yields.

    For descriptors that are waited for often, keep a `Watch`.
    """
    return _wait_once(descriptor, timeout_s, writing=False)


def wait_writable(descriptor: Any, timeout_s: float | None = None) -> bool:
    """True when a socket or descriptor can be written, False at the timeout. Yields."""
    return _wait_once(descriptor, timeout_s, writing=True)


def _wait_once(descriptor: Any, timeout_s: float | None, *, writing: bool) -> bool:
    fileno = _fileno(descriptor)
    watch = this_hub().watches.get(fileno)
    if watch is not None:
        # The state is asked for, not the edge, which may have been seen long ago.
        ready = select.poll()
        ready.register(fileno, select.POLLOUT if writing else select.POLLIN)
        if ready.poll(0):
            return True
        return watch.writable(timeout_s) if writing else watch.readable(timeout_s)
    watch = Watch(fileno)
    try:
        return watch.writable(timeout_s) if writing else watch.readable(timeout_s)
    finally:
        watch.close()
