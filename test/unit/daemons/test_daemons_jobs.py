# SPDX-License-Identifier: Apache-2.0
"""The jobs of a pass, which are made when their turn comes."""

from __future__ import annotations

import random
import tracemalloc
from types import SimpleNamespace

import pytest

from swift.daemons.jobs import Jobs

POLICY = SimpleNamespace(index=0, objects_dir="objects")
DEVICES = [SimpleNamespace(id=number, name=f"d{number}") for number in range(4)]


class Ring:
    """Three replicas on four devices, in turns."""

    partition_count = 1 << 20

    def primaries(self, partition):
        return [
            SimpleNamespace(id=(partition + index) % 4, index=index)
            for index in range(3)
        ]


@pytest.fixture
def jobs():
    return Jobs()


def places(jobs):
    return [(job.device.name, job.partition, job.is_primary) for job in jobs]


def test_each_partition_of_each_device_is_a_job(jobs):
    jobs.add(POLICY, Ring(), DEVICES[0], [0, 1, 7])
    jobs.add(POLICY, Ring(), DEVICES[1], [1])
    assert len(jobs) == 4
    assert places(jobs) == [
        ("d0", 0, True),
        ("d0", 1, False),
        ("d0", 7, True),
        ("d1", 1, True),
    ]
    assert [len(job.targets) for job in jobs] == [2, 3, 2, 2]


def test_partitions_beyond_the_ring_and_unwanted_ones_are_none(jobs):
    ring = Ring()
    jobs.add(POLICY, ring, DEVICES[0], [1, 2, ring.partition_count, 1 << 70])
    jobs.add(POLICY, ring, DEVICES[1], [1, 2, 3], wanted=(2, 5))
    assert [job.partition for job in jobs] == [1, 2, 2]


def test_the_order_is_random_or_that_of_a_key(jobs):
    jobs.add(POLICY, Ring(), DEVICES[0], range(100))
    jobs.shuffle(random.Random(1))
    shuffled = places(jobs)
    assert shuffled != sorted(shuffled, key=lambda place: place[1])
    jobs.sort(key=lambda job: job.is_primary)
    # Handoffs first, and among them the order stays.
    assert places(jobs) == sorted(shuffled, key=lambda place: place[2])


def test_some_jobs_can_be_left_out(jobs):
    jobs.add(POLICY, Ring(), DEVICES[0], range(8))
    jobs.keep(lambda job: not job.is_primary)
    assert [job.partition for job in jobs] == [1, 5]


def test_a_million_jobs_take_little_memory(jobs):
    tracemalloc.start()
    try:
        for device in DEVICES:
            jobs.add(POLICY, Ring(), device, range(250_000))
        assert len(jobs) == 1_000_000
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
