# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from swift.core.errors import InvalidInput
from swift.core.headers import Headers
from swift.core.names import ObjectName
from swift.core.reconcile import (
    QueueEntry,
    Step,
    container_policy,
    is_superseded,
    parse_entry,
    policy_facts_of,
    step_of,
)
from swift.core.rows import PolicyFacts
from swift.core.timestamp import Timestamp

NOW = 1_700_000_000.0
ROW = {
    "name": "3:/AUTH_test/c/o/x",
    "content_type": "application/x-put",
    "hash": "1700000000.00000+0+15752a000",
    "last_modified": "2023-11-15T14:13:20.000000",
    "bytes": 0,
}


def entry(when=NOW - 100, is_delete=False):
    stamp = Timestamp.at(when)
    target = ObjectName("a", "c", "o")
    return QueueEntry("1", "1:/a/c/o", 1, target, is_delete, stamp, stamp)


def test_a_row_says_which_object_is_where_and_since_when():
    found = parse_entry("1699999200", ROW)

    assert found.target == ObjectName("AUTH_test", "c", "o/x")
    assert (found.policy_index, found.is_delete) == (3, False)
    assert found.when.internal == "1700000000.00000"
    assert found.recorded.internal == "1700057600.00000"
    assert found.removal.internal == "1700057600.00000_0000000000000002"
    assert found.arrival().internal == "1700000000.00000_0000000000000003"
    assert found.source_tombstone.internal == "1700000000.00000_0000000000000001"


def test_offsets_add_up():
    found = parse_entry("1", {**ROW, "hash": "1700000000.00000_0000000000000004"})

    assert found.arrival().offset == 7
    newer = Timestamp.at(NOW + 5, 1)
    assert found.arrival(newer) == Timestamp.at(NOW + 5, 4)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": None},
        {"name": "no colon"},
        {"name": "x:/a/c/o"},
        {"name": "-1:/a/c/o"},
        {"name": "1:/a/c"},
        {"name": "1:a/c/o"},
        {"content_type": "text/plain"},
        {"hash": "d41d8cd98f00b204e9800998ecf8427e"},
        {"hash": None},
        {"last_modified": "yesterday"},
        {"last_modified": 5},
    ],
    ids=str,
)
def test_other_rows_are_refused(changes):
    with pytest.raises(InvalidInput):
        parse_entry("1", {**ROW, **changes})


def facts(index, put="2", delete="0", changed="1"):
    return PolicyFacts(index, put, delete, changed, 1)


@pytest.mark.parametrize(
    ("answers", "policy"),
    [
        pytest.param([facts(1), facts(1)], 1, id="two agree"),
        pytest.param([facts(1)], None, id="one of three is no majority"),
        pytest.param([facts(1), None], 1, id="one does not know it"),
        pytest.param([None, None, None], None, id="none knows it"),
        pytest.param(
            [facts(1, changed="5"), facts(2, changed="4")], 2, id="the older stays"
        ),
        pytest.param(
            [facts(1), facts(2, put="9", delete="5")], 2, id="the re-created wins"
        ),
    ],
)
def test_the_policy_on_which_replicas_will_agree(answers, policy):
    assert container_policy(answers, 3) == policy
    assert container_policy(answers[::-1], 3) == policy


def test_a_replica_tells_its_policy_by_headers():
    found = policy_facts_of(
        Headers(
            {
                "X-Backend-Storage-Policy-Index": "2",
                "X-Backend-PUT-Timestamp": "1700000000.00000",
                "X-Backend-Status-Changed-At": "1700000001.00000",
            }
        )
    )

    assert found.storage_policy_index == 2
    assert found.put_timestamp == "1700000000.00000"
    assert found.status_changed_at == "1700000001.00000"
    assert policy_facts_of(Headers()) is None


def test_what_is_as_new_in_the_right_place_supersedes():
    assert is_superseded(entry(NOW), Timestamp.at(NOW))
    assert is_superseded(entry(NOW), Timestamp.at(NOW, 3))
    assert not is_superseded(entry(NOW), Timestamp.at(NOW - 1))
    assert not is_superseded(entry(NOW), None)


OLD = NOW - 700_000


@pytest.mark.parametrize(
    ("when", "is_delete", "status", "source", "step"),
    [
        pytest.param(NOW, False, 200, NOW, Step.COPY, id="there"),
        pytest.param(NOW, False, 200, NOW + 9, Step.COPY, id="newer there"),
        pytest.param(NOW, False, 200, NOW - 9, Step.WAIT, id="too old"),
        pytest.param(NOW, False, 404, None, Step.WAIT, id="not there"),
        pytest.param(OLD, False, 404, None, Step.GIVE_UP, id="not there for long"),
        pytest.param(OLD, False, 0, None, Step.GIVE_UP, id="no answer for long"),
        pytest.param(NOW, True, 404, NOW, Step.DELETE, id="deleted"),
        pytest.param(NOW, True, 404, None, Step.DELETE, id="deleted, forgotten"),
        pytest.param(NOW, True, 200, NOW + 9, Step.COPY, id="put again"),
        pytest.param(NOW, True, 503, None, Step.WAIT, id="unknown"),
    ],
)
def test_the_step_that_a_source_asks_for(when, is_delete, status, source, step):
    found = step_of(
        entry(when, is_delete),
        status,
        None if source is None else Timestamp.at(source),
        now=NOW,
        reclaim_age_s=604_800,
    )

    assert found is step
