# SPDX-License-Identifier: Apache-2.0
"""The rules that every ring of a builder keeps, whatever was done to it before."""

from __future__ import annotations

import math
import pickle
import random
from array import array
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from swift.core import pickles
from swift.core.errors import FormatError
from swift.core.ring.builder import (
    BadDevice,
    PartPowerConflict,
    RingBuilder,
    RingError,
)
from swift.core.ring.composite import CompositeBuilder, CompositionError
from swift.core.ring.plan import ROOT, make_plan
from swift.core.ring.ring import row_lengths

NOW = 1_700_000_000
HOUR = 3600


def builder_of(
    *weights: float,
    part_power: int = 6,
    replicas: float = 3,
    min_part_hours: int = 1,
    layout: Any = lambda n: {"region": 1, "zone": n, "ip": f"10.0.0.{n}"},
) -> RingBuilder:
    builder = RingBuilder(part_power, replicas, min_part_hours)
    for number, weight in enumerate(weights):
        builder.add_device(
            port=6200, name=f"sd{number}", weight=weight, **layout(number)
        )
    return builder


def rebalanced(builder: RingBuilder, seed: int = 1, now: float = NOW) -> RingBuilder:
    builder.rebalance(now=now, rng=random.Random(seed))
    return builder


def columns(builder: RingBuilder) -> list[list[int]]:
    rows = builder.rows or []
    return [[row[p] for row in rows if p < len(row)] for p in range(builder.parts)]


device_layouts = st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 4)).map(
    lambda spread: (
        lambda n: {
            "region": n % spread[0],
            "zone": n % spread[1],
            "ip": f"10.0.{n % spread[0]}.{n % spread[2]}",
        }
    )
)
weight_lists = st.lists(
    st.sampled_from([1.0, 50.0, 100.0, 100.0, 100.0, 400.0]), min_size=4, max_size=14
)
replica_counts = st.sampled_from([1, 2, 2.5, 3, 3.25, 4])
changes = st.lists(
    st.tuples(
        st.sampled_from(["add", "remove", "weight", "replicas", "overload", "zone"]),
        st.integers(0, 30),
        st.booleans(),
    ),
    max_size=6,
)


def apply(builder: RingBuilder, change: tuple[str, int, bool]) -> None:
    kind, number, _ = change
    live = [d for d in builder.present_devices if d.id not in builder.removed]
    device = live[number % len(live)]
    weighted = sum(1 for d in live if d.weight > 0)
    spare = weighted - 1 >= builder.replicas
    if kind == "add":
        builder.add_device(
            region=number % 2,
            zone=number % 3,
            ip=f"10.9.{builder.version % 250}.{number}",
            port=6200,
            name="x",
            weight=100.0,
        )
    elif kind == "remove" and spare:
        builder.remove_device(device.id)
    elif kind == "weight" and (spare or number % 3):
        builder.set_weight(device.id, float(number % 3) * 100)
    elif kind == "zone":
        builder.set_zone(device.id, number % 4)
    elif kind == "overload":
        builder.set_overload(number / 10)
    elif kind == "replicas":
        builder.set_replicas(min(weighted, 1 + (number % 13) / 4))


def check_rules(builder: RingBuilder) -> None:
    """Rules 1, 2, 6 and 7 of the format page."""
    builder.validate()
    assert builder.rows is not None
    assert [len(row) for row in builder.rows] == row_lengths(
        builder.part_power, builder.replicas
    )
    present = {device.id for device in builder.present_devices}
    held: Counter[int] = Counter()
    for column in columns(builder):
        assert len(set(column)) == len(column)
        assert set(column) <= present
        held.update(column)
    assert all(builder.part_count(i) == held[i] for i in present)
    assert not builder.devices or builder.devices[-1] is not None


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(weight_lists, replica_counts, device_layouts, changes, st.integers(0, 1 << 30))
def test_every_history_keeps_the_rules(
    weights: list[float],
    replicas: float,
    layout: Any,
    history: list[tuple[str, int, bool]],
    seed: int,
) -> None:
    builder = builder_of(
        *weights, part_power=5, replicas=min(replicas, len(weights)), layout=layout
    )
    now = NOW
    rebalanced(builder, seed, now)
    check_rules(builder)
    for change in history:
        before = columns(builder)
        old_hours = list(builder.last_moves)
        apply(builder, change)
        removed = set(builder.removed)
        if change[2]:
            now += 2 * HOUR
        rebalanced(builder, seed, now)
        check_rules(builder)
        elapsed = 2 if change[2] else 0
        for partition, (old, new) in enumerate(
            zip(before, columns(builder), strict=True)
        ):
            forced = sum(1 for d in old if d in removed)
            dropped = max(0, len(old) - len(new))
            lost = len(set(old) - set(new))
            may_move = old_hours[partition] + elapsed >= builder.min_part_hours
            assert lost <= dropped + max(forced, may_move), (partition, old, new)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(weight_lists, replica_counts, device_layouts, st.integers(0, 1 << 30))
def test_a_first_rebalance_is_balanced_and_spread_as_planned(
    weights: list[float], replicas: float, layout: Any, seed: int
) -> None:
    replicas = min(replicas, len(weights))
    builder = rebalanced(
        builder_of(*weights, part_power=7, replicas=replicas, layout=layout), seed
    )
    plan = builder.plan()
    for column in columns(builder):
        held: Counter[Any] = Counter()
        for device_id in column:
            held.update(builder.device(device_id).tiers)
        for tier, count in held.items():
            assert count <= plan.most(tier)
    # Each device has its share, but for what rounding and clashes at the end cost.
    slack = 2 + 0.02 * builder.parts
    for device in builder.present_devices:
        share = plan.target[device.tiers[3]] * builder.parts
        assert abs(builder.part_count(device.id) - share) <= slack


@settings(max_examples=100, deadline=None)
@given(
    weight_lists, replica_counts, device_layouts, st.sampled_from([0.0, 0.1, 0.5, 10.0])
)
def test_a_plan_adds_up_and_keeps_its_bounds(
    weights: list[float], replicas: float, layout: Any, overload: float
) -> None:
    replicas = min(replicas, len(weights))
    builder = builder_of(*weights, replicas=replicas, layout=layout)
    plan = make_plan(builder.present_devices, replicas, overload)
    for values in (plan.weighted, plan.spread, plan.target):
        assert values[ROOT] == pytest.approx(replicas)
        for parent, below in plan.children.items():
            assert sum(values[t] for t in below) == pytest.approx(values[parent])
        for tier in values:
            if len(tier) == 4:
                assert -1e-9 <= values[tier] <= 1 + 1e-9
    for tier, share in plan.target.items():
        if len(tier) == 4:
            most = plan.weighted[tier] * (1 + overload)
            assert share <= max(most, plan.weighted[tier]) + 1e-9


def test_the_plan_without_overload_follows_the_weights() -> None:
    builder = builder_of(200, 100, 100)
    plan = builder.plan()
    assert plan.weighted[(1, 1)] == pytest.approx(1.0)
    assert plan.target[(1, 0)] == pytest.approx(1.0)


def test_overload_lets_zones_of_small_devices_take_more() -> None:
    def layout(n: int) -> dict[str, Any]:
        return {"region": 1, "zone": min(n, 2), "ip": f"10.0.0.{n}"}

    # Zones of weight 200, 100 and 100: by weight the first holds 1.5 of 3 replicas.
    builder = builder_of(100, 100, 100, 100, layout=layout)
    builder.set_zone(1, 0)
    builder.set_zone(2, 1)
    assert builder.plan().target[(1, 0)] == pytest.approx(1.5)
    assert builder.required_overload() == pytest.approx(1 / 3)
    builder.set_overload(1 / 6)
    assert builder.plan().target[(1, 0)] == pytest.approx(1.25)
    builder.set_overload(1.0)
    assert builder.plan().target[(1, 0)] == pytest.approx(1.0)


def test_dispersion_counts_replicas_beyond_the_even_split() -> None:
    def layout(n: int) -> dict[str, Any]:
        return {"region": 1, "zone": 1, "ip": f"10.0.0.{min(n, 1)}"}

    # All of server 1's devices must take two replicas of most partitions.
    builder = rebalanced(builder_of(1, 100, 100, 100, replicas=2, layout=layout))
    counts = Counter(sum(1 for d in column if d != 0) for column in columns(builder))
    assert builder.dispersion == pytest.approx(100 * counts[2] / (2 * builder.parts))
    graph = builder.dispersion_graph[(1, 1, "10.0.0.1")]
    assert graph == [counts[0], counts[1], counts[2]]


def test_no_partition_moves_before_its_time() -> None:
    builder = rebalanced(builder_of(100, 100, 100, 100, min_part_hours=3))
    builder.add_device(zone=9, ip="10.0.0.9", port=6200, name="new", weight=100)
    early, late = (RingBuilder.load(builder.dump()) for _ in range(2))
    rebalanced(early, now=NOW + 3 * HOUR - 1)
    assert early.part_count(4) == 0
    rebalanced(late, now=NOW + 3 * HOUR)
    assert late.part_count(4) > 0


def test_hours_are_counted_from_the_last_count_and_saturate() -> None:
    builder = rebalanced(builder_of(100, 100, 100, 100, min_part_hours=1))
    assert set(builder.last_moves) == {0}
    rebalanced(builder, now=NOW + 5 * HOUR + 100)
    assert set(builder.last_moves) == {5}
    rebalanced(builder, now=NOW + 1000 * HOUR)
    assert set(builder.last_moves) == {255}
    # A clock that went back counts nothing.
    rebalanced(builder, now=NOW)
    assert set(builder.last_moves) == {255}


def test_pretending_lets_all_partitions_move() -> None:
    builder = rebalanced(builder_of(100, 100, 100, 100, min_part_hours=24))
    assert builder.min_part_seconds_left(NOW) == 24 * HOUR
    builder.set_weight(0, 0)
    assert builder.rebalance(now=NOW, rng=random.Random(1)).moved == 0
    builder.pretend_min_part_hours_passed()
    assert builder.min_part_seconds_left(NOW) == 0
    assert builder.rebalance(now=NOW, rng=random.Random(1)).moved > 0
    assert builder.part_count(0) == 0


def test_removed_devices_leave_at_once_and_leave_a_hole() -> None:
    builder = rebalanced(builder_of(100, 100, 100, 100, 100, min_part_hours=24))
    builder.remove_device(1)
    assert builder.device(1).weight == 0
    result = rebalanced(builder).devices
    assert result[1] is None
    assert builder.add_device(zone=7, ip="10.0.0.7", port=1, name="x", weight=1) == 1


def test_trailing_holes_are_trimmed() -> None:
    builder = rebalanced(builder_of(100, 100, 100, 100, 100))
    builder.remove_device(3)
    builder.remove_device(4)
    assert builder.rebalance(now=NOW, rng=random.Random(1)).removed == 2
    assert len(builder.devices) == 3


def test_nothing_moves_when_nothing_changed() -> None:
    builder = rebalanced(builder_of(100, 100, 50, 75, 100, min_part_hours=0))
    for seed in range(5):
        assert builder.rebalance(now=NOW, rng=random.Random(seed)).moved == 0


def test_a_first_rebalance_reports_every_entry() -> None:
    builder = builder_of(100, 100, 100, 100)
    result = builder.rebalance(now=NOW, rng=random.Random(1))
    assert result.moved == 3 * builder.parts
    assert builder.balance() == result.balance == 0.0
    assert builder.dispersion == 0.0


def test_equal_seeds_give_equal_rings() -> None:
    one, two = (rebalanced(builder_of(100, 70, 100, 100, 30), 7) for _ in range(2))
    assert one.dump() == two.dump()
    other = rebalanced(builder_of(100, 70, 100, 100, 30), 8)
    assert other.rows != one.rows


def test_a_new_replica_leaves_the_others_where_they_are() -> None:
    builder = rebalanced(builder_of(100, 100, 100, 100, 100, min_part_hours=24))
    before = [array("H", row) for row in builder.rows or []]
    builder.set_replicas(3.5)
    result = builder.rebalance(now=NOW, rng=random.Random(3))
    assert result.moved == builder.parts // 2
    assert (builder.rows or [])[:3] == before


def test_a_dropped_replica_moves_nothing_by_itself() -> None:
    builder = rebalanced(builder_of(100, 100, 100, 100, 100, min_part_hours=24))
    before = [array("H", row) for row in builder.rows or []]
    builder.set_replicas(2)
    builder.rebalance(now=NOW, rng=random.Random(3))
    assert builder.rows == before[:2]


def test_a_duplicate_is_parted_whatever_the_time() -> None:
    builder = rebalanced(builder_of(100, 100, 100, 100, 100, min_part_hours=24))
    state = pickles.loads_builder(builder.dump())
    rows = state["_replica2part2dev"]
    rows[1][5] = rows[0][5]
    broken = RingBuilder.load(pickle.dumps(state, 2))
    with pytest.raises(RingError, match="twice"):
        broken.validate()
    rebalanced(broken)
    broken.validate()


@pytest.mark.parametrize(
    "facts",
    [(-1, 3, 1), (33, 3, 1), (8, 0.5, 1), (8, math.nan, 1), (8, 3, -1)],
)
def test_builders_that_cannot_be_are_refused(facts: tuple[int, float, int]) -> None:
    with pytest.raises(RingError):
        RingBuilder(*facts)


def test_the_limits_of_the_part_power() -> None:
    assert RingBuilder(0, 1, 0).parts == 1
    assert RingBuilder(32, 1, 0).parts == 1 << 32


@pytest.mark.parametrize(
    "change",
    [
        {"weight": -1},
        {"weight": math.inf},
        {"port": 0},
        {"name": ""},
        {"name": " x"},
        {"device_id": -1},
    ],
    ids=str,
)
def test_devices_that_cannot_be_are_refused(change: dict[str, Any]) -> None:
    device = {"zone": 1, "ip": "10.0.0.1", "port": 1, "name": "x", "weight": 1}
    with pytest.raises(BadDevice):
        RingBuilder(4, 1, 1).add_device(**{**device, **change})


def test_two_devices_cannot_be_in_one_place() -> None:
    builder = builder_of(1, 1)
    with pytest.raises(RingError):
        builder.add_device(zone=1, ip="10.0.0.0", port=6200, name="sd0", weight=1)
    with pytest.raises(RingError):
        builder.set_info(1, {"ip": "10.0.0.0", "name": "sd0"})
    assert builder.set_info(1, {"ip": "10.0.0.0"}).ip == "10.0.0.0"


def test_too_few_devices_leave_the_builder_alone() -> None:
    builder = builder_of(100, 100, 0)
    before = builder.dump()
    with pytest.raises(RingError):
        rebalanced(builder)
    with pytest.raises(RingError):
        rebalanced(RingBuilder(4, 1, 1))
    assert builder.dump() == before


def test_wide_ids_widen_the_table() -> None:
    builder = rebalanced(builder_of(100, 100, 100))
    builder.add_device(
        zone=8, ip="10.0.0.8", port=1, name="x", weight=100, device_id=70000
    )
    builder.pretend_min_part_hours_passed()
    rebalanced(builder)
    assert builder.dev_id_bytes == 4
    assert {row.typecode for row in builder.rows or []} == {"I"}
    assert builder.part_count(70000) > 0
    assert RingBuilder.load(builder.dump()).rows == builder.rows


def test_a_part_power_increase_doubles_every_partition_in_place() -> None:
    builder = rebalanced(builder_of(100, 100, 100, 100))
    before = [list(row) for row in builder.rows or []]
    with pytest.raises(PartPowerConflict):
        builder.increase_partition_power(now=NOW)
    builder.prepare_increase_partition_power()
    assert builder.next_part_power == 7
    for refused in (
        builder.prepare_increase_partition_power,
        builder.finish_increase_partition_power,
        lambda: rebalanced(builder),
        lambda: builder.remove_device(0),
        lambda: builder.add_device(zone=1, ip="1.2.3.4", port=1, name="x", weight=1),
    ):
        with pytest.raises(PartPowerConflict):
            refused()
    builder.increase_partition_power(now=NOW)
    assert [list(row)[0::2] for row in builder.rows or []] == before
    assert [list(row)[1::2] for row in builder.rows or []] == before
    assert builder.part_power == builder.next_part_power == 7
    builder.validate()
    with pytest.raises(PartPowerConflict):
        builder.cancel_increase_partition_power()
    builder.finish_increase_partition_power()
    assert builder.next_part_power is None
    again = RingBuilder.load(builder.dump())
    assert isinstance(pickles.loads_builder(again.dump())["_last_part_moves"], list)
    rebalanced(again, now=NOW + 100 * HOUR)


def test_a_part_power_increase_can_be_cancelled_before_it_happens() -> None:
    builder = rebalanced(builder_of(100, 100, 100))
    builder.prepare_increase_partition_power()
    builder.cancel_increase_partition_power()
    assert builder.next_part_power == builder.part_power == 6
    builder.finish_increase_partition_power()
    assert builder.next_part_power is None


def test_a_builder_comes_back_from_its_ring() -> None:
    builder = rebalanced(builder_of(100, 50, 100, 100, replicas=2.5))
    ring = builder.ring()
    again = RingBuilder.from_ring(ring, 24)
    again.validate()
    assert again.ring().rows == ring.rows
    assert again.replicas == 2.5
    assert again.balance() == builder.balance()
    again.set_weight(0, 0)
    again.rebalance(now=NOW, rng=random.Random(1))
    assert again.part_count(0) == 0


def test_a_builder_file_survives_reading_and_writing() -> None:
    builder = rebalanced(builder_of(100, 50, 100, 100, replicas=2.5))
    builder.id = "ab" * 16
    builder.remove_device(2)
    data = builder.dump()
    again = RingBuilder.load(data)
    assert again.dump() == data
    assert again.removed == {2}
    assert again.id == builder.id


def test_a_builder_pickled_by_a_newer_protocol_is_read() -> None:
    data = rebalanced(builder_of(100, 50, 100, 100)).dump()
    newer = pickle.dumps(pickles.loads_builder(data), 4)
    assert b"_array_reconstructor" in newer
    assert RingBuilder.load(newer).dump() == data


@pytest.mark.parametrize(
    "change",
    [
        {"_replica2part2dev": [array("H", [0] * 99)]},
        {"_replica2part2dev": [[-1] * 64]},
        {"devs": [{"id": 5}]},
        {"devs": None},
        {"replicas": "three"},
        {"version": None},
        {"_last_part_moves": [256]},
        {"overload": "x"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_builders_with_impossible_fields_are_refused(change: dict[str, Any]) -> None:
    state = pickles.loads_builder(rebalanced(builder_of(1, 1, 1)).dump())
    with pytest.raises(FormatError):
        RingBuilder.load(pickle.dumps({**state, **change}, 2))


@given(st.binary(max_size=40))
def test_other_bytes_are_no_builder(data: bytes) -> None:
    with pytest.raises(FormatError):
        RingBuilder.load(data)


def component(region: int, **facts: Any) -> RingBuilder:
    def layout(n: int) -> dict[str, Any]:
        return {"region": region, "zone": n, "ip": f"10.{region}.0.{n}"}

    builder = rebalanced(builder_of(1, 1, 1, replicas=2, layout=layout, **facts))
    builder.id = f"{region:032x}"
    return builder


def test_a_composite_stacks_its_components() -> None:
    one, two = component(1), component(2)
    one.remove_device(0)
    one.add_device(region=1, zone=5, ip="10.1.0.5", port=1, name="x", weight=1)
    rebalanced(one)
    note = CompositeBuilder()
    ring = note.compose({"one": one, "two": two}, force=False)
    assert ring.replica_count == 4
    assert [list(row) for row in ring.rows[:2]] == [list(r) for r in one.rows or []]
    assert [[d - 4 for d in row] for row in ring.rows[2:]] == [
        list(r) for r in two.rows or []
    ]
    assert ring.devices[0] is None
    assert ring.version is None
    assert CompositeBuilder.load(note.dump()).facts() == note.facts()


def test_a_composite_is_made_again_only_from_the_same_newer_components() -> None:
    one, two = component(1), component(2)
    note = CompositeBuilder()
    note.compose({"one": one, "two": two}, force=False)
    with pytest.raises(CompositionError, match="modified"):
        note.compose({"one": one, "two": two}, force=False)
    note.compose({"one": one, "two": two}, force=True)
    with pytest.raises(CompositionError):
        note.compose({"two": two, "one": one}, force=True)
    with pytest.raises(CompositionError):
        note.compose({"one": one, "two": two, "three": component(3)}, force=True)
    one.version -= 1
    with pytest.raises(CompositionError, match="older"):
        note.compose({"one": one, "two": two}, force=True)
    one.version += 2
    note.compose({"one": one, "two": two}, force=False)
    assert note.version == 3


def changed(builder: RingBuilder) -> RingBuilder:
    builder.set_weight(0, 5)
    return builder


def without_id(builder: RingBuilder) -> RingBuilder:
    builder.id = None
    return builder


@pytest.mark.parametrize(
    "others",
    [
        pytest.param(list, id="too few"),
        pytest.param(lambda: [component(1)], id="same id and region"),
        pytest.param(lambda: [component(2, part_power=5)], id="part power"),
        pytest.param(lambda: [changed(component(2))], id="pending changes"),
        pytest.param(lambda: [without_id(component(2))], id="no id"),
    ],
)
def test_components_that_do_not_fit_are_refused(others: Any) -> None:
    builders = {str(n): b for n, b in enumerate([component(1), *others()])}
    with pytest.raises(CompositionError):
        CompositeBuilder().compose(builders, force=False)
