# SPDX-License-Identifier: Apache-2.0
"""Buffers that bodies are received into, and written to disk from, again and again.

A large body passes through one of these a batch at a time. Memory that is got anew for
each read costs more than the read: the kernel fills every page with zeros first.
"""

from __future__ import annotations

import mmap

BATCH_BYTES = 1024 * 1024
"""Bytes of a large body that one hop to a disk thread hashes and writes."""

_KEPT_MAX = 16  # idle buffers; an upload in progress has its own


class Batch:
    """A buffer that fills from its beginning. filled: bytes that are in it."""

    __slots__ = ("_memory", "filled")

    def __init__(self) -> None:
        self._memory = memoryview(mmap.mmap(-1, BATCH_BYTES))
        self.filled = 0

    @property
    def room(self) -> memoryview:
        """The part that is still free."""
        return self._memory[self.filled :]

    @property
    def content(self) -> memoryview:
        """The part that is filled."""
        return self._memory[: self.filled]


_kept: list[Batch] = []


def take_batch() -> Batch:
    """An empty one; from any thread."""
    try:
        return _kept.pop()
    except IndexError:
        return Batch()


def give_back(batch: Batch) -> None:
    """Let others use it; from any thread, when nobody looks at its bytes any more."""
    batch.filled = 0
    if len(_kept) < _KEPT_MAX:
        _kept.append(batch)
