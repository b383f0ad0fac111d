# SPDX-License-Identifier: Apache-2.0
"""Access lists: what is stored, who is admitted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.core.acl import (
    AccountAcl,
    AclError,
    clean_acl,
    format_account_acl,
    parse_account_acl,
    parse_acl,
)


@pytest.mark.parametrize(
    ("given_text", "stored"),
    [
        pytest.param(" a , b:c ,, d ", "a,b:c,d", id="blanks and empty elements"),
        pytest.param(".r:*", ".r:*", id="anybody"),
        pytest.param(
            ".ref:a, .referer:b,.referrer:c", ".r:a,.r:b,.r:c", id="spellings"
        ),
        pytest.param(".r: *.example.com", ".r:.example.com", id="star before a domain"),
        pytest.param(".r:-evil.com", ".r:-evil.com", id="denied host"),
        pytest.param(".r: - *.evil.com", ".r:-.evil.com", id="denied domain"),
        pytest.param(".rlistings", ".rlistings", id="listings"),
        pytest.param("", "", id="nothing"),
    ],
)
def test_a_list_is_cleaned(given_text, stored):
    assert clean_acl(given_text, is_write=False) == stored


@pytest.mark.parametrize(
    ("text", "is_write"),
    [
        pytest.param(".r:*", True, id="referrer in a write list"),
        pytest.param(".r:", False, id="no host"),
        pytest.param(".r:-", False, id="no denied host"),
        pytest.param(".r:.", False, id="only a dot"),
        pytest.param(".x:y", False, id="unknown designator"),
    ],
)
def test_a_bad_list_is_refused(text, is_write):
    with pytest.raises(AclError):
        clean_acl(text, is_write=is_write)


@given(st.text(alphabet=".:,-*ra b", max_size=30))
def test_cleaning_twice_changes_nothing(text):
    try:
        once = clean_acl(text, is_write=False)
    except AclError:
        return
    assert clean_acl(once, is_write=False) == once


@pytest.mark.parametrize(
    ("acl", "referer", "admitted"),
    [
        pytest.param(".r:*", None, True, id="anybody, no Referer"),
        pytest.param(".r:*,.r:-evil.com", "http://evil.com/x", False, id="last wins"),
        pytest.param(".r:-evil.com,.r:*", "http://evil.com/x", True, id="order counts"),
        pytest.param(".r:.example.com", "http://www.example.com/", True, id="domain"),
        pytest.param(".r:.example.com", "http://example.com/", False, id="not itself"),
        pytest.param(".r:example.com", "https://example.com:8080/", True, id="host"),
        pytest.param(".r:example.com", "garbage", False, id="unusable"),
        pytest.param(".r:unknown", None, True, id="missing is called unknown"),
        pytest.param(".r:example.com", "http://[bad", False, id="unparsable"),
        pytest.param("a,b", "http://x/", False, id="no rules"),
    ],
)
def test_referrers(acl, referer, admitted):
    assert parse_acl(acl).admits_referrer(referer) is admitted


def test_groups_are_decoded():
    acl = parse_acl("a%3Ab,test:tester,.rlistings")
    assert acl.names_any(["a:b"])
    assert acl.names_any(["x", "test:tester"])
    assert not acl.names_any(["test"])
    assert acl.lists_to_referrers


def test_account_lists_round_trip():
    text = '{"read-only": ["b"], "admin": ["a", "c"], "read-write": []}'
    acl = parse_account_acl(text)
    assert acl == AccountAcl(admin=("a", "c"), read_only=("b",))
    assert format_account_acl(acl) == '{"admin":["a","c"],"read-only":["b"]}'
    assert parse_account_acl(format_account_acl(acl)) == acl


@pytest.mark.parametrize(
    "text",
    ["[]", "x", '{"other": []}', '{"admin": "a"}', '{"admin": [1]}', "[" * 100000],
    ids=["list", "no JSON", "unknown key", "no list", "no string", "deep"],
)
def test_a_bad_account_list_is_refused(text):
    with pytest.raises(AclError):
        parse_account_acl(text)


def test_a_blank_account_list_names_nobody():
    assert parse_account_acl(" ").is_empty
