# SPDX-License-Identifier: Apache-2.0
"""Bodies: closing on every path, counting, cutting, spreading over time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.runtime import green
from swift.wire.streams import (
    ClosingIterator,
    CountedBody,
    RateLimiter,
    rechunked,
    yielding,
)


class Body:
    """Chunks, then perhaps an error; counts how often it is closed."""

    def __init__(self, *chunks, error=None):
        self._chunks = iter(chunks)
        self._error = error
        self.closed = 0

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return next(self._chunks)
        except StopIteration:
            if self._error is not None:
                raise self._error from None
            raise

    def close(self):
        self.closed += 1


def test_callbacks_run_once_after_the_end_last_given_first():
    calls = []
    body = Body(b"a", b"b")
    iterator = ClosingIterator(
        body, lambda: calls.append(1), lambda: calls.append(body.closed)
    )
    assert list(iterator) == [b"a", b"b"]
    iterator.close()
    assert calls == [1, 1]
    assert body.closed == 1


def test_callbacks_run_when_the_body_breaks_and_all_of_them():
    calls = []

    def failing():
        calls.append("failing")
        raise OSError("close")

    iterator = ClosingIterator(
        Body(error=ValueError("x")), lambda: calls.append("other"), failing
    )
    with pytest.raises(OSError, match="close"):
        list(iterator)
    assert calls == ["failing", "other"]


@pytest.mark.parametrize(
    ("take", "expected"), [(0, (0, False)), (1, (1, False)), (9, (3, True))]
)
def test_bytes_are_counted_and_the_end_noted_once(take, expected):
    ends = []
    counted = CountedBody(Body(b"a", b"bc"), lambda *end: ends.append(end))
    for _ in range(take):
        if not next(counted, b""):
            break
    counted.close()
    counted.close()
    assert ends == [expected]


def test_a_broken_body_is_not_complete():
    ends = []
    counted = CountedBody(Body(b"a", error=OSError()), lambda *end: ends.append(end))
    with pytest.raises(OSError):  # noqa: PT011 (which one does not matter)
        list(counted)
    assert ends == [(1, False)]


def test_a_body_that_never_waits_lets_others_run():
    ran = []
    body = Body(*[b"x"] * 20)
    green.spawn(ran.append, 1)
    chunks = yielding(body, every=5)
    for _ in range(4):
        next(chunks)
    assert ran == []
    next(chunks)
    assert ran == [1]
    chunks.close()
    assert body.closed == 1


@given(
    chunks=st.lists(st.binary(max_size=30)), size=st.integers(min_value=1, max_value=40)
)
def test_rechunked_bodies_hold_the_same_bytes_in_equal_pieces(chunks, size):
    body = Body(*chunks)
    pieces = list(rechunked(body, size))
    assert b"".join(pieces) == b"".join(chunks)
    assert all(len(piece) == size for piece in pieces[:-1])
    assert not pieces or 0 < len(pieces[-1]) <= size
    assert body.closed == 1


def test_a_rate_is_kept_on_average():
    clock = green.JumpingClock()
    green.install(clock)
    try:
        limiter = RateLimiter(10)
        for _ in range(21):
            limiter.wait()
        assert green.monotonic() - 1000 == pytest.approx(2.0)
        bursting = RateLimiter(10, burst_s=1)
        clock.sleep(5)
        begun = green.monotonic()
        for _ in range(11):
            bursting.wait()
        assert green.monotonic() - begun == pytest.approx(0.0)
        bursting.wait()
        assert green.monotonic() - begun == pytest.approx(0.1)
        unlimited = RateLimiter(0)
        unlimited.wait(1e9)
        assert green.monotonic() - begun == pytest.approx(0.1)
    finally:
        green.install(None)
