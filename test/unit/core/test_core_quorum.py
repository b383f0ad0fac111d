# SPDX-License-Identifier: Apache-2.0
"""What follows from the answers of several nodes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.core.headers import Headers
from swift.core.quorum import (
    Answer,
    CopyCollector,
    Tally,
    Verdict,
    best,
    newest,
    quorum_size,
    time_of,
)
from swift.core.timestamp import ZERO, Timestamp

DELETED_IS_GONE = {404: 204}


def at(status, seconds=None, **more):
    headers = Headers()
    if seconds is not None:
        headers["X-Backend-Timestamp"] = Timestamp.at(seconds).internal
    return Answer(status, headers, **more)


@pytest.mark.parametrize(
    ("nodes", "expected"), [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (6, 3)]
)
def test_half_of_the_nodes_is_a_quorum(nodes, expected):
    assert quorum_size(nodes) == expected


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        pytest.param([201, 201], Verdict.MET, id="two of three is a quorum"),
        pytest.param([503, 503], Verdict.LOST, id="one silent node cannot save it"),
        pytest.param([201, 503], Verdict.WAITING, id="the last node decides"),
        pytest.param([201, 404], Verdict.WAITING, id="two kinds, one node to come"),
        pytest.param([404, 409], Verdict.MET, id="refusals of one class agree"),
        pytest.param([], Verdict.WAITING, id="nothing said yet"),
    ],
)
def test_verdict_of_a_write_to_three_nodes(statuses, expected):
    tally = Tally(3, 2)
    for status in statuses:
        tally.feed(status)
    assert tally.verdict is expected


def test_a_delete_counts_missing_as_deleted_when_that_makes_a_quorum():
    tally = Tally(3, 2, DELETED_IS_GONE)
    tally.feed(204)
    assert tally.feed(404) is Verdict.MET


@given(
    st.lists(st.sampled_from([200, 201, 204, 301, 404, 409, 500, 503, 507]), max_size=7)
)
def test_what_all_answers_say_is_what_the_tally_said(statuses):
    asked = max(1, len(statuses))
    quorum = quorum_size(asked)
    tally = Tally(asked, quorum)
    for status in statuses:
        verdict = tally.feed(status)
        if verdict is Verdict.LOST:
            break
    chosen = best([Answer(status) for status in statuses], quorum)
    if statuses:
        assert (chosen is not None) == (verdict is Verdict.MET)


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        ([201, 202, 503], 202),
        ([201, 404, 404], 404),
        ([404, 409, 503], 409),
        ([201, 404, 503], None),
        ([204, 404, 503], None),
        ([], None),
    ],
)
def test_the_highest_of_the_class_that_has_a_quorum_speaks_for_all(statuses, expected):
    chosen = best([Answer(status) for status in statuses], 2)
    assert (chosen and chosen.status) == expected


def test_a_mix_of_deleted_and_missing_is_deleted():
    answers = [Answer(404), Answer(204), Answer(503)]
    chosen = best(answers, 2, DELETED_IS_GONE)
    assert chosen is not None
    assert chosen.status == 204
    all_missing = best([Answer(404)] * 3, 2, DELETED_IS_GONE)
    assert all_missing is not None
    assert all_missing.status == 404


def test_the_time_of_an_answer_is_that_of_its_data():
    headers = Headers(
        {
            "X-Timestamp": "3.0",
            "X-Backend-Data-Timestamp": "1.0",
            "X-Put-Timestamp": "2",
        }
    )
    assert time_of(headers) == Timestamp.at(1)
    assert time_of(Headers({"X-Timestamp": "nonsense"})) == ZERO
    assert time_of(Headers()) == ZERO


def test_the_newest_of_many_answers():
    answers = [at(200, 5), at(200, 7, body=b"a"), at(200, 7, body=b"b")]
    chosen = newest(answers)
    assert chosen is answers[1]


def test_a_read_ends_with_the_first_good_answer():
    collector = CopyCollector()
    assert not collector.feed(at(404))
    assert not collector.feed(at(503))
    good = at(200, 5)
    assert collector.feed(good)
    assert collector.chosen is good


def test_a_copy_older_than_a_tombstone_is_dropped():
    collector = CopyCollector()
    collector.feed(at(404, 6))
    stale = at(200, 5)
    assert not collector.feed(stale)
    assert collector.dropped == [stale]
    fresh = at(200, 7)
    assert collector.feed(fresh)


@pytest.mark.parametrize("newest", [False, True])
def test_what_a_node_without_the_object_says_of_a_condition_decides_nothing(newest):
    refused = at(412)
    found = at(200, 1)
    collector = CopyCollector(newest=newest)
    assert not collector.feed(refused)
    assert collector.feed(found) is not newest
    assert collector.chosen is found
    assert collector.dropped == [refused]


def test_a_condition_that_no_node_has_the_object_for_is_a_404():
    collector = CopyCollector()
    for answer in (at(412), at(412, 2), at(412)):
        assert not collector.feed(answer)
    refusal = collector.refusal()
    assert refusal is not None
    assert refusal.status == 404
    databases = CopyCollector(tombstones=False)
    assert databases.feed(at(412))


def test_databases_have_no_tombstones():
    collector = CopyCollector(tombstones=False)
    collector.feed(at(404, 6))
    assert collector.feed(at(204, 5))


def test_newest_looks_at_every_answer_and_drops_the_others():
    collector = CopyCollector(newest=True)
    old, new = at(200, 5), at(200, 9)
    assert not collector.feed(old)
    assert not collector.feed(new)
    assert not collector.feed(at(404, 7))
    assert collector.chosen is new
    assert collector.dropped == [old]
    collector.feed(at(404, 10))
    assert collector.chosen is None
    assert collector.dropped == [old, new]
    assert not collector.undecided


def test_newest_is_in_doubt_until_a_copy_or_a_tombstone_is_seen():
    for answer in (at(200, 5), at(404, 5)):
        collector = CopyCollector(newest=True)
        collector.feed(at(404))
        collector.feed(at(404))
        assert collector.undecided
        collector.feed(answer)
        assert not collector.undecided


@pytest.mark.parametrize(
    ("answers", "suppressed", "expected"),
    [
        pytest.param([at(404)] * 3, 1, 404, id="two that count agree"),
        pytest.param([at(404)], 1, None, id="one that may only be moving says nothing"),
        pytest.param(
            [at(404), at(404, is_handoff=True)], 1, None, id="not by handoffs"
        ),
        pytest.param([at(404, 5)], 1, 404, id="a tombstone counts"),
        pytest.param([at(404, 5, is_handoff=True)], 1, 404, id="on a handoff too"),
        pytest.param([at(404)], 0, 404, id="nothing is suppressed"),
        pytest.param([], 1, None, id="nobody answers"),
    ],
)
def test_what_a_read_without_copy_comes_to(answers, suppressed, expected):
    collector = CopyCollector(suppress_missing=suppressed)
    for answer in answers:
        assert not collector.feed(answer)
    refusal = collector.refusal()
    assert (refusal and refusal.status) == expected
