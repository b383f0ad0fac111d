# SPDX-License-Identifier: Apache-2.0
"""Commits that take their steps together, so that the disk is waited for once.

Two syncs for each small object are most of what it takes to fill a device again. Here
many objects are written, then synced, then named, and then their names synced: what
holds for one commit (see `commit`) holds for each of them, as the order of its steps is
the same. Decision 0014.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial

from swift.core.errors import SwiftError
from swift.core.objectfiles import FilePart
from swift.runtime import green
from swift.storage.fs import FileSystem, as_domain_error
from swift.storage.object import hashes
from swift.storage.object.commit import Commit

THREADS = 6
"""Disk threads that wait for one lot; the others of the process are for clients."""


@dataclass(slots=True)
class Order:
    """A commit that is to be finished with others, and its outcome.

    hold: entered while its files are worked on; tells whether it is still wanted.
    admit: called before anything is written; what it raises ends this commit alone.
    error: why it was not stored; it is known when `done` is set.
    """

    commit: Commit
    part: FilePart
    stored: Iterable[tuple[str, bytes]]
    chunks: Sequence[bytes | memoryview]
    drop_cache: bool
    hold: AbstractContextManager[bool]
    admit: Callable[[], None] | None
    error: BaseException | None = None
    done: green.Event[None] = field(default_factory=green.Event)

    def finish(self) -> None:
        """Take all steps at once."""
        if self.admit is not None:
            self.admit()
        self.commit.finish(
            self.part, self.stored, self.chunks, drop_cache=self.drop_cache
        )
        self.commit.close()

    def begin(self) -> None:
        """Write the file, if nothing forbids it."""
        if self.admit is not None:
            self.admit()
        self.commit.fill(self.part, self.stored, self.chunks)
        self.commit.start_sync()

    def sync(self) -> None:
        """Return when the file is on the disk."""
        self.commit.sync(self.drop_cache)

    def give_name(self) -> None:
        """Make the file visible."""
        self.commit.give_name(self.part)

    def sync_names(self) -> None:
        """Return when the name is on the disk."""
        self.commit.sync_names()

    def settle(self) -> None:
        """See to what follows once the file and its name are durable."""
        self.commit.settle(self.part)
        self.commit.close()


class CommitGroup:
    """Commits of one device that come close together, and go to its disk together.

    While one lot is being written the next gathers, so that a lone commit waits for
    nothing and many wait for few syncs. at_once: the most of one lot.
    """

    def __init__(self, fs: FileSystem, at_once: int) -> None:
        self._fs = fs
        self._at_once = at_once
        self._gathered: deque[Order] = deque()
        self._is_working = False

    def finish(self, order: Order) -> None:
        """Return when the order is durable. Yields. Raises what `Commit.finish` does.

        When the waiting thread is killed, the order is finished all the same unless its
        `hold` says otherwise.
        """
        self._gathered.append(order)
        if not self._is_working:
            self._is_working = True
            green.spawn(self._work)
        order.done.wait()
        if order.error is not None:
            raise order.error

    def _work(self) -> None:
        """Finish lots until nothing is left. Yields."""
        try:
            while self._gathered:
                size = min(len(self._gathered), self._at_once)
                lot = [self._gathered.popleft() for _ in range(size)]
                self._finish(lot)
        finally:
            self._is_working = False

    def _finish(self, lot: Sequence[Order]) -> None:
        try:
            with ExitStack() as held:
                left = [order for order in lot if held.enter_context(order.hold)]
                self._take_steps(left)
        # Whatever it is, those who wait must hear of it.
        except BaseException as error:
            for order in lot:
                order.error = order.error or error
            if not isinstance(error, Exception):
                raise
        finally:
            for order in lot:
                order.done.set()

    def _take_steps(self, lot: list[Order]) -> None:
        """The steps of `Commit.finish`, each for all of a lot before the next. Yields.

        The disk works on all files before the first of them is waited for, suffixes are
        noted once a partition, and where the file system keeps a log one sync makes all
        names durable. Files and directories that must be waited for one by one are
        waited for on several threads.
        """
        if len(lot) == 1:
            green.in_thread(_each, lot, Order.finish)
            return
        left = green.in_thread(_each, lot, Order.begin)
        left = _each_in_threads(left, Order.sync)
        left = green.in_thread(_give_names, self._fs, left)
        if left and self._fs.keeps_log(left[-1].commit.directory_fd):
            if not green.in_thread(_succeeds, left, left[-1].sync_names):
                return
        else:
            left = _each_in_threads(left, Order.sync_names)
        green.in_thread(_each, left, Order.settle)


def _each(orders: Sequence[Order], step: Callable[[Order], None]) -> list[Order]:
    """Take a step for each order; those that it succeeded for."""
    return [order for order in orders if _succeeds([order], partial(step, order))]


def _each_in_threads(
    orders: Sequence[Order], step: Callable[[Order], None]
) -> list[Order]:
    """As `_each`, on several disk threads at a time. Yields."""
    shares = [orders[at::THREADS] for at in range(min(THREADS, len(orders)))]
    running = [green.spawn(green.in_thread, _each, share, step) for share in shares]
    return [order for thread in running for order in thread.wait()]


def _succeeds(orders: Sequence[Order], step: Callable[[], object]) -> bool:
    """Take a step for some orders; when it fails, it has failed for all of them."""
    try:
        step()
    except OSError as error:
        for order in orders:
            order.error = as_domain_error(error, order.commit.device)
    except SwiftError as error:
        for order in orders:
            order.error = error
    else:
        return True
    return False


def _give_names(fs: FileSystem, orders: Sequence[Order]) -> list[Order]:
    """Note all suffixes as changed, then make the files visible; the orders left."""
    by_partition: dict[str, list[Order]] = {}
    for order in orders:
        by_partition.setdefault(order.commit.partition_path, []).append(order)
    left = []
    for path, members in by_partition.items():
        suffixes = sorted({order.commit.suffix for order in members})
        if _succeeds(members, partial(hashes.invalidate, fs, path, *suffixes)):
            left += _each(members, Order.give_name)
    return left
