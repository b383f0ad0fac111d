# SPDX-License-Identifier: Apache-2.0
"""The loop that runs whatever is ready, then timers, then descriptors.

It is eventlet's hub with the hot parts replaced: see `runtime/green`, the door to it.
"""

from __future__ import annotations

import os
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from heapq import heapify
from itertools import count
from typing import TYPE_CHECKING, Any

from greenlet import getcurrent

# Its DNS client is not used here, and costs 18 MB and 0.3 s in every process.
os.environ.setdefault("EVENTLET_NO_GREENDNS", "yes")
with warnings.catch_warnings():
    # eventlet announces its retirement at import; this package is what replaces it.
    warnings.simplefilter("ignore")
    import eventlet.hubs
    import eventlet.timeout
    from eventlet.hubs import epolls
    from eventlet.hubs.timer import Timer

from swift.runtime.scheduler import clock as clocks
from swift.runtime.scheduler.clock import Clock

if TYPE_CHECKING:
    from swift.runtime.scheduler.watches import Watch

EventletTimeout: Any = eventlet.timeout.Timeout

_EVENTS_MAX = 256  # taken from epoll at once
_IDLE_S = 60.0  # the longest single wait of the hub
_SWEEP_S = 1.0  # so long waits for sockets may last this much longer than asked


class Parking:
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
        this_hub().ready.append(self.resume)


_timers_made = count()


class _Timer(Timer):  # type: ignore[misc]
    """Of two that are due at the same moment the older goes first.

    Eventlet's own goes by its address in memory, and a simulation would not repeat.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._number = next(_timers_made)

    def __lt__(self, other: Any) -> bool:
        return self._number < getattr(other, "_number", -1)


class Hub(epolls.Hub):  # type: ignore[misc]
    """eventlet's epoll hub with a ready queue and lasting, edge-triggered watches."""

    @staticmethod
    def is_available() -> bool:
        """True; eventlet asks."""
        return True

    def __init__(self, clock: Any = None) -> None:
        super().__init__(clock or clocks.source())
        self.ready: deque[Callable[[], object]] = deque()
        self.watches: dict[int, Watch] = {}
        self.sweeping = False
        self._sweep_timer: Any = None
        self.fake: Clock | None = clocks.installed()
        self.debug_exceptions = _shows_errors
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

    def schedule_call_global(
        self, seconds: float, function: Callable[..., Any], *args: Any, **named: Any
    ) -> Any:
        """A timer that calls `function` once so long from now."""
        timer = _Timer(seconds, function, *args, **named)
        self.add_timer(timer)
        return timer

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
            self._sweep_timer = self.schedule_call_global(_SWEEP_S, self._sweep)

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

    def use_clock(self, fake: Clock | None) -> None:
        """Go by the clock of the process from now on. fake: it, if it is one of tests.

        What was planned by the old clock and is not needed goes: it would stop the new
        clock at moments that mean nothing.
        """
        self.clock = clocks.source()
        self.fake = fake
        if self.sweeping:
            self.sweeping = False
            self._sweep_timer.cancel()
        self.prepare_timers()
        self.timers[:] = [entry for entry in self.timers if not entry[1].called]
        heapify(self.timers)
        self.timers_canceled = 0


local = threading.local()


def this_hub() -> Hub:
    """The hub of this (real) thread, made at the first use."""
    try:
        hub: Hub = local.hub
    except AttributeError:
        eventlet.hubs.use_hub(Hub)
        hub = local.hub = eventlet.hubs.get_hub()
    return hub


def park(parking: Parking, timeout_s: float | None = None) -> Any:
    """Wait for `parking.wake`; its value, or `EXPIRED` after the timeout. Yields."""
    hub = this_hub()
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


EXPIRED = _Expired()


def _expire_parking(parking: Parking) -> None:
    parking.value = EXPIRED
    parking.resume()


def install(clock: Clock | None) -> None:
    """Make a clock the time of this process, for tests; None brings the real one back.

    Sleeps and timeouts obey it: when all green threads wait and no descriptor becomes
    ready within a few real milliseconds, the clock's `sleep` is called instead of
    waiting. Timers set before the call keep the old time; install first.
    """
    clocks.use(clock)
    this_hub().use_clock(clock)


_shows_errors = True


def show_hub_errors(shown: bool) -> None:
    """Print the traceback of what the hub's own callbacks raise, or be silent.

    For this hub and those of processes that are forked later.
    """
    global _shows_errors
    _shows_errors = shown
    this_hub().debug_exceptions = shown


def on_hub(callback: Callable[[], object]) -> None:
    """Call back from the hub soon; callable from a signal handler. Must not wait."""
    this_hub().ready.append(callback)
