# SPDX-License-Identifier: Apache-2.0
"""What may be sent with an account, a container or an object."""

from __future__ import annotations

import pytest

from swift.core.headers import Headers
from swift.core.metadata_rules import (
    Refusal,
    check_content_type,
    check_framing,
    check_if_none_match,
    check_metadata,
    check_name_lengths,
    check_own_parameters,
    removals,
    settle_delete_at,
    without_swift_bytes,
)
from swift.core.names import Limits

LIMITS = Limits()
META = "X-Container-Meta-"


def many(count, value="v"):
    return {f"{META}{number}": value for number in range(count)}


@pytest.mark.parametrize(
    ("headers", "fine"),
    [
        ({META + "n" * 128: "v"}, True),
        ({META + "n" * 129: "v"}, False),
        ({META + "N": "v" * 256}, True),
        ({META + "N": "v" * 257}, False),
        ({META: "v"}, False),
        (many(90), True),
        (many(91), False),
        (many(16, "v" * 254), True),
        (many(16, "v" * 256), False),
        ({"X-Other": "v" * 8192}, True),
        ({"X-Other": "v" * 8193}, False),
        ({META + "N": "\xc3\xa9"}, True),
        ({META + "N": "\xff"}, False),
        ({META + "N": "a\x00b"}, False),
    ],
)
def test_limits_of_container_metadata_on_both_sides(headers, fine):
    refusal = check_metadata(Headers(headers), "container", LIMITS)
    assert (refusal is None) is fine
    if refusal is not None:
        assert refusal.status == 400


def test_object_metadata_may_be_any_bytes():
    headers = Headers({"X-Object-Meta-A": "\xff\xfe"})
    assert check_metadata(headers, "object", LIMITS) is None


def test_removals_empty_what_they_name():
    headers = Headers(
        {
            "X-Remove-Container-Meta-Foo": "x",
            "X-Remove-Container-Read": "x",
            "X-Remove-Versions-Location": "x",
            "X-Remove-Account-Meta-Foo": "x",
        }
    )
    assert removals(headers, "container") == {
        "X-Container-Meta-Foo": "",
        "X-Container-Read": "",
        "X-Versions-Location": "",
    }


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Content-Length": "5"}, 5),
        ({"Transfer-Encoding": "chunked"}, None),
        ({"Transfer-Encoding": "chunked", "Content-Length": "5"}, None),
        ({}, 411),
        ({"Content-Length": "-5"}, 400),
        ({"Content-Length": "5_0"}, 400),
        ({"Content-Length": "99999999999"}, 413),
        ({"Transfer-Encoding": "gzip"}, 400),
        ({"Transfer-Encoding": "gzip, chunked"}, 501),
    ],
)
def test_framing_of_a_body(headers, expected):
    found = check_framing(Headers(headers), LIMITS)
    assert (found.status if isinstance(found, Refusal) else found) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"X-Delete-At": "2000"}, "0000002000"),
        ({"X-Delete-After": "500"}, "0000001500"),
        ({"X-Delete-After": "500", "X-Delete-At": "9000"}, "0000001500"),
        ({"X-Delete-At": "1000"}, 400),
        ({"X-Delete-At": "20e3"}, 400),
        ({"X-Delete-At": "2_000"}, 400),
        ({"X-Delete-After": "0"}, 400),
        ({"X-Delete-After": "-5"}, 400),
        ({"X-Delete-After": "x"}, 400),
        ({"X-Delete-At": "99999999999999"}, "9999999999"),
        ({"X-Delete-At": "9" * 5000}, 400),
        ({}, None),
    ],
)
def test_when_an_object_expires(headers, expected):
    given = Headers(headers)
    refusal = settle_delete_at(given, 1000.0)
    if isinstance(expected, int):
        assert refusal is not None
        assert refusal.status == expected
    else:
        assert refusal is None
        assert given.get("X-Delete-At") == expected


def test_if_none_match_takes_a_star_only():
    assert check_if_none_match(Headers({"If-None-Match": "*"})) is None
    assert check_if_none_match(Headers()) is None
    assert check_if_none_match(Headers({"If-None-Match": "abc"})) is not None


def test_content_types():
    assert check_content_type(Headers({"Content-Type": "\xc3\xa9/x"})) is None
    assert check_content_type(Headers({"Content-Type": "\xff"})) is not None
    assert check_own_parameters(Headers({"Content-Type": "a/b; x=swift_"})) is None
    bad = Headers({"Content-Type": "a/b; swift_bytes=1"})
    assert check_own_parameters(bad) is not None
    assert without_swift_bytes("a/b;swift_bytes=12") == "a/b"
    assert without_swift_bytes("a/b; c=d") == "a/b; c=d"


def test_lengths_of_names_double_for_the_clusters_own():
    assert check_name_lengths(LIMITS, account="a", container="c" * 256) is None
    assert check_name_lengths(LIMITS, account="a", container="c" * 257) is not None
    assert check_name_lengths(LIMITS, account=".a", container="c" * 512) is None
    assert check_name_lengths(LIMITS, account=".a", container="c" * 513) is not None
    assert check_name_lengths(LIMITS, account="a" * 257) is not None
