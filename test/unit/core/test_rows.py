# SPDX-License-Identifier: Apache-2.0
"""Merging rows is a join: order, repetition and grouping do not matter."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.core.errors import FormatError
from swift.core.rows import (
    ZERO_HASH,
    ContainerRow,
    ObjectRow,
    PolicyFacts,
    chexor,
    merged_container,
    merged_object,
    remote_policy_wins,
    split_swift_bytes,
)
from swift.core.timestamp import Timestamp

_ticks = st.integers(min_value=1, max_value=6)


def _time(tick: int) -> str:
    return Timestamp(170_000_000_000_000 + tick * 100_000).normal


@st.composite
def _object_rows(draw: st.DrawFn) -> ObjectRow:
    """A row whose data follow from its times, as those of one object's history do."""
    data, ctype, meta = draw(_ticks), draw(_ticks), draw(_ticks)
    return ObjectRow(
        "o",
        _time(data),
        data,
        f"type/{ctype};swift_bytes={data}",
        f"etag{data}",
        data % 2,
        0,
        _time(ctype),
        _time(meta),
    )


def _joined(*rows: ObjectRow) -> ObjectRow | None:
    stored: ObjectRow | None = None
    for row in rows:
        stored = merged_object(stored, row) or stored
    return stored


@given(st.lists(_object_rows(), min_size=1, max_size=4))
def test_object_rows_join_alike_in_any_order(rows):
    results = {_joined(*order) for order in permutations(rows)}
    assert len(results) == 1


@given(_object_rows(), _object_rows())
def test_an_object_row_told_twice_changes_nothing(first, second):
    joined = _joined(first, second)
    assert merged_object(joined, first) is None
    assert merged_object(joined, second) is None


@given(_object_rows(), _object_rows(), _object_rows())
def test_object_rows_join_alike_in_any_grouping(first, second, third):
    left = merged_object(_joined(first, second), third) or _joined(first, second)
    tail = _joined(second, third)
    assert tail is not None
    assert _joined(first, tail) == left


def test_what_is_stored_wins_a_tie_of_times():
    # Named tie: two different contents of one time do not commute; the first stays.
    first = ObjectRow("o", _time(1), 1, "a/b", "one")
    second = ObjectRow("o", _time(1), 2, "c/d", "two")
    assert merged_object(first, second) is None
    assert merged_object(second, first) is None


def test_a_new_row_is_stored_with_its_times_encoded():
    row = ObjectRow(
        "posted",
        "1700000005.00000",
        50,
        "text/html",
        "e5",
        0,
        0,
        "1700000006.00000",
        "1700000007.00000",
    )
    stored = merged_object(None, row)
    assert stored is not None
    assert stored.created_at == "1700000005.00000+186a0+186a0"
    assert stored[7:] == (None, None)


def test_a_time_with_offset_is_stored_short():
    row = ObjectRow("o", "1700000009.00000_0000000000000002", 5, "a/b", "e7")
    stored = merged_object(None, row)
    assert stored is not None
    assert stored.created_at == "1700000009.00000_2"


def test_swift_bytes_follow_the_data_and_the_rest_follows_the_content_type():
    old = ObjectRow("o", _time(3), 3, "old/type;swift_bytes=33", "e3")
    post = ObjectRow("o", _time(1), 1, "new/type;swift_bytes=11", "e1", 0, 0, _time(5))
    merged = merged_object(old, post)
    assert merged is not None
    assert merged.content_type == "new/type;swift_bytes=33"
    assert (merged.size, merged.etag) == (3, "e3")


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("text/plain", ("text/plain", None)),
        ("a/b;swift_bytes=12", ("a/b", "12")),
        ("a/b; charset=x;swift_bytes=12", ("a/b; charset=x", "12")),
        ('a/b;swift_bytes="12";q=1', ("a/b;q=1", "12")),
        ("", ("", None)),
    ],
)
def test_swift_bytes_are_taken_out_of_a_content_type(content_type, expected):
    assert split_swift_bytes(content_type) == expected


@pytest.mark.parametrize("created_at", ["", "x", "17.1.1", "1700000000.00000+z"])
def test_a_time_that_is_none_is_an_error(created_at):
    with pytest.raises(FormatError):
        merged_object(None, ObjectRow("o", created_at, 1, "a/b", "e"))


@pytest.mark.parametrize("count", [6, 7, 8, 9])
def test_pending_tuples_of_all_lengths_are_read(count):
    full = (b"n\xc3\xa9", "1700000000.00000", "7", "a/b", "e", 0, 2, None, None)
    row = ObjectRow.from_pending(full[:count])
    assert row.name == "né"
    assert row.size == 7
    assert row.storage_policy_index == (2 if count > 6 else 0)


@pytest.mark.parametrize(
    "fields",
    [
        None,
        (),
        ("a",) * 10,
        ("a", 1, 2, "c", "d", 0),
        ("a", "1", "x", "c", "d", 0),
        ("a", "17000000ab.00000", 1, "c", "d", 0),
        ("a", "1", 1, "c", "d", 0, 0, "never"),
        (b"\xff", "1", 1, "c", "d", 0),
    ],
    ids=ascii,
)
def test_pending_tuples_that_are_no_rows_are_errors(fields):
    with pytest.raises(FormatError):
        ObjectRow.from_pending(fields)


def test_a_record_without_a_field_is_an_error():
    with pytest.raises(FormatError):
        ObjectRow.from_record({"name": "o"})
    with pytest.raises(FormatError):
        ContainerRow.from_record({"name": "c"})


# --- Containers -----------------------------------------------------------------------


@given(
    st.lists(
        st.tuples(_ticks, st.integers(0, 6), st.integers(0, 2)), min_size=1, max_size=4
    )
)
def test_times_of_container_rows_join_alike_in_any_order(facts):
    rows = [
        ContainerRow("c", _time(put), _time(delete) if delete else "0", count, 0)
        for put, delete, count in facts
    ]
    ends = set()
    for order in permutations(rows):
        stored = None
        for row in order:
            stored = merged_container(stored, row)
        assert stored is not None
        ends.add((stored.put_timestamp, stored.delete_timestamp))
    assert len(ends) == 1


def test_the_last_report_of_counts_wins():
    old = ContainerRow("c", "2", "0", 9, 90, 0, 1)
    late = ContainerRow("c", "1", "0", 3, 30, 0, 2)
    assert merged_container(old, late) == ContainerRow("c", "2", "0", 3, 30, 0, 2)


def test_none_keeps_what_is_stored():
    old = ContainerRow("c", "2", "1", 9, 90, 0, 1)
    new = ContainerRow("c", None, None, None, None, 0, None)
    assert merged_container(old, new) == old


@pytest.mark.parametrize(
    ("count", "deleted"), [(0, 1), ("0", 1), ("", 1), (1, 0), ("3", 0)]
)
def test_a_container_row_is_deleted_only_when_empty(count, deleted):
    row = ContainerRow("c", "1700000000.00000", "1700000001.00000", count, 0)
    assert merged_container(None, row).deleted == deleted


# --- Hash and policy ------------------------------------------------------------------


@given(st.lists(st.tuples(st.text(max_size=3), st.text(max_size=3)), max_size=5))
def test_the_hash_of_rows_forgets_their_order_and_can_be_undone(pairs):
    there = ZERO_HASH
    for name, text in pairs:
        there = chexor(there, name, text)
    back = there
    for name, text in reversed(pairs):
        back = chexor(back, name, text)
    assert back == ZERO_HASH
    assert len(there) == 32


_LIVE = PolicyFacts(0, "5", "0", "5", 1)


@pytest.mark.parametrize(
    ("local", "remote", "wins"),
    [
        pytest.param(_LIVE, _LIVE, False, id="equal policies need no winner"),
        pytest.param(
            PolicyFacts(0, "1", "2", "2"),
            PolicyFacts(1, "5", "0", "5", 3),
            True,
            id="the live one beats a deleted one",
        ),
        pytest.param(
            PolicyFacts(0, "5", "0", "5", 3),
            PolicyFacts(1, "1", "2", "2"),
            False,
            id="a deleted one never wins over a live one",
        ),
        pytest.param(
            PolicyFacts(0, "1", "2", "2"),
            PolicyFacts(1, "1", "3", "3"),
            True,
            id="of two deleted ones the newer status",
        ),
        pytest.param(
            PolicyFacts(0, "1", "0", "1", 1),
            PolicyFacts(1, "5", "3", "5", 1),
            True,
            id="the one that was re-created",
        ),
        pytest.param(
            PolicyFacts(0, "4", "3", "4", 1),
            PolicyFacts(1, "9", "5", "9", 1),
            True,
            id="a re-created one older than a delete loses",
        ),
        pytest.param(
            PolicyFacts(0, "6", "3", "6", 1),
            PolicyFacts(1, "7", "5", "7", 1),
            False,
            id="else the older status wins",
        ),
        pytest.param(
            PolicyFacts(0, "6", "0", "6", 1),
            PolicyFacts(1, "4", "0", "4", 1),
            True,
            id="the older of two that were made once",
        ),
        pytest.param(
            PolicyFacts(0, "6", "0", "6", 1),
            PolicyFacts(1, "4", "0", "6", 1),
            False,
            id="a tie keeps the local policy",
        ),
    ],
)
def test_policy_conflicts_are_settled(local, remote, wins):
    assert remote_policy_wins(local, remote) is wins


@given(st.data())
def test_at_most_one_side_of_a_policy_conflict_yields(data):
    def facts(index: int) -> PolicyFacts:
        tick = st.integers(0, 4).map(str)
        return PolicyFacts(
            index,
            data.draw(tick),
            data.draw(tick),
            data.draw(tick),
            data.draw(st.integers(0, 1)),
        )

    one, other = facts(0), facts(1)
    assert not (remote_policy_wins(one, other) and remote_policy_wins(other, one))
