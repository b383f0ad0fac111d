# SPDX-License-Identifier: Apache-2.0
"""Which node next."""

from __future__ import annotations

from random import Random

import pytest

from swift.core.ring.devices import Device, Node
from swift.wire.nodes import (
    Candidates,
    ErrorLimiter,
    NodeCount,
    NodeOrder,
    NodeTimings,
    Place,
    near_first,
    near_handoffs,
    parse_node_count,
    parse_read_affinity,
    parse_write_affinity,
)


def node(number, *, region=1, zone=1, handoff=False):
    device = Device(
        id=number,
        region=region,
        zone=zone,
        ip=f"10.0.0.{number}",
        port=6200,
        replication_ip=f"10.0.0.{number}",
        replication_port=6200,
        name=f"d{number}",
        weight=1.0,
    )
    return Node(device, None if handoff else number, number if handoff else None)


def numbers(nodes):
    return [each.id for each in nodes]


# --- The grammar of options -----------------------------------------------------------


def test_affinity_of_reads():
    assert parse_read_affinity(" r1z2=100, r3=200 ,") == (
        (Place(1, 2), 100),
        (Place(3, None), 200),
    )
    assert parse_read_affinity("") == ()


@pytest.mark.parametrize("text", ["r1", "r1=", "r1z=1", "z1=5", "r1=-5", "r1=x", "=5"])
def test_bad_affinity_of_reads(text):
    with pytest.raises(ValueError, match="affinity"):
        parse_read_affinity(text)


def test_affinity_of_writes():
    assert parse_write_affinity("r1, r2z1") == (Place(1, None), Place(2, 1))
    with pytest.raises(ValueError, match="affinity"):
        parse_write_affinity("r1=100")


def test_counts_of_nodes():
    assert parse_node_count("2 * replicas").of(3) == 6
    assert parse_node_count(" 5 ").of(3) == 5
    for text in ("x", "2 *", "replicas", "-1", "2*nodes"):
        with pytest.raises(ValueError, match="replicas"):
            parse_node_count(text)
    assert NodeCount(2, True).of(1) == 2


# --- Nodes in trouble -----------------------------------------------------------------


def test_a_node_is_limited_after_more_errors_than_allowed_and_freed_in_time():
    said = []
    limiter = ErrorLimiter(60, 2, said.append)
    one, other = node(1), node(2)
    assert not limiter.add(one, 0)
    assert not limiter.add(one, 1)
    assert not limiter.is_limited(one, 1)
    assert limiter.add(one, 2)
    assert limiter.is_limited(one, 3)
    assert not limiter.is_limited(other, 3)
    assert limiter.is_limited(one, 61)
    assert not limiter.is_limited(one, 62)
    assert "error_limiter.incremented_limit" in said


def test_errors_long_ago_do_not_add_up():
    limiter = ErrorLimiter(60, 1)
    limiter.add(node(1), 0)
    assert not limiter.add(node(1), 100)


def test_an_unusable_device_is_limited_at_once_unless_limits_are_off():
    limiter = ErrorLimiter(60, 10)
    limiter.limit_now(node(1), 0)
    assert limiter.is_limited(node(1), 1)
    never = ErrorLimiter(0, 0)
    never.limit_now(node(1), 0)
    never.add(node(1), 0)
    assert not never.is_limited(node(1), 0)


# --- Order ----------------------------------------------------------------------------


def test_shuffle_gives_every_node_its_turn():
    order = NodeOrder("shuffle", (), NodeTimings(300))
    rng = Random(1)
    nodes = [node(n) for n in (1, 2, 3)]
    seen = {tuple(numbers(order.sort(nodes, rng, 0))) for _ in range(200)}
    assert len(seen) == 6


def test_timing_prefers_the_fast_and_forgets():
    timings = NodeTimings(300)
    order = NodeOrder("timing", (), timings)
    nodes = [node(n) for n in (1, 2, 3)]
    for each, seconds in zip(nodes, (0.3, 0.1, 0.2), strict=True):
        timings.add(each, seconds, 0)
    assert numbers(order.sort(nodes, Random(1), 10)) == [2, 3, 1]
    assert timings.seconds(nodes[0], 301) == 0


def test_affinity_sorts_by_the_first_rule_that_fits():
    order = NodeOrder("affinity", parse_read_affinity("r1z1=1, r1=2"), NodeTimings(300))
    nodes = [node(1, region=2), node(2, region=1, zone=2), node(3, region=1, zone=1)]
    for seed in range(5):
        assert numbers(order.sort(nodes, Random(seed), 0)) == [3, 2, 1]


def test_near_nodes_come_first_up_to_their_count():
    primaries = [node(1, region=1), node(2, region=2), node(3, region=2)]
    handoffs = [node(n, region=1 + n % 2, handoff=True) for n in (4, 5, 6, 7)]
    affinity = parse_write_affinity("r1")
    first, rest = near_first(primaries, handoffs, affinity=affinity, count=3)
    assert numbers(first) == [1, 4, 6]
    assert numbers(rest) == [2, 3, 5, 7]
    first, rest = near_first(primaries, handoffs, affinity=affinity, count=1)
    assert numbers(first) == [1, 2, 3]
    assert numbers(rest) == [4, 5, 6, 7]
    assert numbers(near_handoffs(handoffs, affinity=affinity, count=1)) == [4]
    assert near_handoffs(handoffs, affinity=affinity, count=0) == []


def test_candidates_skip_limited_nodes_and_stop_at_their_count():
    limiter = ErrorLimiter(60, 0)
    limiter.limit_now(node(2), 0)
    used = []
    candidates = Candidates(
        [node(1), node(2), node(3)],
        iter([node(4, handoff=True), node(5, handoff=True), node(6, handoff=True)]),
        count=4,
        limiter=limiter,
        now=lambda: 1.0,
        on_handoff=used.append,
    )
    assert numbers(candidates) == [1, 3, 4, 5]
    assert used == [1, 2]
    assert next(candidates, None) is None


def test_limited_nodes_are_the_last_resort_once():
    limiter = ErrorLimiter(60, 0)
    limiter.limit_now(node(2), 0)
    limiter.limit_now(node(4), 0)
    candidates = Candidates(
        [node(1), node(2)],
        iter([node(4, handoff=True), node(5, handoff=True)]),
        count=4,
        limiter=limiter,
        now=lambda: 1.0,
    )
    assert numbers(candidates) == [1, 5]
    assert numbers(candidates.last_resort()) == [2, 4]
    assert candidates.last_resort() == []


def test_the_last_resort_is_no_longer_than_the_search():
    limiter = ErrorLimiter(60, 0)
    for number in range(1, 10):
        limiter.limit_now(node(number), 0)
    candidates = Candidates(
        [node(1), node(2)],
        iter([node(number, handoff=True) for number in range(3, 10)]),
        count=4,
        limiter=limiter,
        now=lambda: 1.0,
    )
    assert numbers(candidates) == []
    assert numbers(candidates.last_resort()) == [1, 2, 3, 4]
