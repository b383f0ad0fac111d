# SPDX-License-Identifier: Apache-2.0
"""Bodies that pass from socket to socket inside the kernel, by way of pipes.

Pages that the network card (or the loopback) has filled are handed on, not copied, to
one socket or to several. The source is woken for large steps only, and what a target
does not take stays in its pipe, so a slow reader slows the sender down as it does
elsewhere.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from swift.runtime import green
from swift.wire.channel import BULK_BYTES, Channel

WINDOW_BYTES = BULK_BYTES
"""Bytes that a pipe holds, and that one call moves, at most."""

TURN = 8
"""Moves in a row before other green threads get their turn."""

_PIPES_MAX = 16  # idle pipes that are kept

_FLAGS = getattr(os, "SPLICE_F_NONBLOCK", 2) | getattr(os, "SPLICE_F_MOVE", 1)
_SET_PIPE_SIZE = getattr(fcntl, "F_SETPIPE_SZ", 1031)


class Pipe:
    """A pipe that does not block. Raises OSError when there can be no more.

    held: bytes that are in it. is_wide: it has room for a window; a user without rights
    gets narrow ones when he has many.
    """

    __slots__ = ("held", "inlet", "is_wide", "outlet")

    def __init__(self) -> None:
        self.outlet, self.inlet = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.held = 0
        self.is_wide = True
        try:
            fcntl.fcntl(self.inlet, _SET_PIPE_SIZE, WINDOW_BYTES)
        except OSError:
            self.is_wide = False

    def close(self) -> None:
        """Close both ends."""
        os.close(self.outlet)
        os.close(self.inlet)

    def fill(self, source: Channel, count: int) -> int | None:
        """Take up to `count` bytes that have come; 0 at the end, None when none have.

        A source that fails has ended.
        """
        try:
            got = os.splice(
                source.sock.fileno(), self.inlet, min(count, WINDOW_BYTES), flags=_FLAGS
            )
        except BlockingIOError:
            return None
        except OSError:
            return 0
        self.held += got
        return got

    def put(self, data: bytes) -> int:
        """Take bytes that are in memory, as far as they find room; how many."""
        got = os.write(self.inlet, data)
        self.held += got
        return got

    def copy_to(self, other: Pipe) -> None:
        """Let an empty pipe hold the same bytes. Raises OSError."""
        assert _tee is not None, "such pipes were not given out"
        other.held = max(0, _tee(self.outlet, other.inlet, self.held, _FLAGS))
        if other.held != self.held:
            raise OSError(ctypes.get_errno() or errno.ENOBUFS, "tee")

    def drain(self, target: Channel) -> None:
        """Pass on what the target takes at once. Raises OSError for the target."""
        with suppress(BlockingIOError):
            while self.held:
                self.held -= os.splice(
                    self.outlet, target.sock.fileno(), self.held, flags=_FLAGS
                )

    def drain_all(self, target: Channel, timeout_s: float | None) -> None:
        """Pass on all. Yields. Raises TimeoutError, OSError for the target."""
        self.drain(target)
        while self.held:
            if not target.watch.writable(timeout_s):
                raise TimeoutError("write")
            self.drain(target)


def _load_tee() -> Any:
    # Python knows splice, but not tee. It does not wait: the lock may as well be kept.
    try:
        function = ctypes.PyDLL(None, use_errno=True).tee
    except (OSError, AttributeError):
        return None
    function.restype = ctypes.c_ssize_t
    function.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint)
    return function


_tee = _load_tee()
_pipes: list[Pipe] = []


def take_pipe() -> Pipe:
    """An empty pipe; `give_back` it. Raises OSError."""
    return _pipes.pop() if _pipes else Pipe()


def take_wide_pipes(count: int) -> list[Pipe] | None:
    """So many pipes, to be copied to each other; None when there are too few."""
    if _tee is None:
        return None
    taken: list[Pipe] = []
    with suppress(OSError):
        while len(taken) < count:
            taken.append(take_pipe())
        if all(pipe.is_wide for pipe in taken):
            return taken
    for pipe in taken:
        give_back(pipe)
    return None


def give_back(pipe: Pipe) -> None:
    """Keep a pipe for the next body, unless it holds bytes of this one or is narrow."""
    if pipe.held or not pipe.is_wide or len(_pipes) >= _PIPES_MAX:
        pipe.close()
    else:
        _pipes.append(pipe)


def splice(
    source: Channel,
    target: Channel,
    count: int,
    timeout_s: float | None,
    await_bytes: Callable[[int], bool],
) -> int:
    """Move up to `count` bytes between sockets inside the kernel; how many it were.

    Fewer means that the source ended or failed. await_bytes: waits for so many bytes of
    the source, and says False when they do not come. Raises TimeoutError and OSError
    for the target. Yields.
    """
    pipe = take_pipe()
    moved = steps = 0
    try:
        while moved < count and await_bytes(min(count - moved, BULK_BYTES)):
            got = pipe.fill(source, count - moved)
            if got is None:
                continue
            if not got:
                break
            pipe.drain_all(target, timeout_s)
            moved += got
            steps += 1
            if not steps % TURN:
                green.yield_now()
    finally:
        give_back(pipe)
        source.read_as_it_comes()
    return moved
