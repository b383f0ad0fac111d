# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.core.errors import InvalidInput
from swift.core.timestamp import (
    OFFSET_MAX,
    RAW_MAX,
    Timestamp,
    TimestampError,
    decode_triple,
    encode_triple,
)

stamps = st.builds(
    Timestamp, st.integers(0, RAW_MAX), st.one_of(st.just(0), st.integers(0, 2**64 - 1))
)
plain = st.builds(Timestamp, st.integers(0, RAW_MAX))


@given(stamps)
def test_every_written_form_reads_back(stamp):
    assert Timestamp.parse(stamp.internal) == stamp
    assert Timestamp.parse(stamp.short) == stamp
    assert Timestamp.parse(stamp.normal) == Timestamp(stamp.raw)


@given(stamps, stamps)
def test_internal_forms_sort_like_the_times(one, other):
    assert (one < other) == (one.internal < other.internal)


@given(stamps, stamps)
def test_inversion_turns_the_order_round(one, other):
    # The very last instant with an offset has no inverse: it would be negative.
    if one < other and other.raw < RAW_MAX:
        assert one.inverted() > other.inverted()


@given(plain, plain, plain)
def test_a_triple_reads_back(first, second, third):
    assert decode_triple(encode_triple(first, second, third)) == (first, second, third)


@given(st.text(alphabet="0123456789._+-abcdefx \n", max_size=40))
def test_any_text_is_a_timestamp_or_invalid_input(text):
    with contextlib.suppress(InvalidInput):
        assert 0 <= Timestamp.parse(text).raw <= RAW_MAX
    with contextlib.suppress(InvalidInput):
        decode_triple(text)


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0, 1e300])
def test_no_clock_reading_out_of_range_is_taken(seconds):
    with pytest.raises(TimestampError):
        Timestamp.at(seconds)


def test_an_offset_beyond_64_bits_is_refused():
    with pytest.raises(TimestampError):
        Timestamp(0, OFFSET_MAX).plus(offset=1)
