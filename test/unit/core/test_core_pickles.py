# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import os
import pickle
from array import array
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.core.pickles import UnsafePickle, loads, loads_builder

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(), inner, max_size=4)
        | st.tuples(inner, inner)
    ),
    max_leaves=10,
)


@given(plain, st.sampled_from([0, 1, 2]))
def test_plain_data_reads_back(value, protocol):
    assert loads(pickle.dumps(value, protocol)) == value


@given(st.binary(max_size=64))
def test_bytes_written_at_protocol_2_read_back(value):
    assert loads(pickle.dumps({"a": value}, 2)) == {"a": value}


class Evil:
    def __reduce__(self):
        return os.system, ("false",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("value", [Evil(), OrderedDict(a=1), {1, 2}, array("H", [1])])
def test_a_pickle_that_names_a_class_or_callable_is_refused(value, protocol):
    if protocol == 4 and isinstance(value, set):
        pytest.skip("protocol 4 has an opcode for sets: plain data")
    with pytest.raises(UnsafePickle):
        loads(pickle.dumps(value, protocol))


@given(st.binary(max_size=200))
def test_any_bytes_are_data_or_an_error(data):
    for load in (loads, loads_builder):
        with contextlib.suppress(UnsafePickle):
            load(data)


def test_a_truncated_pickle_is_an_error_at_every_byte():
    whole = pickle.dumps({"a": [1, "b", b"c"]}, 2)
    for end in range(len(whole)):
        with pytest.raises(UnsafePickle):
            loads(whole[:end])


@pytest.mark.parametrize("protocol", [2, 4])
def test_builders_may_hold_arrays_of_numbers(protocol):
    value = {"rows": [array("H", [1, 65535]), array("B", [3]), array("I", [70000])]}
    assert loads_builder(pickle.dumps(value, protocol)) == value
