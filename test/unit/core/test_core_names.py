# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.core.errors import InvalidInput
from swift.core.names import (
    AccountName,
    BadEncoding,
    ClientPath,
    ContainerName,
    Limits,
    ObjectName,
    check_reserved,
    quote,
    split_client_path,
    split_name,
    split_node_path,
    text_of_wsgi,
    wsgi_of_text,
)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/a", AccountName("a")),
        ("/a/", AccountName("a")),
        ("/a/c", ContainerName("a", "c")),
        ("/a/c/", ContainerName("a", "c")),
        ("/a/c/o", ObjectName("a", "c", "o")),
        ("/a/c//o", ObjectName("a", "c", "/o")),
        ("/a/c/o/", ObjectName("a", "c", "o/")),
        ("/a/../x", ObjectName("a", "..", "x")),
    ],
)
def test_a_path_names_one_thing(path, expected):
    assert split_name(path) == expected


@pytest.mark.parametrize("path", ["", "a", "/", "//c", "//c/o", "/a//o"])
def test_empty_segments_name_nothing(path):
    with pytest.raises(InvalidInput):
        split_name(path)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v1", ClientPath("v1", None)),
        ("/v1/", ClientPath("v1", None)),
        ("/v1/a/c/x/y", ClientPath("v1", ObjectName("a", "c", "x/y"))),
    ],
)
def test_a_client_path_begins_with_its_version(path, expected):
    assert split_client_path(path) == expected


@pytest.mark.parametrize(
    "path", ["/", "/sda", "//1/a", "/../1/a", "/./1", "/sda//a", "/sda/../a", "/s\0/1"]
)
def test_a_backend_path_cannot_leave_its_device(path):
    with pytest.raises(InvalidInput):
        split_node_path(path)


def test_a_backend_path_keeps_what_is_no_name():
    path = split_node_path("/sda/12/abc-def")
    assert (path.device, path.partition, path.rest) == ("sda", "12", "abc-def")


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_text_survives_the_wsgi_form(text):
    assert text_of_wsgi(wsgi_of_text(text)) == text


def test_bytes_that_are_no_utf8_are_refused():
    with pytest.raises(BadEncoding):
        text_of_wsgi("\xff")


def test_quoting_keeps_slashes_only():
    assert quote("/a b/ü%") == "/a%20b/%C3%BC%25"


@pytest.mark.parametrize(
    "name",
    [
        ObjectName("a", "\0c", "o"),
        ObjectName("a", "c", "\0o"),
        ContainerName("a", "c\0"),
        AccountName("x\0"),
    ],
)
def test_reserved_and_plain_names_do_not_mix(name):
    with pytest.raises(InvalidInput):
        check_reserved(name)


@pytest.mark.parametrize(
    "name",
    [
        ObjectName("a", "\0c", "\0o"),
        ObjectName("a", "c", "o"),
        ObjectName(".cluster", "c", "\0o"),
    ],
)
def test_names_of_one_kind_go_together(name):
    check_reserved(name)


def test_limits_follow_the_contract():
    limits = Limits.from_section({"max_file_size": "10"}, "swift.conf")
    assert limits.max_file_size == 10
    assert limits.max_headers == 201
    assert limits.account_name_length("AUTH_a") == 256
    assert limits.account_name_length(".shards") == 512
