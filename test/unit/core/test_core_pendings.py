# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pickle
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.core.errors import FormatError
from swift.core.hashing import HashSalt
from swift.core.headers import Headers
from swift.core.names import ContainerName, ObjectName
from swift.core.pendings import (
    Answer,
    ContainerPace,
    OldestPendings,
    Redirect,
    Update,
    combined_report,
    redirect_of,
    settle,
    split_file_name,
)
from swift.core.timestamp import Timestamp

RECORD = {
    "op": "PUT",
    "account": "a",
    "container": "c",
    "obj": "o",
    "headers": {"X-Timestamp": "1700000000.00000", "X-Size": "3"},
}
UPDATE = Update.from_record(RECORD)
SHARD = ContainerName(".shards_a", "c-1")


def redirect(path: str, when: int) -> Redirect:
    account, container = path.split("/")
    return Redirect(ContainerName(account, container), Timestamp.at(when))


# --- Files ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "good"),
    [
        ("0" * 32 + "-1700000000.00000", True),
        ("0" * 32 + "-1700000000.00000_0000000000000001", True),
        ("0" * 32, False),
        ("-1700000000.00000", False),
        ("abc-", False),
        ("abc-def-ghi", False),
    ],
)
def test_a_file_is_named_by_hash_and_time(name, good):
    assert (split_file_name(name) is not None) is good


def test_a_record_survives_its_own_writing():
    update = Update.from_record(
        {
            **RECORD,
            "db_state": "sharded",
            "container_path": ".shards_a/c-1",
            "successes": [3, 1],
            "redirect_history": [".shards_a/c-1"],
        }
    )

    assert update.target == SHARD
    assert update.successes == {1, 3}
    again = Update.read(pickle.dumps(update.record(), protocol=2))
    assert again == update


def test_an_update_without_shard_goes_to_its_own_container():
    assert UPDATE.target == ContainerName("a", "c")
    assert "container_path" not in UPDATE.record()


@pytest.mark.parametrize(
    "changes",
    [
        {"op": "POST"},
        {"op": ["PUT"]},
        {"account": ""},
        {"container": 7},
        {"obj": b"o"},
        {"headers": None},
        {"headers": {"X-Size": "1"}},
        {"headers": {"X-Timestamp": "soon"}},
        {"headers": {"X-Timestamp": "1700000000.00000", "X-A": "b\r\nX-C: d"}},
        {"headers": {"X-Timestamp": "1700000000.00000", "X-A\n": "b"}},
        {"headers": {"X-Timestamp": "1700000000.00000", "X-A": "\u1234"}},
        {"headers": {"X-Timestamp": "1700000000.00000", "X-A": ["b"]}},
        {"db_state": 1},
        {"container_path": "no slash"},
        {"container_path": "a/b/c"},
        {"container_path": 9},
        {"successes": "1"},
        {"successes": ["1"]},
        {"redirect_history": "a/c"},
        {"redirect_history": [1]},
        {"redirect_history": ["a/c"] * 2000},
    ],
    ids=str,
)
def test_wrong_types_are_refused(changes):
    with pytest.raises(FormatError):
        Update.from_record({**RECORD, **changes})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.binary(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.sampled_from(sorted(RECORD)), inner)
            | st.dictionaries(st.text(), inner)
        ),
        max_leaves=20,
    )
)
def test_whatever_is_pickled_is_read_or_refused(record):
    with suppress(FormatError):
        Update.read(pickle.dumps(record, protocol=2))


@given(st.binary(max_size=200))
def test_whatever_bytes_there_are_is_no_crash(data):
    with pytest.raises(FormatError):
        Update.read(data)


# --- Answers --------------------------------------------------------------------------


def test_two_hundreds_of_all_nodes_deliver():
    settled = settle(UPDATE, [Answer(1, 201), Answer(2, 204), Answer(3, 202)])

    assert settled.delivered
    assert not settled.changed


def test_no_node_left_is_delivered():
    assert settle(UPDATE, []).delivered


def test_partial_success_is_remembered():
    settled = settle(UPDATE, [Answer(1, 201), Answer(2, 0), Answer(3, 503)])

    assert not settled.delivered
    assert settled.changed
    assert settled.update.successes == {1}
    again = settle(settled.update, [Answer(2, 0), Answer(3, 503)])
    assert not again.changed


def test_the_newest_redirect_wins_and_successes_are_forgotten():
    update = settle(UPDATE, [Answer(1, 201), Answer(2, 500)]).update

    settled = settle(
        update,
        [
            Answer(2, 301, redirect(".shards_a/c-1", 5)),
            Answer(3, 301, redirect(".shards_a/c-2", 9)),
            Answer(4, 201),
        ],
    )

    assert settled.redirected
    assert settled.changed
    assert settled.update.target == ContainerName(".shards_a", "c-2")
    assert settled.update.successes == frozenset()
    assert settled.update.history == (".shards_a/c-2",)


def test_a_redirect_loop_starts_over_at_the_root():
    first = settle(UPDATE, [Answer(1, 301, redirect(".shards_a/c-1", 5))]).update
    second = settle(first, [Answer(1, 301, redirect(".shards_a/c-2", 6))]).update

    settled = settle(second, [Answer(1, 301, redirect(".shards_a/c-1", 7))])

    assert settled.redirected
    assert settled.update.target == ContainerName("a", "c")
    assert settled.update.history == ()


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Location": "/.shards_a/c-1/o"}, SHARD),
        (
            {
                "Location": "/.shards_a/c%2D1/o%2Fx",
                "X-Backend-Location-Is-Quoted": "true",
            },
            SHARD,
        ),
        ({"Location": "/.shards_a/c%2D1/o"}, ContainerName(".shards_a", "c%2D1")),
        (
            {"Location": "/\u00c3\u00bc/c/o"},
            ContainerName("\u00fc", "c"),
        ),
        ({"Location": "nonsense"}, None),
        ({"Location": "//c/o"}, None),
        ({}, None),
    ],
    ids=str,
)
def test_a_location_is_read_as_it_was_written(headers, expected):
    found = redirect_of(
        301,
        Headers({"X-Backend-Redirect-Timestamp": "1700000000.00000", **headers}),
    )

    assert (found.target if found else None) == expected


def test_a_redirect_needs_its_time_and_its_status():
    location = {"Location": "/.shards_a/c-1/o"}
    when = {"X-Backend-Redirect-Timestamp": "1700000000.00000"}

    assert redirect_of(301, Headers(location)) is None
    assert redirect_of(302, Headers({**location, **when})) is None
    bad = {**location, "X-Backend-Redirect-Timestamp": "x"}
    assert redirect_of(301, Headers(bad)) is None


# --- Pace -----------------------------------------------------------------------------


def pace(**changes) -> ContainerPace[str]:
    options = {"buckets": 1000, "held_max": 10, "salt": HashSalt(b"x", b""), **changes}
    return ContainerPace(options.pop("rate", 2.0), **options)


def test_a_container_takes_one_update_an_interval():
    limits = pace()
    busy, quiet = ContainerName("a", "busy"), ContainerName("a", "quiet")

    assert limits.admit(busy, 10.0) is None
    assert limits.admit(busy, 10.1) is not None
    assert limits.admit(quiet, 10.1) is None
    assert limits.admit(busy, 10.5) is None


def test_without_a_rate_everything_is_sent():
    limits = pace(rate=0.0)

    assert all(limits.admit(SHARD, 1.0) is None for _ in range(100))
    assert limits.next_at() is None


def test_held_updates_come_out_newest_first_when_their_bucket_is_ready():
    limits = pace()
    assert limits.admit(SHARD, 0.0) is None
    for number in range(3):
        assert limits.hold(limits.admit(SHARD, 0.1), f"u{number}") == 0

    assert limits.release(0.2) == []
    assert limits.next_at() == 0.5
    assert limits.release(0.5) == ["u2"]
    assert limits.release(0.6) == []
    assert limits.release(1.0) == ["u1"]
    assert len(limits) == 1


def test_the_oldest_is_given_up_when_too_many_are_held():
    limits = pace(held_max=2)
    limits.admit(SHARD, 0.0)
    bucket = limits.admit(SHARD, 0.0)

    given_up = [limits.hold(bucket, f"u{number}") for number in range(4)]

    assert given_up == [0, 0, 1, 1]
    assert limits.release(9.0) == ["u3"]
    assert limits.release(10.0) == ["u2"]
    assert limits.release(11.0) == []
    assert limits.next_at() is None


def test_with_no_room_every_deferral_is_given_up():
    limits = pace(held_max=0)

    assert limits.hold(3, "u") == 1
    assert len(limits) == 0


# --- Who waits longest ----------------------------------------------------------------


def test_the_oldest_of_each_container_is_kept_and_the_newest_containers_dropped():
    tracker = OldestPendings(2)
    for container, when in [("b", 5), ("a", 9), ("a", 3), ("a", 4), ("c", 7), ("d", 1)]:
        tracker.add(ContainerName("acc", container), Timestamp.at(when))

    report = tracker.report(10.0, 1)

    assert report["failures_oldest_timestamp"] == 1.0
    assert report["failures_oldest_timestamp_age"] == 9.0
    assert report["failures_account_container_count"] == 2
    assert report["failures_oldest_timestamp_account_containers"] == {
        "oldest_count": 1,
        "oldest_entries": [
            {"timestamp": "0000000001.00000", "account": "acc", "container": "d"}
        ],
    }
    assert report["tracker_memory_usage"] > 0


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 50))),
    st.integers(0, 4),
)
def test_the_tracker_never_forgets_an_older_container_for_a_newer(events, room):
    tracker = OldestPendings(room)
    for container, when in events:
        tracker.add(ContainerName("a", container), Timestamp.at(when))

    entries = tracker.report(100.0, 10)["failures_oldest_timestamp_account_containers"]
    assert len(entries["oldest_entries"]) <= room
    if room and events:
        oldest = min(when for _, when in events)
        assert entries["oldest_entries"][0]["timestamp"] == Timestamp.at(oldest).normal


def test_reports_of_devices_are_combined():
    first, second = OldestPendings(5), OldestPendings(5)
    first.add(ContainerName("a", "c"), Timestamp.at(5))
    second.add(ContainerName("a", "c"), Timestamp.at(4))
    second.add(ContainerName("a", "d"), Timestamp.at(6))
    reports = [first.report(10.0, 5), second.report(10.0, 5)]

    both = combined_report(reports, workers=2, dump_count=2)

    assert both["failures_oldest_timestamp"] == 4.0
    assert both["failures_oldest_timestamp_age"] == 6.0
    assert both["failures_account_container_count"] == 2
    named = both["failures_oldest_timestamp_account_containers"]
    assert named["oldest_count"] == 2
    memory = sum(report["tracker_memory_usage"] for report in reports)
    assert both["tracker_memory_usage"] == memory


@pytest.mark.parametrize(
    "reports", [[], [None], [{}], ["x"], [{"failures_oldest_timestamp": "soon"}]]
)
def test_nonsense_in_the_cache_is_left_out(reports):
    assert combined_report(reports, workers=1, dump_count=5) == {
        "failures_oldest_timestamp": None,
        "failures_oldest_timestamp_age": None,
        "failures_account_container_count": 0,
        "failures_oldest_timestamp_account_containers": {
            "oldest_count": 0,
            "oldest_entries": [],
        },
        "tracker_memory_usage": 0,
    }


def test_names_survive_that_are_no_unicode():
    name = ObjectName("a", "c", b"\xff".decode("utf-8", "surrogateescape"))
    record = {**RECORD, "obj": name.obj}

    assert Update.from_record(record).name == name
