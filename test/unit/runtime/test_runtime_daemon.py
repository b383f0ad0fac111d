# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import dataclass

import pytest

from swift.core.settings import option
from swift.runtime import daemon as runner
from swift.runtime import green
from swift.runtime.daemon import Daemon, Frame, Pause, RateLimiter, Scope, Tally
from swift.runtime.logs import ListSink, Logger
from swift.runtime.metrics import Metrics


@dataclass(frozen=True)
class Config:
    interval_s: float = option(30.0, name="interval", doc="d")
    concurrency: int = option(1, doc="d")


class Counting(Daemon[int]):
    section = "counting"
    first_pause = Pause.NONE

    def __init__(self, config, frame, count=5):
        super().__init__(config, frame)
        self.count = count
        self.seen = []
        self.read = 0
        self.running = 0
        self.most = 0
        self.passes = []

    @property
    def concurrency(self):
        return self.config.concurrency

    def jobs(self, scope):
        self.passes.append(green.monotonic())
        for number in range(self.count):
            self.read += 1
            yield number

    def handle(self, job):
        self.running += 1
        self.most = max(self.most, self.running)
        green.sleep(1)
        self.running -= 1
        self.seen.append(job)
        if job == 2:
            raise ValueError("two is bad")


@pytest.fixture
def sink():
    return ListSink()


@pytest.fixture
def frame(sink):
    return Frame(cluster=None, log=Logger("test", sinks=[sink]), metrics=Metrics())


@pytest.fixture
def clock():
    clock = green.JumpingClock()
    green.install(clock)
    yield clock
    green.install(None)


def test_a_failed_job_is_counted_and_the_pass_goes_on(clock, frame):
    daemon = Counting(Config(), frame)
    tally = runner.run_pass(daemon, Scope(once=True))
    assert daemon.seen == [0, 1, 2, 3, 4]
    assert (tally.handled, tally.failed) == (5, 1)


def test_jobs_run_side_by_side_up_to_the_concurrency(clock, frame):
    daemon = Counting(Config(concurrency=3), frame, count=9)
    began = green.monotonic()
    runner.run_pass(daemon, Scope())
    assert sorted(daemon.seen) == list(range(9))
    assert daemon.most == 3
    assert green.monotonic() - began == pytest.approx(3, abs=0.1)


def test_jobs_are_read_as_they_are_handled(clock, frame):
    daemon = Counting(Config(concurrency=2), frame, count=1000)
    thread = green.spawn(runner.run_pass, daemon, Scope())
    green.sleep(3.5)
    assert daemon.read < 12
    thread.kill()


def test_passes_begin_at_intervals(clock, frame):
    daemon = Counting(Config(), frame)
    thread = green.spawn(runner.run_passes, daemon, Scope())
    green.sleep(100)
    thread.kill()
    gaps = [b - a for a, b in zip(daemon.passes, daemon.passes[1:], strict=False)]
    assert gaps == pytest.approx([30] * len(gaps), abs=0.5)
    assert len(gaps) == 3


def test_a_pass_that_breaks_is_tried_again(clock, frame, sink):
    class Broken(Counting):
        def jobs(self, scope):
            super().jobs(scope)
            self.passes.append(green.monotonic())
            raise OSError("no disk")

    daemon = Broken(Config(), frame)
    thread = green.spawn(runner.run_passes, daemon, Scope())
    green.sleep(65)
    thread.kill()
    assert len(daemon.passes) == 3


def test_the_rate_limit_spreads_events(clock):
    limiter = RateLimiter(10, buffer_s=0)
    began = green.monotonic()
    for _ in range(21):
        limiter.wait()
    assert green.monotonic() - began == pytest.approx(2, abs=0.01)


def test_progress_says_what_is_left(clock):
    tally = Tally(started=green.monotonic(), handled=25, total=100)
    clock.sleep(10)
    assert "25/100 (25.00%)" in tally.line()
    assert "30s remaining" in tally.line()
