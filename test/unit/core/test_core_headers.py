# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.core import headers as names
from swift.core.errors import InvalidInput
from swift.core.headers import Headers, is_internal, is_user_meta, title
from swift.core.timestamp import Timestamp


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("x-object-META-foo", "X-Object-Meta-Foo"),
        ("etag", "Etag"),
        ("x-object-meta-it's", "X-Object-Meta-It's"),
        ("x-object-meta-3d", "X-Object-Meta-3d"),
        ("x--y", "X--Y"),
        ("x-\xe9A", "X-\xe9a"),
    ],
)
def test_names_are_title_cased_by_dashes(name, expected):
    assert title(name) == expected


@given(st.dictionaries(st.text(min_size=1), st.text()))
def test_lookup_ignores_case(items):
    headers = Headers(items)
    for name in items:
        if name.isascii():
            assert headers[name.swapcase()] == headers[name]
            assert name.upper() in headers


@pytest.mark.parametrize(
    "name",
    [
        "X-Backend-Storage-Policy-Index",
        "x-object-sysmeta-slo-etag",
        "X-Object-Transient-Sysmeta-Crypto-Meta",
        "X-Container-Host",
        "x-delete-at-container",
    ],
)
def test_headers_of_the_cluster_are_internal(name):
    assert is_internal(name)


@pytest.mark.parametrize("name", ["X-Delete-At", "X-Container-Read", "X-Timestamp"])
def test_headers_of_the_api_are_not_internal(name):
    assert not is_internal(name)


def test_user_metadata_needs_a_name_of_its_own():
    assert is_user_meta("object", "x-object-meta-a")
    assert not is_user_meta("object", "X-Object-Meta-")
    assert not is_user_meta("container", "X-Object-Meta-A")


def test_typed_reading():
    headers = Headers({"x-timestamp": "12.5", "x-size": "7", "x-newest": "Yes"})
    assert headers.timestamp(names.X_TIMESTAMP) == Timestamp.at(12.5)
    assert headers.integer(names.X_SIZE) == 7
    assert headers.true(names.X_NEWEST)
    assert headers.timestamp(names.X_DELETE_AT) is None
    headers["X-Size"] = "x"
    with pytest.raises(InvalidInput, match="X-Size"):
        headers.integer("x-size")


def test_random_names_cost_no_memory():
    for number in range(10_000):
        title(f"x-random-{number}")
    assert len(names._TITLES) <= names._TITLES_MAX
