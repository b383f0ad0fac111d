# SPDX-License-Identifier: Apache-2.0
"""Green threads, the clock, and threads for calls that block: the first of three doors.

Everything that waits in this project waits here. The scheduler is eventlet's hub, so
that filters of third parties which use eventlet work in our pipelines, with the hot
parts replaced: descriptors stay registered with epoll for life (edge triggered), waking
a thread costs no timer, and the limits of long socket waits are swept once a second
instead of being timers of their own. No other module imports eventlet or greenlet.

A descriptor that is waited for often has a `Watch`. Its user first tries the call
(recv, send), and waits only when it would block; waking up means "try again".

Waits may end by exceptions thrown in from outside: `Timeout` of an enclosing block, or
`Killed`. Both are BaseExceptions.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import threading
import time
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

# Its DNS client is not used here, and costs 18 MB and 0.3 s in every process.
os.environ.setdefault("EVENTLET_NO_GREENDNS", "yes")
with warnings.catch_warnings():
    # eventlet announces its retirement at import; this file is what replaces it.
    warnings.simplefilter("ignore")
    import eventlet.hubs
    from eventlet.hubs import epolls
    from eventlet.timeout import Timeout as _EventletTimeout
from greenlet import GreenletExit, getcurrent, greenlet

from swift.core.errors import SwiftError

T = TypeVar("T")

Killed = GreenletExit
"""What ends a thread whose `kill` was called."""

THREADS_MAX = 20
"""Default bound of the real threads behind `in_thread`."""

_COARSE_S = 3.0  # waits at least this long are ended by the sweep
_EVENTS_MAX = 256  # taken from epoll at once
_IDLE_S = 60.0  # the longest single wait of the hub
_SWEEP_S = 1.0  # so they may last this much longer than asked
_READ_EVENTS = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
_END_EVENTS = select.EPOLLRDHUP | select.EPOLLHUP
_WRITE_EVENTS = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
_INTEREST = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLET


# --- The clock ------------------------------------------------------------------------


class Clock(Protocol):
    """Where time comes from; tests install their own.

    patience_s: real time that descriptors get before `sleep` is called; 0 when all that
    can make one ready runs in this thread.
    """

    patience_s: float

    def now(self) -> float:
        """Seconds since 1970."""

    def monotonic(self) -> float:
        """Seconds since some moment; never goes back."""

    def sleep(self, seconds: float) -> None:
        """Let time pass; called when every green thread waits and nothing happens."""


class JumpingClock:
    """A clock that stands still, and jumps ahead when all are asleep."""

    patience_s = 0.002

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self._now = now
        self._monotonic = 1000.0

    def now(self) -> float:
        """Seconds since 1970, as far as this clock got."""
        return self._now

    def monotonic(self) -> float:
        """Seconds since some moment."""
        return self._monotonic

    def sleep(self, seconds: float) -> None:
        """Jump."""
        self._now += seconds
        self._monotonic += seconds


_clock: Clock | None = None
_time = time.time
_monotonic = time.monotonic


def now() -> float:
    """Seconds since 1970 (wall clock)."""
    return _time()


def monotonic() -> float:
    """Seconds since some moment; for measuring and for deadlines."""
    return _monotonic()


def install(clock: Clock | None) -> None:
    """Make a clock the time of this process, for tests; None brings the real one back.

    Sleeps and timeouts obey it: when all green threads wait and no descriptor becomes
    ready within a few real milliseconds, the clock's `sleep` is called instead of
    waiting. Timers set before the call keep the old time; install first.
    """
    global _clock, _time, _monotonic
    _clock = clock
    _time = clock.now if clock else time.time
    _monotonic = clock.monotonic if clock else time.monotonic
    hub = _hub()
    hub.clock = _monotonic
    hub.fake = clock
    hub.sweeping = False  # one that is planned may lie far off on the new clock


# --- The hub --------------------------------------------------------------------------


class _Parking:
    """One green thread's wait; woken at most once."""

    __slots__ = ("thread", "value")

    def __init__(self) -> None:
        self.thread: Any = getcurrent()
        self.value: Any = None

    def resume(self) -> None:
        """Run the thread, unless it has left already (called by the hub)."""
        thread = self.thread
        if thread is not None:
            self.thread = None
            thread.switch(self.value)

    def wake(self, value: Any = None) -> None:
        """Let the hub run the thread soon."""
        self.value = value
        _hub().ready.append(self.resume)


class _Hub(epolls.Hub):  # type: ignore[misc]
    """eventlet's epoll hub with a ready queue and lasting, edge-triggered watches."""

    @staticmethod
    def is_available() -> bool:
        """True; eventlet asks."""
        return True

    def __init__(self, clock: Any = None) -> None:
        super().__init__(clock or _monotonic)
        self.ready: deque[Callable[[], object]] = deque()
        self.watches: dict[int, Watch] = {}
        self.sweeping = False
        self.fake: Clock | None = _clock
        self.threads_busy = 0
        self.signal_pipe: tuple[int, int] | None = None
        self.signal_watch: Watch | None = None

    def drain_signals(self) -> None:
        """Empty the pipe that signals write to; their callbacks are ready already."""
        assert self.signal_pipe is not None, "there is a watch on it"
        with suppress(BlockingIOError):
            os.read(self.signal_pipe[0], 4096)

    def run(self, *_args: object, **_kwargs: object) -> None:
        """The loop: what is ready, then timers, then descriptors."""
        ready = self.ready
        self.running = True
        self.stopping = False
        try:
            while not self.stopping:
                while self.closed:
                    self.close_one()
                if self.next_timers:
                    self.prepare_timers()
                if self.timers:
                    self.fire_timers(self.clock())
                for _ in range(len(ready)):
                    callback = ready.popleft()
                    try:
                        callback()
                    except self.SYSTEM_EXCEPTIONS:
                        raise
                    except BaseException:
                        self.squelch_generic_exception(sys.exc_info())
                if ready:
                    self.wait(0)
                    continue
                if self.next_timers:
                    self.prepare_timers()
                delay = _IDLE_S
                if self.timers:
                    delay = min(delay, max(0.0, self.timers[0][0] - self.clock()))
                self.wait(delay)
            self.timers_canceled = 0
            self.timers.clear()
            self.next_timers.clear()
        finally:
            self.running = False
            self.stopping = False

    def wait(self, seconds: float | None = None) -> None:
        """Dispatch the descriptors that are ready, waiting at most so long."""
        fake = self.fake
        try:
            if fake is None or not seconds:
                events = self.poll.poll(seconds, _EVENTS_MAX)
            else:
                events = self.poll.poll(fake.patience_s)
                if not events and not self.threads_busy:
                    fake.sleep(seconds)
        except InterruptedError:
            return
        except OSError:
            return
        watches = self.watches
        classic: list[tuple[Any, int]] | None = None
        for fileno, event in events:
            watch = watches.get(fileno)
            if watch is None:
                classic = self._collect(classic, fileno, event)
                continue
            try:
                watch.dispatch(event)
            except self.SYSTEM_EXCEPTIONS:
                raise
            except BaseException:
                self.squelch_generic_exception(sys.exc_info())
        if classic:
            for listener, fileno in classic:
                try:
                    listener.cb(fileno)
                except self.SYSTEM_EXCEPTIONS:
                    raise
                except BaseException:
                    self.squelch_exception(fileno, sys.exc_info())

    def _collect(
        self, found: list[tuple[Any, int]] | None, fileno: int, event: int
    ) -> list[tuple[Any, int]]:
        """Listeners that came through eventlet's own interface (`hub.add`)."""
        found = found if found is not None else []
        noop = eventlet.hubs.hub.noop
        if event & (self.READ_MASK | self.EXC_MASK):
            found.append((self.listeners[self.READ].get(fileno, noop), fileno))
        if event & (self.WRITE_MASK | self.EXC_MASK):
            found.append((self.listeners[self.WRITE].get(fileno, noop), fileno))
        return found

    def switch(self) -> Any:
        """Run the loop until somebody switches back to the calling thread."""
        loop = self.greenlet
        if loop.dead:
            self.ensure_greenlet()
            loop = self.greenlet
        current = getcurrent()
        parent = current.parent
        if parent is not loop and parent is not None:
            # A thread that eventlet did not make: when it ends, the loop goes on.
            with suppress(ValueError):
                current.parent = loop
        return loop.switch()

    def start_sweep(self) -> None:
        """See to it that long socket waits end; at most one sweep is scheduled."""
        if not self.sweeping:
            self.sweeping = True
            self.schedule_call_global(_SWEEP_S, self._sweep)

    def _sweep(self) -> None:
        self.sweeping = False
        moment = self.clock()
        waiting = False
        for watch in list(self.watches.values()):
            if watch.read_deadline or watch.write_deadline:
                waiting = True
                watch.expire(moment)
        if waiting:
            self.start_sweep()


_local = threading.local()


def _hub() -> _Hub:
    """The hub of this (real) thread, made at the first use."""
    try:
        hub: _Hub = _local.hub
    except AttributeError:
        eventlet.hubs.use_hub(_Hub)
        hub = _local.hub = eventlet.hubs.get_hub()
    return hub


def _park(parking: _Parking, timeout_s: float | None = None) -> Any:
    """Wait for `parking.wake`; its value, or `_EXPIRED` after the timeout. Yields."""
    hub = _hub()
    timer = None
    if timeout_s is not None:
        parking.value = None
        timer = hub.schedule_call_global(max(0.0, timeout_s), _expire_parking, parking)
    try:
        return hub.switch()
    finally:
        parking.thread = None
        if timer is not None:
            timer.cancel()


class _Expired:
    """The marker that a wait returned because its time was up."""


_EXPIRED = _Expired()


def _expire_parking(parking: _Parking) -> None:
    parking.value = _EXPIRED
    parking.resume()


# --- Descriptors ----------------------------------------------------------------------


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
        self._hub: _Hub | None = _hub()
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
            if timeout_s >= _COARSE_S:
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
            if timeout_s >= _COARSE_S:
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
    hub = _hub()
    current = getcurrent()
    deadline = 0.0 if timeout_s is None else hub.clock() + max(timeout_s, 1e-9)
    timer = None
    for watch in watches:
        assert watch.reader is None, "two threads read one descriptor"
        watch.reader = current
        watch.read_deadline = deadline
    if timeout_s is not None:
        if timeout_s >= _COARSE_S:
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
    watch = _hub().watches.get(fileno)
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


# --- Threads --------------------------------------------------------------------------


class Thread(greenlet):  # type: ignore[misc]
    """A green thread; made by `spawn`."""

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        hub = _hub()
        super().__init__(self._main, hub.greenlet)
        self._call = (function, args, kwargs)
        self._result: Any = None
        self._error: BaseException | None = None
        self._ended = False
        self._joiners: list[_Parking] = []
        self._on_end: Callable[[], object] | None = None
        hub.ready.append(self._start)

    def _start(self) -> None:
        if not self._ended:
            self.switch()

    def _main(self) -> None:
        function, args, kwargs = self._call
        try:
            self._result = function(*args, **kwargs)
        except GreenletExit as error:
            self._error = error
        except BaseException as error:
            self._error = error
            if not isinstance(error, (_EventletTimeout, Exception)):
                raise  # the process is to end
            if not self._joiners and not isinstance(error, SwiftError):
                # Perhaps nobody will ever ask; a lost traceback helps no one.
                traceback.print_exception(error)
        finally:
            self._finish()

    def _finish(self) -> None:
        self._ended = True
        self._call = (_nothing, (), {})
        joiners, self._joiners = self._joiners, []
        for parking in joiners:
            parking.wake()
        if self._on_end is not None:
            self._on_end()

    @property
    def ended(self) -> bool:
        """True when the function has returned or raised, or never will run."""
        return self._ended

    @property
    def error(self) -> BaseException | None:
        """What the function raised, once it has ended."""
        return self._error

    def wait(self, timeout_s: float | None = None) -> Any:
        """The function's result, or what it raised. Yields.

        Raises TimeoutError when the thread has not ended by then. A killed thread's
        result is None.
        """
        if not self._ended:
            parking = _Parking()
            self._joiners.append(parking)
            try:
                if _park(parking, timeout_s) is _EXPIRED:
                    raise TimeoutError(f"thread still runs after {timeout_s}s")
            finally:
                if parking in self._joiners:
                    self._joiners.remove(parking)
        if self._error is not None and not isinstance(self._error, GreenletExit):
            raise self._error
        return self._result

    def kill(self) -> None:
        """End the thread by raising Killed where it waits; it runs its cleanup now."""
        if self._ended:
            return
        if not self:  # has not begun
            self._error = GreenletExit()
            self._finish()
            return
        current = getcurrent()
        if current is self:
            raise GreenletExit
        if current is not _hub().greenlet:
            # The victim runs at once; when it waits or ends, the hub brings us back.
            _Parking().wake()
        self.throw(GreenletExit)
        if not self._ended and current is not _hub().greenlet:
            with suppress(TimeoutError, Exception):
                self.wait(1.0)


def _nothing() -> None:
    """Stands in for the function of an ended thread."""


def spawn(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Thread:
    """A green thread that runs the function soon.

    Its owner joins (`wait`) or kills it. An exception is kept for `wait`.
    """
    return Thread(function, args, kwargs)


def sleep(seconds: float = 0.0) -> None:
    """Let other threads run for at least so long. Yields."""
    parking = _Parking()
    if seconds <= 0:
        parking.wake()
        _park(parking)
    else:
        _park(parking, seconds)


def yield_now() -> None:
    """Let every thread that is ready run once. Yields."""
    parking = _Parking()
    parking.wake()
    _park(parking)


def on_hub(callback: Callable[[], object]) -> None:
    """Call back from the hub soon; callable from a signal handler. Must not wait."""
    _hub().ready.append(callback)


class Timeout(_EventletTimeout):  # type: ignore[misc]
    """`with Timeout(seconds):` raises itself in the block when the time is up.

    A BaseException, so that no `except Exception` swallows it. None never expires.
    """

    def __enter__(self) -> Timeout:
        super().__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel()


# --- Meeting points -------------------------------------------------------------------


class Event(Generic[T]):
    """A value that some wait for and one sets, once."""

    def __init__(self) -> None:
        self._set = False
        self._value: T | None = None
        self._waiters: list[_Parking] = []

    def is_set(self) -> bool:
        """True after `set`, until `clear`."""
        return self._set

    def set(self, value: T | None = None) -> None:
        """Wake all waiters; later ones do not wait."""
        self._set = True
        self._value = value
        waiters, self._waiters = self._waiters, []
        for parking in waiters:
            parking.wake()

    def clear(self) -> None:
        """Make the event waitable again."""
        self._set = False
        self._value = None

    def wait(self, timeout_s: float | None = None) -> T | None:
        """The value set. Raises TimeoutError. Yields."""
        if not self._set:
            parking = _Parking()
            self._waiters.append(parking)
            try:
                if _park(parking, timeout_s) is _EXPIRED:
                    raise TimeoutError(f"not set within {timeout_s}s")
            finally:
                if parking in self._waiters:
                    self._waiters.remove(parking)
        return self._value


class Semaphore:
    """At most `value` holders at a time, first come first served."""

    def __init__(self, value: int = 1) -> None:
        self._free = value
        self._waiters: deque[_Parking] = deque()

    def acquire(self, timeout_s: float | None = None) -> bool:
        """True when held, False when the time is up. Yields when none is free."""
        if self._free > 0 and not self._waiters:
            self._free -= 1
            return True
        if timeout_s is not None and timeout_s <= 0:
            return False
        parking = _Parking()
        self._waiters.append(parking)
        granted: Any = None
        try:
            granted = _park(parking, timeout_s)
        except BaseException:
            if parking in self._waiters:
                self._waiters.remove(parking)
            elif parking.value is True:
                self.release()  # granted, but thrown out before it could run
            raise
        if granted is not True:
            if parking in self._waiters:
                self._waiters.remove(parking)
            return False
        return True

    def release(self) -> None:
        """Give it back; hands it to who waits longest."""
        if self._waiters:
            self._waiters.popleft().wake(True)
        else:
            self._free += 1

    @property
    def free(self) -> int:
        """How many could acquire now without waiting."""
        return self._free

    def __enter__(self) -> Semaphore:
        self.acquire()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.release()


class QueueEmpty(Exception):
    """Nothing came in the time given."""


class QueueFull(Exception):
    """No room came free in the time given."""


class Queue(Generic[T]):
    """First in, first out; `put` waits while it is full. maxsize 0 has no bound."""

    def __init__(self, maxsize: int = 0) -> None:
        self._items: deque[T] = deque()
        self._maxsize = maxsize
        self._getters: deque[_Parking] = deque()
        self._putters: deque[_Parking] = deque()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T, timeout_s: float | None = None) -> None:
        """Append. Raises QueueFull after the timeout. Yields only when full."""
        while 0 < self._maxsize <= len(self._items):
            if not _queue_up(self._putters, timeout_s):
                raise QueueFull
        self._items.append(item)
        if self._getters:
            self._getters.popleft().wake()

    def get(self, timeout_s: float | None = None) -> T:
        """The oldest item. Raises QueueEmpty after the timeout. Yields when empty."""
        while not self._items:
            if not _queue_up(self._getters, timeout_s):
                raise QueueEmpty
        item = self._items.popleft()
        if self._putters:
            self._putters.popleft().wake()
        if self._items and self._getters:
            self._getters.popleft().wake()
        return item


def _queue_up(waiters: deque[_Parking], timeout_s: float | None) -> bool:
    """Wait for one's turn; False at the timeout. Yields."""
    if timeout_s is not None and timeout_s <= 0:
        return False
    parking = _Parking()
    waiters.append(parking)
    try:
        return _park(parking, timeout_s) is not _EXPIRED
    except BaseException:
        if parking not in waiters and waiters:
            waiters.popleft().wake()  # pass a turn on that we cannot take
        raise
    finally:
        if parking in waiters:
            waiters.remove(parking)


class Pool:
    """At most `size` green threads at a time."""

    def __init__(self, size: int) -> None:
        self._semaphore = Semaphore(size)
        self._threads: set[Thread] = set()

    def spawn(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Thread:
        """As `spawn`, after waiting for a free place. Yields when full."""
        self._semaphore.acquire()
        thread = Thread(function, args, kwargs)
        self._threads.add(thread)
        thread._on_end = lambda: self._leave(thread)
        return thread

    def _leave(self, thread: Thread) -> None:
        self._threads.discard(thread)
        self._semaphore.release()

    @property
    def running(self) -> int:
        """How many threads have not ended."""
        return len(self._threads)

    @property
    def free(self) -> int:
        """How many can be spawned without waiting."""
        return self._semaphore.free

    def map(self, function: Callable[[Any], T], items: Any) -> Iterator[T]:
        """The results of function(item), in order; at most `size` run at a time."""
        pending: deque[Thread] = deque()
        try:
            for item in items:
                pending.append(self.spawn(function, item))
                while pending and pending[0].ended:
                    yield pending.popleft().wait()
            while pending:
                yield pending.popleft().wait()
        finally:
            for thread in pending:
                thread.kill()

    def wait_all(self) -> None:
        """Return when no thread runs. Yields."""
        while self._threads:
            thread = next(iter(self._threads))
            with suppress(Exception):
                thread.wait()

    def kill_all(self) -> None:
        """Kill every thread that runs. Yields."""
        for thread in list(self._threads):
            thread.kill()


# --- Real threads ---------------------------------------------------------------------


class _ThreadPool:
    """Real threads that run blocking calls for green ones.

    A call is one put on a queue and one switch; answers that arrive while the hub is
    busy are collected with one wake-up. Threads are started as calls wait for one, up
    to the bound, and live as long as the process.
    """

    def __init__(self, hub: _Hub, size: int) -> None:
        self._hub = hub
        self._size = size
        self._calls: SimpleQueue[Any] = SimpleQueue()
        self._done: deque[tuple[_Parking, Any, BaseException | None]] = deque()
        self._signalled = False
        self._started = 0
        self._wake_fd = (
            os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            if hasattr(os, "eventfd")
            else -1
        )
        self._pipe_out = -1
        if self._wake_fd < 0:
            self._pipe_out, self._wake_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        source = self._wake_fd if self._pipe_out < 0 else self._pipe_out
        self._watch = Watch(source, self._collect)
        self._source = source

    def call(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """The function's result from another thread. Yields."""
        hub = self._hub
        parking = _Parking()
        hub.threads_busy += 1
        if hub.threads_busy > self._started < self._size:
            self._started += 1
            threading.Thread(
                target=self._work, name=f"disk-{self._started}", daemon=True
            ).start()
        self._calls.put((parking, function, args, kwargs))
        outcome = _park(parking)
        error = outcome[1]
        if error is not None:
            raise error
        return outcome[0]

    def _work(self) -> None:
        get = self._calls.get
        done = self._done
        while True:
            call = get()
            if call is None:
                return
            parking, function, args, kwargs = call
            result = error = None
            try:
                result = function(*args, **kwargs)
            except BaseException as raised:
                error = raised
            done.append((parking, result, error))
            if not self._signalled:
                self._signalled = True
                os.write(self._wake_fd, b"\1\0\0\0\0\0\0\0")
            call = parking = function = args = kwargs = result = error = None

    def _collect(self) -> None:
        """Hand out what is done (called by the hub)."""
        if self._pipe_out >= 0:
            with suppress(BlockingIOError):
                os.read(self._source, 4096)
        # An event descriptor need not be read: every write to it is an edge.
        # Cleared before looking: an answer that comes later signals again.
        self._signalled = False
        done = self._done
        hub = self._hub
        while done:
            parking, result, error = done.popleft()
            hub.threads_busy -= 1
            parking.value = (result, error)
            try:
                parking.resume()
            except hub.SYSTEM_EXCEPTIONS:
                raise
            except BaseException:
                hub.squelch_generic_exception(sys.exc_info())

    def stop(self) -> None:
        """Let idle threads end and forget the descriptors."""
        for _ in range(self._started):
            self._calls.put(None)

    def abandon(self) -> None:
        """Close the descriptors of a pool whose threads a fork left behind."""
        self._watch.close()
        for fileno in {self._wake_fd, self._source}:
            with suppress(OSError):
                os.close(fileno)


_pool_size = THREADS_MAX


def set_threads(size: int) -> None:
    """Bound the real threads behind `in_thread`; before the first call of it."""
    global _pool_size
    _pool_size = max(1, size)


def in_thread(function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """function(*args, **kwargs) on a real thread while other green threads run. Yields.

    For calls that may block on a disk, or compute for long with the interpreter lock
    released. When the waiting thread is killed or times out, the call still runs to
    its end and the result is dropped.
    """
    try:
        pool: Threads = _local.pool
    except AttributeError:
        pool = _local.pool = _ThreadPool(_hub(), _pool_size)
    return pool.call(function, args, kwargs)  # type: ignore[no-any-return]


class Threads(Protocol):
    """Who runs the calls of `in_thread`; a simulation installs its own."""

    def call(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """The function's result, or what it raised. Yields."""


def install_threads(threads: Threads | None) -> None:
    """Let somebody else run the calls of `in_thread`, for tests; None ends that."""
    if threads is not None:
        _local.pool = threads
    elif hasattr(_local, "pool"):
        del _local.pool


def after_fork() -> None:
    """Give a forked child its own hub and thread pool. Call before anything waits.

    Green threads of the parent do not run in the child.
    """
    pool = getattr(_local, "pool", None)
    hub = getattr(_local, "hub", None)
    if isinstance(pool, _ThreadPool):
        # The parent's epoll is shared: unregistering would take its wake-up away.
        pool._watch._hub = None
        pool.abandon()
        del _local.pool
    if hub is not None:
        with suppress(OSError):
            hub.poll.close()
        if hub.signal_pipe is not None:
            signal.set_wakeup_fd(-1)
            for fileno in hub.signal_pipe:
                with suppress(OSError):
                    os.close(fileno)
        del _local.hub
        # Collecting it would end the parent's threads in here: their cleanup would
        # remove the parent's files and answer the parent's clients.
        _abandoned.append(hub)
    _signal_callbacks.clear()
    eventlet.hubs.use_hub(_Hub)
    _hub()


_abandoned: list[_Hub] = []
_signal_callbacks: dict[int, Callable[[], object]] = {}


def on_signal(number: int, callback: Callable[[], object]) -> None:
    """Call back from the hub when a signal comes. The callback must not wait.

    Only in the main thread. Replaces what was set for that signal before.
    """
    hub = _hub()
    if hub.signal_watch is None:
        hub.signal_pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        hub.signal_watch = Watch(hub.signal_pipe[0], hub.drain_signals)
        # Without it, epoll goes on waiting after the handler has run (PEP 475).
        signal.set_wakeup_fd(hub.signal_pipe[1], warn_on_full_buffer=False)
    _signal_callbacks[number] = callback
    signal.signal(number, _signalled)


def _signalled(number: int, _frame: object) -> None:
    callback = _signal_callbacks.get(number)
    if callback is not None:
        on_hub(callback)
