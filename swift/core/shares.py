# SPDX-License-Identifier: Apache-2.0
"""How processes share one queue without talking: each takes what its number says.

An item belongs to the process whose number is the item's digest modulo their number.
Options: contract daemons (processes, process).
"""

from __future__ import annotations

from dataclasses import dataclass

from swift.core.settings import natural, option


@dataclass(frozen=True, slots=True)
class Share:
    """Part `process`, counted from 0, of `processes` parts; 0 processes: all of it.

    Raises ValueError for a part that there is not.
    """

    processes: int = 0
    process: int = 0

    def __post_init__(self) -> None:
        if self.processes < 0 or not 0 <= self.process < max(1, self.processes):
            raise ValueError("process must be less than processes")

    def holds(self, digest: bytes) -> bool:
        """True when the item of a digest belongs to this part."""
        if not self.processes:
            return True
        return int.from_bytes(digest, "big") % self.processes == self.process


@dataclass(frozen=True)
class ShareOptions:
    """The options of a daemon that shares its queue."""

    processes: int = option(
        0, parse=natural, doc="Daemons that share the queue; 0 or 1: one does it all."
    )
    process: int = option(0, parse=natural, doc="Which of them this is, from 0.")

    def __post_init__(self) -> None:
        Share(self.processes, self.process)  # raises ValueError for what is no share

    @property
    def share(self) -> Share:
        """The part that the options name."""
        return Share(self.processes, self.process)
