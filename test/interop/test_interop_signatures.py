# SPDX-License-Identifier: Apache-2.0
"""Signatures made by OpenStack Swift, made again and recognised."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import unquote

import pytest

from swift.core.container_sync import SyncTarget
from swift.core.signing import (
    Signature,
    form_message,
    mac,
    sync_message,
    sync_signature,
    sync_signed,
    temp_url_message,
)

CASES = json.loads(
    (Path(__file__).parent / "golden/signatures/signatures.json").read_text()
)


def _id(case):
    return f"{case.get('digest')}-{case.get('method')}-{case['path']}"


@pytest.mark.parametrize("case", CASES["tempurl"], ids=_id)
def test_a_temporary_url_is_signed_alike(case):
    ip_range = case["ip_range"]
    message = temp_url_message(
        case["method"],
        case["expires"],
        case["path"].encode(),
        ip_range.encode() if ip_range else None,
    )
    assert mac(case["digest"], case["key"], message).hex() == case["hex"]
    for text in (case["hex"], case["base64_form"]):
        sent = Signature.parse(text)
        assert sent.digest == case["digest"]
        assert sent.signed_by(case["key"], [message, b"other"]) == [True, False]
        assert not any(sent.signed_by("otherkey", [message]))


@pytest.mark.parametrize("case", CASES["formpost"], ids=_id)
def test_a_form_is_signed_alike(case):
    message = form_message(
        case["path"].encode(),
        redirect=case["redirect"].encode(),
        max_file_size=case["max_file_size"].encode(),
        max_file_count=case["max_file_count"].encode(),
        expires=case["expires"].encode(),
    )
    assert Signature.parse(case["hex"]).signed_by(case["key"], [message]) == [True]


@pytest.mark.parametrize("case", CASES["container_sync"], ids=_id)
def test_a_sync_request_is_signed_alike(case):
    message = sync_message(
        case["method"],
        case["path"],
        case["x_timestamp"],
        case["nonce"],
        case["user_key"],
    )
    assert sync_signature(case["realm_key"], message) == case["hmac_sha1_hex"]
    assert sync_signed(case["hmac_sha1_hex"], ["other", case["realm_key"]], message)
    assert not sync_signed(case["hmac_sha1_hex"], ["other"], message)


@pytest.mark.parametrize("case", CASES["container_sync"], ids=_id)
def test_the_daemon_sends_the_same_header(case):
    container, _slash, name = unquote(case["path"]).rpartition("/")
    target = SyncTarget.of_url(
        f"http://there{container}",
        case["user_key"],
        realm="REALM",
        realm_key=case["realm_key"],
    )
    path = target.object_path(name)
    assert path == case["path"]
    assert target.credentials(
        case["method"], path, case["x_timestamp"], case["nonce"]
    ) == {"X-Container-Sync-Auth": case["header_value_for_realm_REALM"]}
