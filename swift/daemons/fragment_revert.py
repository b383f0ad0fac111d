# SPDX-License-Identifier: Apache-2.0
"""Giving fragments that lie in the wrong place to the primaries whose they are.

One `Giving` is about one fragment index of one partition. Everything of that index is
offered, also what is not durable; what all its primaries have then is removed here, by
the very names that were offered. Contract daemons §9, erasure-coding 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice

from swift.core.errors import FormatError, PeerError, SwiftError
from swift.core.objectfiles import FileSet
from swift.core.reconstruction import Revert
from swift.core.ring.devices import Node
from swift.core.sync import confirmed_by_all
from swift.daemons.jobs import Job
from swift.daemons.replication_stats import Stats
from swift.daemons.ssync_sender import Push, SsyncSender
from swift.storage.object.partitions import ObjectNames

Complain = Callable[[Job, Node, SwiftError], None]
"""Says what is wrong with a node."""


class Giving:
    """Gives back the fragments of one index; the partition's lock is held meanwhile.

    objects_max: offered at the most, 0 for no limit.
    """

    def __init__(
        self,
        job: Job,
        revert: Revert,
        *,
        sender: SsyncSender,
        stats: Stats,
        complain: Complain,
        objects_max: int,
    ) -> None:
        self._job = job
        self._index = revert.fragment_index
        self._sender = sender
        self._stats = stats
        self._complain = complain
        self._left = objects_max or None
        primaries = {node.index: node for node in job.ring.primaries(job.partition)}
        self._targets = [primaries[position] for position in revert.positions]
        self._failed: set[int] = set()
        self._is_whole = True

    def run(self, groups: Iterable[ObjectNames]) -> bool:
        """Give what some groups of objects have; True when everything went. Yields.

        Raises DeviceUnavailable, LockTimeout.
        """
        for group in groups:
            objects = self._limited(self._concerned(group))
            hidden = self._hidden(objects)
            if hidden:
                self._hand_over(hidden, non_durable=False)
            confirmed = self._hand_over(objects, non_durable=self._index is not None)
            self._is_whole = self._is_whole and confirmed == len(objects)
        self._stats.success += len(self._targets) - len(self._failed)
        return self._is_whole and not self._failed

    def _concerned(self, objects: ObjectNames) -> dict[str, Sequence[str]]:
        """Those with a fragment of the index, or with a tombstone."""
        choose = self._sender.manager.policy.redundancy.choose
        found = {}
        for path_hash, names in objects.items():
            files = choose(names, preferences=(), fragment_index=self._index)
            if files.tombstone or (files.data and self._index is not None):
                found[path_hash] = names
        return found

    def _limited(self, objects: dict[str, Sequence[str]]) -> dict[str, Sequence[str]]:
        if self._left is None:
            return objects
        if len(objects) > self._left:
            self._is_whole = False
            objects = dict(islice(objects.items(), self._left))
        self._left -= len(objects)
        return objects

    def _hidden(self, objects: ObjectNames) -> dict[str, Sequence[str]]:
        """Those whose durable fragment stands behind a newer one that may wait long.

        An object is offered once in a conversation, with what is newest; what others
        may need to read the object is not to wait until that is settled.
        """
        choose = self._sender.manager.policy.redundancy.choose
        found = {}
        for path_hash, names in objects.items():
            durable = choose(names, fragment_index=self._index).data
            newest = choose(names, preferences=(), fragment_index=self._index).data
            if durable is not None and durable != newest:
                found[path_hash] = names
        return found

    def _hand_over(self, objects: ObjectNames, *, non_durable: bool) -> int:
        """Push to all targets and remove what they have; how many objects. Yields."""
        confirmed = self._push(objects, non_durable)
        if confirmed:
            self._sender.manager.partitions.give_back(
                self._job.device.name,
                self._job.partition,
                confirmed,
                is_handoff=not self._job.is_primary,
            )
        return len(confirmed)

    def _push(self, objects: ObjectNames, non_durable: bool) -> dict[str, FileSet]:
        """What every target has then. Yields. One that fails is passed over after."""
        confirmed: list[dict[str, FileSet]] = []
        for node in self._targets if objects else ():
            if node.id in self._failed:
                continue
            push = Push(
                node,
                self._job.device.name,
                self._job.partition,
                fragment_index=self._index,
                peer_index=self._index,
                non_durable=non_durable,
            )
            try:
                confirmed.append(self._sender.push(push, objects))
            except (PeerError, FormatError) as error:
                self._complain(self._job, node, error)
                self._stats.fail(node)
                self._failed.add(node.id)
        if self._failed:
            return {}
        by_all = confirmed_by_all(confirmed)
        # Nodes that take nothing without a commit were offered something else.
        return {
            path_hash: files
            for path_hash, files in (confirmed[0].items() if by_all else ())
            if path_hash in by_all
            and all(each[path_hash] == files for each in confirmed)
        }
