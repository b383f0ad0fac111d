# SPDX-License-Identifier: Apache-2.0
"""Where green threads meet: events, semaphores, queues, pools."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Generic, TypeVar

from swift.runtime.scheduler.hub import EXPIRED, Parking, park
from swift.runtime.scheduler.threads import Thread

T = TypeVar("T")


class Event(Generic[T]):
    """A value that some wait for and one sets, once."""

    def __init__(self) -> None:
        self._set = False
        self._value: T | None = None
        self._waiters: list[Parking] = []

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
            parking = Parking()
            self._waiters.append(parking)
            try:
                if park(parking, timeout_s) is EXPIRED:
                    raise TimeoutError(f"not set within {timeout_s}s")
            finally:
                if parking in self._waiters:
                    self._waiters.remove(parking)
        return self._value


class Semaphore:
    """At most `value` holders at a time, first come first served."""

    def __init__(self, value: int = 1) -> None:
        self._free = value
        self._waiters: deque[Parking] = deque()

    def acquire(self, timeout_s: float | None = None) -> bool:
        """True when held, False when the time is up. Yields when none is free."""
        if self._free > 0 and not self._waiters:
            self._free -= 1
            return True
        if timeout_s is not None and timeout_s <= 0:
            return False
        parking = Parking()
        self._waiters.append(parking)
        granted: Any = None
        try:
            granted = park(parking, timeout_s)
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
        self._getters: deque[Parking] = deque()
        self._putters: deque[Parking] = deque()

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


def _queue_up(waiters: deque[Parking], timeout_s: float | None) -> bool:
    """Wait for one's turn; False at the timeout. Yields."""
    if timeout_s is not None and timeout_s <= 0:
        return False
    parking = Parking()
    waiters.append(parking)
    try:
        return park(parking, timeout_s) is not EXPIRED
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
        # In the order in which they began, so that a simulation repeats itself.
        self._threads: dict[Thread, None] = {}

    def spawn(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Thread:
        """As `spawn`, after waiting for a free place. Yields when full."""
        self._semaphore.acquire()
        thread = Thread(function, args, kwargs)
        self._threads[thread] = None
        thread._on_end = lambda: self._leave(thread)
        return thread

    def _leave(self, thread: Thread) -> None:
        self._threads.pop(thread, None)
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
