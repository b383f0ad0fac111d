# SPDX-License-Identifier: Apache-2.0
"""What a simulated cluster is made of: policies and rings, and how rings change.

A ring is published at one moment, and each party (a node, a proxy) comes to know of it
later, as it does of a file: at its next look, some seconds on.
"""

from __future__ import annotations

import random
from functools import cache

from swift.core.erasure import ErasureCoding
from swift.core.policy import StoragePolicies, StoragePolicy
from swift.core.redundancy import Replication
from swift.core.ring.builder import RingBuilder
from swift.runtime import green
from swift.runtime.cluster import RELOAD_S

PART_POWER = 2
REPLICAS = 3
SCHEMES = ((2, 1), (2, 2))
"""Data and parity fragments of the second policy, of which a history has one."""

SEGMENT_SIZE = 2048
PORTS = {"object": 6200, "container": 6201, "account": 6202}
WEIGHT = 100.0
_REST_S = 7200
"""Between two changes, as a partition may not move twice in an hour."""


@cache
def policies_of(data, parity):
    """`gold` keeps whole copies, `silver` fragments."""
    coding = ErasureCoding("isa_l_rs_vand", data, parity, segment_size=SEGMENT_SIZE)
    return StoragePolicies(
        [
            StoragePolicy(0, ("gold",), Replication(), True),
            StoragePolicy(1, ("silver",), coding, engine="egg:swift#erasure_coding.fs"),
        ]
    )


@cache
def _first_builder(name, replicas, count):
    """The builder of a ring over the nodes 1 to count, as a file."""
    builder = RingBuilder(PART_POWER, replicas, 1)
    for number in range(1, count + 1):
        _add(builder, name, number)
    builder.rebalance(now=0.0, rng=random.Random(name))
    return builder.dump()


@cache
def _first_ring(name, replicas, count):
    return RingBuilder.load(_first_builder(name, replicas, count)).ring()


def _add(builder, name, number):
    builder.add_device(
        zone=number,
        ip=f"10.0.0.{number}",
        port=PORTS[name.partition("-")[0]],
        name=f"d{number}",
        weight=WEIGHT,
        device_id=number - 1,
    )


class Rings:
    """The rings as they were published last: name → ring.

    Node N has the device with id N - 1 in each of them, or none.
    """

    def __init__(self, policies, count):
        self._replicas = {"account": REPLICAS, "container": REPLICAS}
        for policy in policies:
            size = policy.redundancy.ring_size
            self._replicas[policy.ring_name] = size or REPLICAS
        self._count = count
        self._builders = {}
        self.published = {
            name: _first_ring(name, replicas, count)
            for name, replicas in self._replicas.items()
        }
        self.holders = set(range(1, count + 1))
        """The numbers of the nodes that are to hold something."""

    def seen(self):
        """What one party knows of them: name → ring file."""
        return {name: SimRing(self, name) for name in self.published}

    @property
    def may_shrink(self):
        """True when enough devices stay if one goes."""
        return len(self.holders) > max(self._replicas.values())

    def add(self, number):
        """Publish rings with one more device."""
        self.holders.add(number)
        self._change(lambda builder, name: _add(builder, name, number))

    def drain(self, number):
        """Publish rings in which a device has no weight."""
        self.holders.discard(number)
        self._change(lambda builder, _: builder.set_weight(number - 1, 0.0))

    def remove(self, number):
        """Publish rings without a device."""
        self.holders.discard(number)
        self._change(lambda builder, _: builder.remove_device(number - 1))

    def _change(self, change):
        for name, replicas in self._replicas.items():
            builder = self._builders.get(name)
            if builder is None:
                first = _first_builder(name, replicas, self._count)
                builder = self._builders[name] = RingBuilder.load(first)
            change(builder, name)
            now = green.now() + _REST_S * builder.version
            builder.rebalance(now=now, rng=random.Random(f"{name} {builder.version}"))
            self.published[name] = builder.ring()


class SimRing:
    """In the place of a ring file: what one party last read."""

    def __init__(self, rings, name):
        self._rings = rings
        self._name = name
        self._ring = rings.published[name]
        self._check_at = 0.0

    @property
    def has_changed(self):
        """True when a newer one was published."""
        return self._rings.published[self._name] is not self._ring

    def get(self):
        """The ring."""
        moment = green.monotonic()
        if moment >= self._check_at:
            self._check_at = moment + RELOAD_S
            self._ring = self._rings.published[self._name]
        return self._ring

    def get_for_replication(self):
        """The same: no node has another address for replication."""
        return self.get()
