# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.core.errors import InvalidInput
from swift.core.expiry_queue import (
    Delays,
    Fate,
    Task,
    Verdict,
    fate_of,
    is_usual_container,
    parse_task,
    round_robin,
    verdict_of,
)
from swift.core.names import ContainerName, ObjectName
from swift.core.shares import Share
from swift.core.timestamp import Timestamp

NOW = 1_700_000_000.0


def task(when=NOW - 10, container="c", obj="o", is_async=False):
    target = ObjectName("a", container, obj)
    row = f"{int(when):010d}-{target.path[1:]}"
    return Task("1699919990", row, target, Timestamp.at(when), is_async)


def test_a_row_says_what_goes_and_when():
    found = parse_task("1", "1700000000-a/c/o/with/slashes", "text/plain")

    assert found.target == ObjectName("a", "c", "o/with/slashes")
    assert found.when.normal == "1700000000.00000"
    assert not found.is_async


def test_an_async_delete_has_a_whole_timestamp():
    row = "1700000000.12345_0000000000000001-a/c/o"
    found = parse_task("1", row, "application/async-deleted")

    assert found.is_async
    assert found.when.internal == "1700000000.12345_0000000000000001"


@pytest.mark.parametrize(
    "row",
    ["", "-", "1700000000", "1700000000-a/c", "1700000000-a//o", "x-a/c/o", "-a/c/o"],
)
def test_other_rows_are_refused(row):
    with pytest.raises(InvalidInput):
        parse_task("1", row, "text/plain")


@pytest.mark.parametrize(
    ("number", "usual"),
    [(0, True), (86400, True), (86301, True), (86300, False), (86401, False)],
)
def test_usual_containers_stand_just_before_a_day(number, usual):
    assert is_usual_container(number) is usual


@pytest.mark.parametrize(
    ("given_task", "options", "fate"),
    [
        pytest.param(task(), {}, Fate.ASSIGNED, id="due"),
        pytest.param(task(NOW), {}, Fate.ASSIGNED, id="due right now"),
        pytest.param(task(NOW + 1), {}, Fate.NOT_DUE, id="not due"),
        pytest.param(
            task(NOW - 10), {"delay_reaping_a": "11"}, Fate.DELAYED, id="account waits"
        ),
        pytest.param(
            task(NOW - 10),
            {"delay_reaping_a": "11", "delay_reaping_a/c": "0"},
            Fate.ASSIGNED,
            id="its container does not",
        ),
        pytest.param(
            task(NOW - 10, is_async=True),
            {"delay_reaping_a": "11"},
            Fate.ASSIGNED,
            id="async deletes never wait",
        ),
        pytest.param(
            task(NOW - 12), {"delay_reaping_a": "11"}, Fate.ASSIGNED, id="has waited"
        ),
    ],
)
def test_the_fate_of_a_task(given_task, options, fate):
    delays = Delays.from_options(options)

    assert fate_of(given_task, now=NOW, share=Share(), delays=delays) is fate


@given(st.integers(1, 7), st.text(min_size=1, max_size=8))
def test_each_task_has_exactly_one_expirer(processes, obj):
    found = task(NOW - 1, obj=obj)
    delays = Delays.from_options({})

    fates = [
        fate_of(found, now=NOW, share=Share(processes, number), delays=delays)
        for number in range(processes)
    ]

    assert fates.count(Fate.ASSIGNED) == 1
    assert fates.count(Fate.SKIPPED) == processes - 1


def test_delays_are_percent_encoded():
    delays = Delays.from_options(
        {"delay_reaping_a%2Fb/c%20d": "5", "delay_reaping_a%2Fb": "1.5", "x": "y"}
    )

    assert delays.of(ContainerName("a/b", "c d")) == 5
    assert delays.of(ContainerName("a/b", "other")) == 1.5
    assert delays.of(ContainerName("x", "y")) == 0


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("delay_reaping_", "1"),
        ("delay_reaping_a/", "1"),
        ("delay_reaping_/c", "1"),
        ("delay_reaping_a/c/o", "1"),
        ("delay_reaping_a", "soon"),
        ("delay_reaping_a", "-1"),
    ],
)
def test_bad_delays_are_refused(name, text):
    with pytest.raises(InvalidInput, match="delay_reaping_"):
        Delays.from_options({name: text})


def test_containers_take_turns():
    tasks = [task(container=name, obj=str(n)) for n, name in enumerate("aaabbc")]

    found = list(round_robin(tasks, 100))

    assert "".join(t.target.container for t in found) == "abcaba"


@given(st.lists(st.sampled_from("abc")), st.integers(1, 4))
def test_mixing_loses_nothing(names, room):
    tasks = [task(container=name, obj=str(n)) for n, name in enumerate(names)]

    found = list(round_robin(tasks, room))

    assert sorted(found, key=lambda t: int(t.target.obj)) == tasks


OLD = NOW - 700_000


@pytest.mark.parametrize(
    ("status", "when", "is_async", "verdict"),
    [
        (204, NOW, False, Verdict.POP),
        (409, NOW, False, Verdict.POP),
        (404, NOW, False, Verdict.RETRY),
        (404, OLD, False, Verdict.POP),
        (412, NOW, False, Verdict.RETRY),
        (412, OLD, False, Verdict.POP),
        (503, OLD, False, Verdict.RETRY),
        (0, OLD, False, Verdict.RETRY),
        (404, NOW, True, Verdict.POP),
        (412, NOW, True, Verdict.RETRY),
        (500, NOW, True, Verdict.RETRY),
    ],
)
def test_the_row_goes_when_the_object_certainly_did(status, when, is_async, verdict):
    found = verdict_of(
        task(when, is_async=is_async), status, now=NOW, reclaim_age_s=604_800
    )

    assert found is verdict
