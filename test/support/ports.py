# SPDX-License-Identifier: Apache-2.0
"""TCP ports for servers of tests, which no other test process takes meanwhile.

A port that the kernel gives (bind to 0) is one that it gives to outgoing connections
too: between asking and listening, any test that runs beside may connect from it. So
ports come from below that range, out of blocks that one process holds at a time.
"""

from __future__ import annotations

import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path
from typing import IO

FIRST, LAST = 12_000, 32_000
BLOCK = 100
"""Ports that a process takes hold of at once."""

_FOLDER = Path(tempfile.gettempdir()) / f"swift-test-ports-{os.getuid()}"


class Ports:
    """The blocks of one process; they are free again when it ends."""

    def __init__(self) -> None:
        self._held: list[IO[bytes]] = []
        self._next = self._end = 0

    def take(self, span: int) -> int:
        """The first of `span` ports in a row on which nothing listens."""
        while True:
            if self._next + span > self._end:
                self._take_block()
            first = self._next
            self._next += span
            if all(_is_free(port) for port in range(first, first + span)):
                return first

    def _take_block(self) -> None:
        _FOLDER.mkdir(exist_ok=True)
        blocks = list(range(FIRST, LAST, BLOCK))
        random.shuffle(blocks)
        for block in blocks:
            lock = (_FOLDER / str(block)).open("wb")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                continue
            self._held.append(lock)
            self._next, self._end = block, block + BLOCK
            return
        raise RuntimeError("other tests hold all ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


_of_process: dict[int, Ports] = {}


def free_port(span: int = 1) -> int:
    """A port of loopback that nothing listens on, the first of `span` in a row."""
    # By process: the parent of a fork goes on with its block.
    return _of_process.setdefault(os.getpid(), Ports()).take(span)
