# SPDX-License-Identifier: Apache-2.0
"""Shard ranges: what covers a name, what a listing shows, how rows of a range merge."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.core.errors import FormatError, InvalidInput
from swift.core.shards import (
    ACTIVE,
    CLEAVED,
    CREATED,
    FOUND,
    LISTING_STATES,
    SHARDED,
    SHARDING,
    UPDATING_STATES,
    Namespace,
    ShardQuery,
    ShardRange,
    chosen_ranges,
    merged_range,
    parse_states,
    shards_account,
    usage,
)

_NOW = "1700000500.00000"


def _range(name, lower, upper, state=ACTIVE, **more):
    return replace(
        ShardRange.whole(name, "1700000100.00000"),
        lower=lower,
        upper=upper,
        state=state,
        **more,
    )


_OWN = _range("a/root", "", "", SHARDING, epoch="1700000100.00000")
_ROWS = [
    _OWN,
    _range(".s/two", "m", "", CREATED),
    _range(".s/one", "", "m", CLEAVED, object_count=4, bytes_used=40),
    _range(".s/gone", "m", "t", ACTIVE, deleted=1),
]


def _listed(**params):
    query = ShardQuery.from_params(params)
    found = chosen_ranges(_ROWS, "a/root", query, _NOW)
    return [(row.name, row.lower, row.upper) for row in found]


@pytest.mark.parametrize(
    ("name", "inside"), [("a", False), ("b", True), ("m", True), ("n", False)]
)
def test_a_range_holds_names_above_lower_up_to_upper(name, inside):
    assert (name in Namespace("a/c", "a", "m")) is inside


def test_open_bounds_hold_everything():
    assert "\x00" in Namespace("a/c", "", "")
    assert "\U0010ffff" in Namespace("a/c", "x", "")


def test_a_listing_without_parameters_leaves_out_own_and_deleted():
    assert _listed() == [(".s/one", "", "m"), (".s/two", "m", "")]


def test_listing_states_are_filled_up_with_the_own_range():
    assert _listed(states="listing") == [(".s/one", "", "m"), ("a/root", "m", "")]


def test_updating_states_that_cover_everything_need_no_filler():
    assert _listed(states="updating") == [(".s/one", "", "m"), (".s/two", "m", "")]


def test_auditing_shows_the_own_range_last():
    assert _listed(states="auditing")[-1] == ("a/root", "", "")


@pytest.mark.parametrize(
    ("name", "expected"), [("c", ".s/one"), ("m", ".s/one"), ("z", ".s/two")]
)
def test_includes_gives_the_one_range(name, expected):
    found = _listed(states="updating", includes=name, marker="zzz")
    assert [row[0] for row in found] == [expected]


def test_includes_in_no_listed_range_gives_nothing_not_a_filler():
    assert _listed(states="listing", includes="z") == []


def test_markers_choose_overlapping_ranges():
    assert [row[0] for row in _listed(marker="m")] == [".s/two"]
    assert [row[0] for row in _listed(end_marker="m")] == [".s/one"]
    assert [row[0] for row in _listed(marker="a", end_marker="z")] == [
        ".s/one",
        ".s/two",
    ]


def test_a_filler_ends_at_the_end_marker():
    found = _listed(states="listing", marker="b", end_marker="p")
    assert found == [(".s/one", "", "m"), ("a/root", "m", "p")]
    assert _listed(states="listing", marker="p") == [("a/root", "p", "")]


def test_reverse_swaps_the_markers_and_the_order():
    found = _listed(states="listing", marker="p", end_marker="b", reverse="on")
    assert found == [("a/root", "m", "p"), (".s/one", "", "m")]


def test_a_container_without_own_range_fills_with_the_whole_namespace():
    query = ShardQuery.from_params({"states": "listing"})
    assert chosen_ranges([], "a/c", query, _NOW) == [ShardRange.whole("a/c", _NOW)]


def test_deleted_ranges_are_shown_when_asked_for():
    query = ShardQuery.from_params({}, include_deleted=True)
    names = [row.name for row in chosen_ranges(_ROWS, "a/root", query, _NOW)]
    assert names == [".s/one", ".s/gone", ".s/two"]


def test_an_override_ignores_what_filters_but_the_states():
    params = {"marker": "z", "includes": "z", "states": "listing", "reverse": "on"}
    query = ShardQuery.from_params(params, unfiltered=True)
    assert query == ShardQuery(states=LISTING_STATES, fill=True)


@pytest.mark.parametrize(
    ("text", "states"),
    [
        ("", None),
        ("listing", LISTING_STATES),
        ("updating", UPDATING_STATES),
        ("found,40", frozenset((FOUND, ACTIVE))),
        ("Cleaved", frozenset((CLEAVED,))),
    ],
)
def test_states_are_words_and_numbers(text, states):
    assert parse_states(text)[0] == states


@pytest.mark.parametrize("text", ["bogus", "41", "40,bogus", "9" * 400])
def test_an_unknown_state_is_refused(text):
    with pytest.raises(InvalidInput, match="Bad state"):
        parse_states(text)


def test_only_live_ranges_that_serve_are_counted():
    rows = [
        _range(".s/1", "", "m", ACTIVE, object_count=4, bytes_used=40),
        _range(".s/2", "m", "", SHARDING, object_count=3, bytes_used=30),
        _range(".s/3", "m", "", CREATED, object_count=9, bytes_used=90),
        _range(".s/4", "m", "", ACTIVE, object_count=9, bytes_used=90, deleted=1),
        replace(_OWN, object_count=9, bytes_used=9),
    ]
    assert usage(rows, "a/root") == (7, 70)


# --- Records --------------------------------------------------------------------------


def test_a_record_goes_over_the_wire_and_back():
    record = _ROWS[2].as_record()
    assert ShardRange.from_record(json.loads(json.dumps(record))) == _ROWS[2]
    assert list(record)[:4] == ["name", "timestamp", "lower", "upper"]
    assert len(record) == 13


@pytest.mark.parametrize(
    "change",
    [
        {"name": None},
        {"name": "nocontainer"},
        {"timestamp": "x"},
        {"state": 41},
        {"lower": "z", "upper": "a"},
        {"object_count": "many"},
        {"epoch": "y"},
    ],
    ids=str,
)
def test_a_record_that_is_no_range_is_an_error(change):
    with pytest.raises(FormatError):
        ShardRange.from_record({**_ROWS[2].as_record(), **change})


def test_what_a_record_lacks_gets_its_default():
    made = ShardRange.from_record({"name": "a/b", "timestamp": "1700000100"})
    assert made.timestamp == made.meta_timestamp == "1700000100.00000"
    assert (made.state, made.tombstones, made.epoch) == (FOUND, -1, None)


def test_the_hidden_account_of_shards():
    assert shards_account("AUTH_test") == ".shards_AUTH_test"


# --- Merging --------------------------------------------------------------------------

_tick = st.integers(1, 3)


@st.composite
def _versions(draw: st.DrawFn) -> ShardRange:
    """A version of one range whose fields follow from its three times."""
    made, meta, state_at = draw(_tick), draw(_tick), draw(_tick)
    state = draw(st.sampled_from([FOUND, CREATED, CLEAVED, ACTIVE]))
    return ShardRange(
        ".s/one",
        f"low{made}",
        f"up{made}",
        f"170000000{made}.00000",
        10 * made + meta,
        100 * made + meta,
        f"17000000{made}{meta}.00000",
        made % 2,
        state,
        f"17000000{made}{state_at}.00000",
        f"170000000{state}.00000",
        0,
        meta,
    )


@given(st.lists(_versions(), min_size=1, max_size=4))
def test_ranges_join_alike_in_any_order(versions):
    ends = set()
    for order in permutations(versions):
        stored = None
        for version in order:
            stored = merged_range(stored, version) or stored
        ends.add(stored)
    assert len(ends) == 1


@given(_versions(), _versions())
def test_a_range_told_twice_changes_nothing(first, second):
    stored = merged_range(first, second) or first
    assert merged_range(stored, second) is None
    assert merged_range(stored, first) is None


_ONE = _range(".s/one", "a", "m", CLEAVED, object_count=4, bytes_used=40)


def test_a_newer_range_replaces_all_and_is_not_reported():
    new = replace(_ONE, timestamp="1700000200.00000", lower="b", reported=1)
    assert merged_range(_ONE, new) == replace(new, reported=0)


def test_an_older_range_is_ignored():
    assert merged_range(_ONE, replace(_ONE, timestamp="1700000000.00000")) is None


def test_bounds_stay_when_only_counts_are_newer():
    new = replace(
        _ONE, lower="c", object_count=9, meta_timestamp="1700000200.00000", deleted=1
    )
    merged = merged_range(_ONE, new)
    assert merged == replace(_ONE, object_count=9, meta_timestamp="1700000200.00000")


def test_of_equal_state_times_the_larger_state_wins():
    new = replace(_ONE, state=SHARDED, epoch="1700000300.00000")
    assert merged_range(_ONE, new) == new
    assert merged_range(new, _ONE) is None


def test_reported_is_latched_while_nothing_else_changes():
    reported = replace(_ONE, reported=1)
    assert merged_range(_ONE, reported) == reported
    assert merged_range(reported, _ONE) is None
    later = replace(_ONE, meta_timestamp="1700000200.00000")
    assert merged_range(reported, later) == replace(later, reported=1)
    counted = replace(later, object_count=5)
    assert merged_range(reported, counted) == counted
