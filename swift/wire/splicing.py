# SPDX-License-Identifier: Apache-2.0
"""Bodies that pass from socket to socket inside the kernel, by way of a pipe.

Pages that the network card (or the loopback) has filled are handed on, not copied. The
source is woken for large steps only, and what the target does not take stays in the
pipe, so a slow reader slows the sender down as it does elsewhere.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from contextlib import suppress

from swift.runtime import green
from swift.wire.channel import Channel

BULK_BYTES = 512 * 1024
"""Bytes that are waited for before they are moved."""

_WINDOW = 1 << 20  # bytes a pipe holds, and one call moves, at most
_PIPES_MAX = 16  # idle pipes that are kept
_TURN = 8  # moves before other green threads get their turn

_FLAGS = getattr(os, "SPLICE_F_NONBLOCK", 2) | getattr(os, "SPLICE_F_MOVE", 1)
_SET_PIPE_SIZE = getattr(fcntl, "F_SETPIPE_SZ", 1031)


class Pipe:
    """A pipe that does not block. held: bytes that are in it."""

    __slots__ = ("held", "inlet", "outlet")

    def __init__(self) -> None:
        self.outlet, self.inlet = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.held = 0
        with suppress(OSError):
            fcntl.fcntl(self.inlet, _SET_PIPE_SIZE, _WINDOW)

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
                source.sock.fileno(), self.inlet, min(count, _WINDOW), flags=_FLAGS
            )
        except BlockingIOError:
            return None
        except OSError:
            return 0
        self.held += got
        return got

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


_pipes: list[Pipe] = []


def take_pipe() -> Pipe:
    """An empty pipe; `give_back` it."""
    return _pipes.pop() if _pipes else Pipe()


def give_back(pipe: Pipe) -> None:
    """Keep a pipe for the next body, unless it holds bytes of this one."""
    if pipe.held or len(_pipes) >= _PIPES_MAX:
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
            if not steps % _TURN:
                green.yield_now()
    finally:
        give_back(pipe)
        source.read_as_it_comes()
    return moved
