# SPDX-License-Identifier: Apache-2.0
"""What replicas of a database exchange, decided by values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swift.core.db_sync import (
    PeerAnswer,
    Step,
    handoff_may_go,
    next_step,
    others_in_order,
)
from swift.core.misplaced import queue_container, queue_name, queue_row

GOLDEN = Path(__file__).parents[2] / "interop" / "golden" / "hashing"


def answer(max_row=0, point=-1, digest="theirs"):
    return PeerAnswer(max_row, point, digest, "id", "1", "1", "0", "")


@pytest.mark.parametrize(
    ("max_row", "outgoing", "peer", "expected"),
    [
        pytest.param(9, -1, answer(9, 9), Step.NOTHING, id="the peer knows all rows"),
        pytest.param(9, 9, answer(9, 3), Step.NOTHING, id="we know to have sent all"),
        pytest.param(-1, -1, answer(5), Step.NOTHING, id="we have no rows"),
        pytest.param(9, 3, answer(9, 3, "ours"), Step.REMEMBER, id="equal hashes"),
        pytest.param(9, 3, answer(9, 3), Step.ROWS, id="a few rows lack"),
        pytest.param(5000, -1, answer(2500), Step.ROWS, id="exactly half is not far"),
        pytest.param(5000, -1, answer(2499), Step.WHOLE_FILE, id="less than half is"),
        pytest.param(1000, -1, answer(0), Step.ROWS, id="one batch is not far"),
        pytest.param(1001, -1, answer(0), Step.WHOLE_FILE, id="more than one batch is"),
        pytest.param(1001, -1, answer(-1), Step.WHOLE_FILE, id="a peer without rows"),
    ],
)
def test_next_step(max_row, outgoing, peer, expected):
    found = next_step(
        max_row=max_row, own_hash="ours", outgoing=outgoing, answer=peer, per_diff=1000
    )
    assert found is expected


def test_replicas_begin_with_the_next_one():
    assert others_in_order("abc", 0) == ["b", "c"]
    assert others_in_order("abc", 1) == ["c", "a"]
    assert others_in_order("abc", 2) == ["a", "b"]
    assert others_in_order("abc", None) == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("pushes", "grown", "handoff_delete", "expected"),
    [
        pytest.param([True] * 3, False, None, True, id="all have it"),
        pytest.param([True, True, False], False, None, False, id="one lacks it"),
        pytest.param([True, True, False], False, 2, True, id="two are enough"),
        pytest.param([True, False, False], False, 2, False, id="one is not"),
        pytest.param([True] * 3, True, None, False, id="rows came in meanwhile"),
        pytest.param([], False, None, False, id="nobody was asked"),
    ],
)
def test_when_a_handoff_may_go(pushes, grown, handoff_delete, expected):
    found = handoff_may_go(pushes, grown=grown, handoff_delete=handoff_delete)
    assert found is expected


@pytest.mark.parametrize(
    "case", json.loads((GOLDEN / "reconciler_queue.json").read_text())
)
def test_misplaced_rows_go_to_the_golden_queue(case):
    policy, _, path = case["object"].partition(":")
    assert queue_container(case["created_at"]) == case["container"]
    assert queue_name(int(policy), path) == case["object"]


def test_an_entry_tells_what_happened_to_the_object():
    record = {
        "name": "o",
        "created_at": "1700000000.00000",
        "deleted": 1,
        "storage_policy_index": 3,
    }
    row = queue_row("/AUTH_test/c", record)
    assert row.name == "3:/AUTH_test/c/o"
    assert (row.content_type, row.etag) == (
        "application/x-delete",
        "1700000000.00000",
    )
    assert queue_row("/a/c", {**record, "deleted": 0}).content_type == (
        "application/x-put"
    )
