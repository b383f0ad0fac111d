# SPDX-License-Identifier: Apache-2.0
"""Byte ranges: grammar, clipping, and the guard against abuse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.core.ranges import ByteRange, parse_range, resolve


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        pytest.param("bytes=2-5", [(2, 6)], id="first to last"),
        pytest.param("BYTES = 2 - 5", [(2, 6)], id="unit in any case, blanks ignored"),
        pytest.param("bytes=5-", [(5, 10)], id="open end"),
        pytest.param("bytes=-3", [(7, 10)], id="suffix"),
        pytest.param("bytes=-30", [(0, 10)], id="suffix longer than the whole"),
        pytest.param("bytes=8-99", [(8, 10)], id="end is clipped"),
        pytest.param("bytes=8-9,0-0", [(8, 10), (0, 1)], id="order of the request"),
        pytest.param("bytes=0-1,50-60", [(0, 2)], id="one beyond the end is dropped"),
        pytest.param("bytes=10-", [], id="nothing there"),
        pytest.param("bytes=-0", [], id="empty suffix"),
        pytest.param("bytes=5-2", None, id="end before start"),
        pytest.param("bytes=-", None, id="no number"),
        pytest.param("bytes=", None, id="no range"),
        pytest.param("bytes=a-b", None, id="no digits"),
        pytest.param("bytes=1-2,", None, id="empty member"),
        pytest.param("items=1-2", None, id="other unit"),
        pytest.param("bytes=+1-2", None, id="sign"),
        pytest.param("bytes=" + "9" * 40 + "-", None, id="absurd number"),
        pytest.param("", None, id="empty"),
        pytest.param(None, None, id="absent"),
    ],
)
def test_what_a_header_selects_of_ten_bytes(header, expected):
    found = resolve(header, 10)
    assert found == (
        None if expected is None else [ByteRange(*span) for span in expected]
    )


def test_a_suffix_of_an_empty_object_is_the_empty_object():
    assert resolve("bytes=-5", 0) is None
    assert resolve("bytes=0-5", 0) == []
    assert resolve("bytes=-0", 0) == []


def header_of(spans):
    return "bytes=" + ",".join(f"{first}-{last}" for first, last in spans)


@pytest.mark.parametrize(
    ("spans", "accepted"),
    [
        pytest.param([(i * 10, i * 10) for i in range(50)], True, id="fifty"),
        pytest.param([(i * 10, i * 10) for i in range(51)], False, id="fifty-one"),
        pytest.param([(0, 5), (5, 9), (9, 12)], True, id="two overlaps"),
        pytest.param([(0, 5), (5, 9), (9, 12), (12, 13)], False, id="three overlaps"),
        pytest.param([(i, i) for i in range(6, -1, -1)], True, id="seven descending"),
        pytest.param([(i, i) for i in range(7, -1, -1)], False, id="eight descending"),
        pytest.param([(i, i) for i in range(8)], True, id="eight ascending"),
    ],
)
def test_lists_that_look_like_an_attack_are_not_satisfied(spans, accepted):
    found = resolve(header_of(spans), 1000)
    assert bool(found) is accepted


@given(st.text(max_size=40).map(lambda text: "bytes=" + text), st.integers(0, 100))
def test_any_text_selects_bytes_that_are_there_or_nothing(header, length):
    for span in resolve(header, length) or []:
        assert 0 <= span.start < span.stop <= length


def test_members_are_kept_as_written():
    specs = parse_range("bytes=0-1,-5,7-")
    assert specs is not None
    assert [(spec.first, spec.last) for spec in specs] == [(0, 1), (None, 5), (7, None)]
