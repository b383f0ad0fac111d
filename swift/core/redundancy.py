# SPDX-License-Identifier: Apache-2.0
"""How one object becomes the archives that its nodes keep, and comes back.

A replicated object is an erasure code with one data part: any one archive gives the object
back. PUT, GET, the file layout and the healing daemons ask this protocol; what replication
and erasure coding do differently is said by its implementations and nowhere else.
"""

from __future__ import annotations

from typing import Protocol


class Redundancy(Protocol):
    """The rules of one kind of durability."""

    needed: int
    """Archives that give the object back: 1, or the number of data fragments."""

    two_phase: bool
    """A PUT is durable only after a commit message."""

    def write_quorum(self, nodes: int) -> int:
        """Nodes out of `nodes` primaries that must have stored a write."""
        ...


class Replication:
    """Every archive is the object."""

    needed = 1
    two_phase = False

    def write_quorum(self, nodes: int) -> int:
        """Half of the nodes, rounded up.

        Half is enough for an even count, so that a cluster of two replicas stays writable
        with one node down; clusters depend on this number.
        """
        return (nodes + 1) // 2
