# SPDX-License-Identifier: Apache-2.0
"""What container sync decides, by values."""

from __future__ import annotations

import pytest

from swift.core.container_sync import (
    SyncRow,
    SyncTarget,
    copied_headers,
    is_at_target,
    is_own,
    url_fault,
)
from swift.core.errors import InvalidInput
from swift.core.hashing import HashSalt
from swift.core.headers import Headers
from swift.core.timestamp import Timestamp

ROW = SyncRow.of_record(
    {
        "ROWID": 7,
        "name": "o",
        "deleted": 0,
        "created_at": "1700000000.00000+186a0+186a0",
    }
)


def test_a_row_has_the_times_of_its_data_and_of_its_last_change():
    assert (ROW.data.normal, ROW.meta.normal) == (
        "1700000000.00000",
        "1700000002.00000",
    )


@pytest.mark.parametrize(
    ("status", "stamp", "expected"),
    [
        pytest.param(200, "1700000002.00000", True, id="the same"),
        pytest.param(200, "1700000003.00000", True, id="newer"),
        pytest.param(200, "1700000001.00000", False, id="older than the last change"),
        pytest.param(200, None, False, id="of unknown time"),
        pytest.param(404, "1700000003.00000", False, id="a newer tombstone"),
    ],
)
def test_the_target_has_a_row_or_not(status, stamp, expected):
    when = Timestamp.parse(stamp) if stamp else None
    assert is_at_target(status, when, ROW) is expected


def test_each_row_is_in_one_primarys_share():
    salt = HashSalt(b"", b"suffix")
    for number in range(50):
        digest = salt.digest("a", "c", f"o{number}")
        owners = [is_own(digest, replicas=3, index=index) for index in range(3)]
        assert owners.count(True) == 1
    assert is_own(b"\x00\x00\x00\x05" + b"\xff" * 12, replicas=3, index=2)


def test_a_target_by_realm_is_a_path_below_its_clusters_endpoint():
    target = SyncTarget.of_realm(
        "//realm/far/AUTH_ä/c d", "https://far.test:8443/v1/", "key", "realmkey"
    )
    assert (target.scheme, target.host, target.port) == ("https", "far.test", 8443)
    assert target.object_path("ü/o?") == "/v1/AUTH_%C3%A4/c%20d/%C3%BC/o%3F"
    assert target.authority == "far.test:8443"
    assert target.realm == "REALM"


def test_a_target_by_url_is_opened_by_the_key_itself():
    target = SyncTarget.of_url("http://127.0.0.1/v1/a/c/", "kéy")
    assert target.authority == "127.0.0.1"
    assert target.object_path("o") == "/v1/a/c/o"
    sent = target.credentials("PUT", "/v1/a/c/o", "1", "nonce")
    assert sent == {"X-Container-Sync-Key": "kéy".encode().decode("latin-1")}


@pytest.mark.parametrize("url", ["http:///v1/a/c", "http://h:port/v1/a/c", "ftp://h/a"])
def test_what_is_no_url_is_no_target(url):
    with pytest.raises(InvalidInput):
        SyncTarget.of_url(url, "key")


@pytest.mark.parametrize(
    ("target", "word"),
    [
        ("http://h/v1/a/c", None),
        ("https://h:8080/v1/a/c", None),
        ("ftp://h/v1/a/c", "scheme"),
        ("http://h/v1/a", "Path"),
        ("http://h/v1/a/c?x", "queries"),
        ("http://h/v1/a/c#x", "fragments"),
        ("http://other/v1/a/c", "host"),
        ("http://[h/v1/a/c", "URL"),
        ("http://h:x/v1/a/c", "URL"),
    ],
)
def test_urls_are_checked(target, word):
    fault = url_fault(target, ("h",))
    assert fault is None if word is None else word in fault


def test_a_copy_is_made_with_what_says_something_of_the_object():
    source = Headers(
        {
            "Content-Type": "text/plain",
            "Content-Length": "4",
            "Etag": '"abc"',
            "Date": "now",
            "Last-Modified": "then",
            "Connection": "close",
            "X-Trans-Id": "tx",
            "X-Backend-Timestamp": "1",
            "X-Object-Meta-A": "b",
            "X-Object-Sysmeta-A": "b",
            "X-Static-Large-Object": "True",
        }
    )
    assert copied_headers(source) == {
        "Content-Type": "text/plain",
        "Content-Length": "4",
        "Etag": "abc",
        "X-Object-Meta-A": "b",
        "X-Static-Large-Object": "True",
    }
