# SPDX-License-Identifier: Apache-2.0
"""Green threads: made, waited for, killed; sleeping, and limits of time."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

from swift.core.errors import SwiftError
from swift.runtime.scheduler.hub import (
    EXPIRED,
    EventletTimeout,
    Parking,
    park,
    this_hub,
)

Killed = GreenletExit
"""What ends a thread whose `kill` was called."""


class Thread(greenlet):  # type: ignore[misc]
    """A green thread; made by `spawn`."""

    def __init__(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        hub = this_hub()
        super().__init__(self._main, hub.greenlet)
        self._call = (function, args, kwargs)
        self._result: Any = None
        self._error: BaseException | None = None
        self._ended = False
        self._joiners: list[Parking] = []
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
            if not isinstance(error, (EventletTimeout, Exception)):
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
            parking = Parking()
            self._joiners.append(parking)
            try:
                if park(parking, timeout_s) is EXPIRED:
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
        if current is not this_hub().greenlet:
            # The victim runs at once; when it waits or ends, the hub brings us back.
            Parking().wake()
        self.throw(GreenletExit)
        if not self._ended and current is not this_hub().greenlet:
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
    parking = Parking()
    if seconds <= 0:
        parking.wake()
        park(parking)
    else:
        park(parking, seconds)


def yield_now() -> None:
    """Let every thread that is ready run once. Yields."""
    parking = Parking()
    parking.wake()
    park(parking)


class Timeout(EventletTimeout):  # type: ignore[misc]
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
