# SPDX-License-Identifier: Apache-2.0
"""Conditional requests: which answer the If-* headers force."""

from __future__ import annotations

import pytest

from swift.core.conditions import Conditions
from swift.core.headers import Headers

AT = 1_700_000_000
SAME = "Tue, 14 Nov 2023 22:13:20 GMT"
EARLIER = "Tue, 14 Nov 2023 22:13:19 GMT"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({"If-None-Match": "*"}, 304, id="any exists"),
        pytest.param({"If-None-Match": '"e"'}, 304, id="same tag, quoted"),
        pytest.param({"If-None-Match": "a, e"}, 304, id="same tag in a list"),
        pytest.param({"If-None-Match": "a"}, None, id="other tag"),
        pytest.param({"If-None-Match": 'W/"e"'}, None, id="weak tags are not special"),
        pytest.param({"If-Match": "e"}, None, id="required tag is there"),
        pytest.param({"If-Match": "*"}, None, id="anything is there"),
        pytest.param({"If-Match": "a"}, 412, id="required tag is not there"),
        pytest.param(
            {"If-Match": "a", "If-None-Match": "e"}, 304, id="none-match first"
        ),
        pytest.param({"If-Modified-Since": SAME}, 304, id="not modified since"),
        pytest.param({"If-Modified-Since": EARLIER}, None, id="modified since"),
        pytest.param({"If-Unmodified-Since": SAME}, None, id="unmodified since"),
        pytest.param({"If-Unmodified-Since": EARLIER}, 412, id="modified, must not be"),
        pytest.param({"If-Modified-Since": "yesterday"}, None, id="no date"),
        pytest.param(
            {"If-Modified-Since": SAME, "If-Unmodified-Since": EARLIER},
            304,
            id="modified-since before unmodified-since",
        ),
    ],
)
def test_verdict_on_an_object_with_etag_e(headers, expected):
    conditions = Conditions.of(Headers(headers))
    assert conditions is not None
    assert conditions.verdict("e", AT) == expected


def test_a_request_without_conditions_has_none():
    assert Conditions.of(Headers({"Range": "bytes=0-1"})) is None


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"If-Match": "*"}, 412),
        ({"If-Match": "e"}, None),
        ({"If-None-Match": "*"}, None),
    ],
)
def test_verdict_on_an_object_that_is_missing(headers, expected):
    conditions = Conditions.of(Headers(headers))
    assert conditions is not None
    assert conditions.verdict_missing() == expected
