# SPDX-License-Identifier: Apache-2.0
"""The templates of access lines."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swift.runtime.access_lines import PROXY_FIELDS, Anonymizer, LineTemplate

END = 1795334174.77594  # 22 November 2026, 07:56:14 UTC

SERVER_VALUES = {
    "remote_addr": "10.0.0.1",
    "time": END,
    "method": "GET",
    "path": "/sda1/3/a/c/o",
    "status": 200,
    "content_length": 4096,
    "referer": "GET http://h/v1/a/c/o",
    "txn_id": "tx1",
    "user_agent": "proxy-server 12",
    "trans_time": 0.00123,
    "additional_info": "",
    "pid": 33,
    "policy_index": 0,
}


def test_the_server_line_is_that_of_the_contract() -> None:
    template = LineTemplate.for_server()

    assert template.render(SERVER_VALUES) == (
        '10.0.0.1 - - [22/Nov/2026:07:56:14 +0000] "GET /sda1/3/a/c/o" 200 4096 '
        '"GET http://h/v1/a/c/o" "tx1" "proxy-server 12" 0.0012 "-" 33 0'
    )


def test_the_proxy_line_is_quoted_and_blank_is_a_dash() -> None:
    template = LineTemplate.for_proxy()
    values = {
        "client_ip": "1.2.3.4",
        "remote_addr": "5.6.7.8",
        "end_time": END,
        "start_time": END - 1,
        "method": "GET",
        "path": "/v1/a/c/o?x=1",
        "protocol": "HTTP/1.0",
        "status_int": 200,
        "user_agent": "a b\nc",
        "referer": "",
        "bytes_sent": 0,
        "request_time": "1.0000",
    }

    assert template.render(values) == (
        "1.2.3.4 5.6.7.8 22/Nov/2026/07/56/14 GET /v1/a/c/o%3Fx%3D1 HTTP/1.0 200 - "
        "a%20b%0Ac - - 0 - - - 1.0000 - - 1795334173.775939941 1795334174.775939941 "
        "- -"
    )


# Times and numbers that the filter itself counts; nothing of a client's is in them.
FILLED_BY_US = {
    "start_time", "end_time", "status_int", "wire_status_int", "bytes_recvd",
    "bytes_sent", "pid",
}  # fmt: skip


@given(
    values=st.dictionaries(
        st.sampled_from(sorted(PROXY_FIELDS - FILLED_BY_US)),
        st.one_of(st.none(), st.integers(), st.text()),
    )
)
def test_no_value_can_forge_a_field_or_a_line(values: dict[str, object]) -> None:
    line = LineTemplate.for_proxy().render({"end_time": END, **values})

    assert line.isascii()
    assert len(line.split(" ")) == 22
    assert "\n" not in line


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{end_time.iso8601}", "2026-11-22T07:56:14.775940"),
        ("{end_time.asctime}", "Sun%20Nov%2022%2007:56:14%202026"),
        ("{end_time.s}", "1795334174"),
        ("{end_time.ms}", "1795334174775"),
        ("{end_time.Y}-{end_time.m}", "2026-11"),
        ("{end_time.Y}{start_time.Y}", "20262026"),
        ("100%{method}{{}}", "100%GET{}"),
        ("{pid}", "-"),
    ],
)
def test_forms_of_a_proxy_field(template: str, expected: str) -> None:
    line = LineTemplate.for_proxy(template)

    assert (
        line.render({"end_time": END, "start_time": END, "method": "GET"}) == expected
    )


def test_time_parts_move_on_with_the_clock() -> None:
    line = LineTemplate.for_server("{time.H}:{time.M}:{time.S}")

    assert line.render({"time": END}) == "07:56:14"
    assert line.render({"time": END + 1}) == "07:56:15"


@pytest.mark.parametrize(
    "template",
    ["{nothing}", "{time.Q}", "{method.anonymized}", "{path", "{path:d}"],
)
def test_a_bad_template_is_refused(template: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (any will do)
        LineTemplate.for_server(template)


def test_anonymized_fields_are_digests() -> None:
    plain = LineTemplate.for_server("{path.anonymized}")
    salted = LineTemplate.for_server("{path.anonymized}", Anonymizer("MD5", "salt"))
    values = {"path": "/a"}

    assert plain.render(values) == "{MD5}" + hashlib.md5(b"/a").hexdigest()
    assert salted.render(values) == "{SMD5}" + hashlib.md5(b"salt/a").hexdigest()
    assert plain.render({"path": ""}) == "-"


def test_an_unknown_digest_is_refused() -> None:
    with pytest.raises(ValueError, match="rot13"):
        Anonymizer("rot13")
