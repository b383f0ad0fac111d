# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.core.errors import FormatError
from swift.core.sync import (
    LISTING_EVERY,
    confirmed_by_all,
    differing,
    is_listed,
    may_give_up,
    read_suffix_hashes,
)


def test_captured_answers_are_read():
    # golden/wire/replicate-in-sync.json
    answer = b"\x80\x02}q\x00X\x03\x00\x00\x00231q\x01X \x00\x00\x00"
    answer += b"a36499e3fb3408fc0a7088b73e9528c6q\x02s."
    assert read_suffix_hashes(answer) == {"231": "a36499e3fb3408fc0a7088b73e9528c6"}
    assert read_suffix_hashes(b"\x80\x02}q\x00.") == {}


class Evil:
    def __reduce__(self):
        return (print, ("never printed",))


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        "text",
        {1: "digest"},
        {"zzz": "digest"},
        {"../": "digest"},
        {"abc": 7},
        {"abc": ["digest"]},
        {"abc": {"0": "digest"}},
        {"abc": {0: 1}},
        {"abc": {True: "digest"}},
        {"valid": True},
        {"abc": Evil()},
        Evil(),
    ],
)
def test_answers_of_another_shape_are_refused(value, capsys):
    with pytest.raises(FormatError):
        read_suffix_hashes(pickle.dumps(value, protocol=2))
    assert capsys.readouterr().out == ""


@given(st.binary(max_size=100))
def test_no_answer_does_more_than_be_refused(data):
    try:
        read_suffix_hashes(data)
    except FormatError:
        return


def test_only_what_we_have_more_of_differs():
    local = {"aaa": "1", "bbb": "2", "ccc": {None: "3", 0: "4"}}
    remote = {"aaa": "1", "bbb": "x", "ddd": "5"}
    assert differing(local, remote) == ["bbb", "ccc"]
    assert differing(local, dict(local)) == []
    assert differing({}, remote) == []


@given(st.integers(0, 1 << 20), st.integers(0, 100))
def test_each_partition_is_listed_in_one_pass_of_ten(partition, first):
    passes = range(first, first + LISTING_EVERY)
    assert sum(is_listed(partition, number) for number in passes) == 1


@pytest.mark.parametrize(
    ("successes", "targets", "wanted", "gives_up"),
    [
        pytest.param(3, 3, 0, True, id="all"),
        pytest.param(2, 3, 0, False, id="one lacks"),
        pytest.param(2, 3, 2, True, id="enough for handoff_delete"),
        pytest.param(1, 3, 2, False, id="not enough"),
        pytest.param(2, 2, 5, True, id="no more than there are"),
    ],
)
def test_when_a_handoff_may_give_up(successes, targets, wanted, gives_up):
    assert may_give_up(successes, targets, wanted) is gives_up


def test_confirmed_is_what_all_have():
    assert confirmed_by_all([{"a", "b"}, {"b", "c"}]) == {"b"}
    assert confirmed_by_all([{"a"}]) == {"a"}
    assert confirmed_by_all([]) == set()
