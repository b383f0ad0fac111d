# SPDX-License-Identifier: Apache-2.0
"""When each partition of a ring last moved, as far as a builder counts.

Moves are counted in whole hours up to a limit, back from one moment that all partitions
share: the last count. A partition that moved less than `min_part_hours` ago stays where
it is, so that no two of its replicas are on their way at once. How a builder file holds
this is the builder's affair, but for one thing: a file whose partitions were doubled
has a list where others have an array, and keeps it.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

HOURS_MAX = 255
"""Hours since a move are counted up to here."""

_HOUR_S = 3600


class MoveHistory:
    """Hours since each partition moved, back from `epoch`.

    hours: one a partition, None before the first count. epoch: of the last count, in
    seconds; 0 when partitions are to move at once. as_list: see above.
    """

    def __init__(
        self,
        hours: Sequence[int] | None = None,
        *,
        epoch: int = 0,
    ) -> None:
        self.hours = None if hours is None else array("B", bytes(hours))
        self.epoch = epoch
        self.as_list = isinstance(hours, list)

    def stored(self) -> array[int] | list[int] | None:
        """The hours in the type that the builder file has them in."""
        if self.hours is not None and self.as_list:
            return list(self.hours)
        return self.hours

    def seconds_left(self, min_part_hours: int, now: float) -> int:
        """Seconds until the next hour mark at which partitions may move; 0 when now."""
        elapsed = int(now) - self.epoch
        return max(0, min_part_hours * _HOUR_S - elapsed)

    def count(self, now: int, parts: int, *, first: bool) -> array[int]:
        """Add the whole hours since the last count to each partition's, and return all.

        first: nothing has been assigned before, so that everything moves now. Other
        partitions of which nothing is known may move.
        """
        hours = self.hours
        if first or hours is None or len(hours) != parts:
            hours = self._of_all(0 if first else HOURS_MAX, parts)
            self.epoch = now
            return hours
        passed = (now - self.epoch) // _HOUR_S
        if passed <= 0:
            return hours
        later = bytes(min(HOURS_MAX, old + passed) for old in range(HOURS_MAX + 1))
        self.hours = array("B", hours.tobytes().translate(later))
        self.epoch = now
        return self.hours

    def forget(self, parts: int) -> None:
        """Let every partition move again."""
        self._of_all(HOURS_MAX, parts)
        self.epoch = 0

    def double(self, now: int, parts: int) -> None:
        """Follow the partitions, of which there are twice as many now: `parts`.

        Moving them while old links are still being cleaned up would cost a second copy,
        so the waiting time starts again.
        """
        if self.hours is not None:
            doubled = array("B", bytes(2 * len(self.hours)))
            doubled[0::2] = self.hours
            doubled[1::2] = self.hours
            self.hours = doubled
            self.as_list = True
        self.count(now, parts, first=False)
        self.epoch = now

    def _of_all(self, hours: int, parts: int) -> array[int]:
        self.hours = array("B", bytes([hours])) * parts
        return self.hours
