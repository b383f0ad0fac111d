# SPDX-License-Identifier: Apache-2.0
"""signing: the written forms of signatures, and vectors of the contract."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.core.signing import (
    DIGESTS,
    BadSignature,
    Signature,
    allowed_digests,
    deprecated_among,
    form_message,
    mac,
    sync_message,
    sync_signature,
    temp_url_message,
)


def test_the_vectors_of_the_contract():
    url = temp_url_message("GET", 1323479485, b"/v1/AUTH_account/container/object")
    assert mac("sha256", "mykey", url).hex() == (
        "05cb4ea08a08f2fdaef35d0f344975370077835c23bdc9342099ecbf03bc0378"
    )
    bound = temp_url_message(
        "GET", 1323479485, b"/v1/AUTH_account/container/object", b"127.0.0.1"
    )
    assert mac("sha1", "mykey", bound).hex() == (
        "495de9e724ffbc5571007cdcafa1657ae2f5b30a"
    )
    form = form_message(
        b"/v1/a/c/p_",
        redirect=b"https://x/y",
        max_file_size=b"104857600",
        max_file_count=b"10",
        expires=b"1503124957",
    )
    assert mac("sha256", "mykey", form).hex() == (
        "5039565464a554a7fd47a2d45877241fcbf9a4210507fbd14890cffdce52da96"
    )
    sync = sync_message("PUT", "/v1/a/c/o", "1795334174.77594", "nonce", "userkey")
    assert sync_signature("realmkey", sync) == (
        "072fc8d13070ece0f992aa2e290d66c297f21c47"
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00" * 19,
        "zz" * 20,
        "md5:" + "A" * 22,
        "sha1:",
        "sha1:AAAA",
        "sha256:****",
        "sha1:" + "A" * 600,
        " " + "00" * 19 + " ",
        "é" * 40,
    ],
)
def test_what_is_no_signature_is_refused_without_being_repeated(text):
    with pytest.raises(BadSignature) as caught:
        Signature.parse(text)
    assert not text or text not in str(caught.value)


@given(st.text(max_size=600))
def test_any_text_is_a_signature_or_refused(text):
    try:
        sent = Signature.parse(text)
    except BadSignature:
        return
    assert sent.digest in DIGESTS


@given(st.sampled_from(DIGESTS), st.text(max_size=30), st.binary(max_size=100))
def test_only_the_signed_message_matches(digest, key, message):
    sent = Signature.parse(mac(digest, key, message).hex())
    assert sent.signed_by(key, [message, message + b"x"]) == [True, False]


def test_digests_that_do_not_exist_are_left_out():
    assert allowed_digests("sha512 md5 SHA1") == ("sha1", "sha512")
    assert deprecated_among(("sha1", "sha512")) == ["sha1"]
    with pytest.raises(ValueError, match="must name"):
        allowed_digests("md5")
