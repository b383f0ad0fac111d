# SPDX-License-Identifier: Apache-2.0
"""Real threads that run blocking calls for green ones."""

from __future__ import annotations

import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from swift.runtime.scheduler.hub import Hub, Parking, local, park, this_hub
from swift.runtime.scheduler.watches import Watch

T = TypeVar("T")

THREADS_MAX = 20
"""Default bound of the real threads behind `in_thread`."""

_SWITCH_S = 0.1
"""How long a real thread computes before it is made to let another go on. All let go of
the interpreter at each system call; to be asked for it every 5 ms (Python's default) by
each of twenty threads that wait for it costs more than their waiting."""


class ThreadPool:
    """Real threads that run blocking calls for green ones.

    A call is one put on a queue and one switch; answers that arrive while the hub is
    busy are collected with one wake-up. Threads are started as calls wait for one, up
    to the bound, and live as long as the process.
    """

    def __init__(self, hub: Hub, size: int) -> None:
        self._hub = hub
        self._size = size
        self._calls: SimpleQueue[Any] = SimpleQueue()
        self._done: deque[tuple[Parking, Any, BaseException | None]] = deque()
        self._new: list[Any] = []
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
        parking = Parking()
        hub.threads_busy += 1
        if hub.threads_busy > self._started < self._size:
            self._started += 1
            threading.Thread(
                target=self._work, name=f"disk-{self._started}", daemon=True
            ).start()
        # Handed out when the hub has run all that is ready: a thread that is woken
        # while this one computes would only wait for the interpreter.
        if not self._new:
            hub.ready.append(self._hand_out)
        self._new.append((parking, function, args, kwargs))
        outcome = park(parking)
        error = outcome[1]
        if error is not None:
            raise error
        return outcome[0]

    def _hand_out(self) -> None:
        """Let the threads have the calls that have gathered (called by the hub)."""
        new, self._new = self._new, []
        for call in new:
            self._calls.put(call)

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
        self._watch.abandon()
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
        pool: Threads = local.pool
    except AttributeError:
        sys.setswitchinterval(_SWITCH_S)
        pool = local.pool = ThreadPool(this_hub(), _pool_size)
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
        local.pool = threads
    elif hasattr(local, "pool"):
        del local.pool
