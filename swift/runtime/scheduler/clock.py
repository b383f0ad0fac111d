# SPDX-License-Identifier: Apache-2.0
"""The clock of this process: the real one, or one that a test has installed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


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


def use(clock: Clock | None) -> None:
    """Make a clock the time of this process; None brings the real one back.

    For hubs that there are, `scheduler/hub.install` does the rest.
    """
    global _clock, _time, _monotonic
    _clock = clock
    _time = clock.now if clock else time.time
    _monotonic = clock.monotonic if clock else time.monotonic


def installed() -> Clock | None:
    """The clock that a test has installed."""
    return _clock


def source() -> Callable[[], float]:
    """What `monotonic` asks at present, for those who ask often."""
    return _monotonic
