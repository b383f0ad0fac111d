# SPDX-License-Identifier: Apache-2.0
"""catch_errors, gatekeeper, healthcheck, crossdomain, name_check, read_only."""

from __future__ import annotations

import re

import pytest
from filter_pipeline import Bench, found

from swift.core.errors import ClientDisconnect, ConfigError
from swift.core.headers import Headers
from swift.middleware.catch_errors import BodyTooShort
from swift.wire import environ as env
from swift.wire.infocache import InfoFetcher
from swift.wire.request import Response


class Chunks:
    def __init__(self, *chunks: bytes) -> None:
        self.chunks = iter(chunks)
        self.closed = False

    def __iter__(self):
        return self.chunks

    def close(self) -> None:
        self.closed = True


def raising(error: Exception):
    def answer(environ):
        raise error

    return answer


# --- catch_errors ---------------------------------------------------------------------


def test_every_answer_carries_one_transaction_id_twice():
    bench = Bench("catch_errors", trans_id_suffix="-dc 1")
    bench.end.answers["*"] = found(X_Trans_Id="txfrombackend")
    response = bench.ask("GET", "/v1/a", {"X-Trans-Id-Extra": "x" * 40})
    trans_id = response.headers["X-Trans-Id"]
    assert re.fullmatch(r"tx[0-9a-f]{21}-[0-9a-f]{10}-dc%201-x{32}", trans_id)
    assert response.headers["X-Openstack-Request-Id"] == trans_id
    assert bench.end.last[env.TRANS_ID] == trans_id


def test_transaction_ids_differ():
    bench = Bench("catch_errors")
    ids = {bench.ask("GET", "/v1/a").headers["X-Trans-Id"] for _ in range(200)}
    assert len(ids) == 200


def test_an_uncaught_error_is_a_500_and_is_logged_with_its_traceback():
    bench = Bench("catch_errors")
    bench.end.answers["*"] = raising(ZeroDivisionError("oops"))
    response = bench.ask("GET", "/v1/a/c")
    assert response.status == 500
    assert response.body == b"An error occurred"
    assert response.headers["Content-Type"] == "text/plain"
    assert "X-Trans-Id" in response.headers
    assert "ZeroDivisionError" in bench.log_lines[-1]


def test_a_client_that_went_away_is_a_499():
    bench = Bench("catch_errors")
    bench.end.answers["*"] = raising(ClientDisconnect("gone"))
    assert bench.ask("PUT", "/v1/a/c/o", body=b"x").status == 499


def test_a_body_of_the_right_length_passes():
    bench = Bench("catch_errors")
    body = Chunks(b"ab", b"cd")
    bench.end.answers["*"] = Response(200, {"Content-Length": "4"}, app_iter=body)
    assert bench.ask("GET", "/v1/a/c/o").body == b"abcd"
    assert body.closed


def test_surplus_bytes_are_cut_and_the_connection_is_given_up():
    bench = Bench("catch_errors")
    body = Chunks(b"ab", b"cd", b"ef")
    bench.end.answers["*"] = Response(200, {"Content-Length": "3"}, app_iter=body)
    assert bench.ask("GET", "/v1/a/c/o").body == b"abc"
    assert bench.environ[env.CONNECTION_CLOSE] is True


def test_a_ready_body_that_is_too_long_is_cut():
    bench = Bench("catch_errors")
    bench.end.answers["*"] = Response(
        200, {"Content-Length": "3"}, app_iter=[b"ab", b"cd"]
    )
    assert bench.ask("GET", "/v1/a/c/o").body == b"abc"


def test_a_short_body_breaks_off():
    bench = Bench("catch_errors")
    body = Chunks(b"ab")
    bench.end.answers["*"] = Response(200, {"Content-Length": "3"}, app_iter=body)
    response = bench.ask("GET", "/v1/a/c/o")
    with pytest.raises(BodyTooShort):
        _ = response.body
    assert body.closed


def test_a_head_has_no_body():
    bench = Bench("catch_errors")
    body = Chunks(b"abc")

    def answer(environ):
        return Response(200, {"Content-Length": "3"}, app_iter=body)

    bench.end.answers["*"] = answer
    response = bench.ask("HEAD", "/v1/a/c/o")
    assert response.body == b""
    assert response.headers["Content-Length"] == "3"
    assert body.closed


# --- gatekeeper -----------------------------------------------------------------------


def test_internal_headers_of_clients_have_no_effect():
    bench = Bench("gatekeeper")
    sent = {
        "X-Backend-Storage-Policy-Index": "1",
        "X-Account-Sysmeta-Foo": "1",
        "X-Container-Host": "evil:1",
        "X-Object-Transient-Sysmeta-Crypto-Meta": "1",
        "X-Backend-Allow-Reserved-Names": "true",
        "X-Object-Meta-Foo": "kept",
        "Content-Type": "text/x",
    }
    bench.ask("PUT", "/v1/a/c/o", sent)
    kept = env.headers_of(bench.end.last)
    assert kept["X-Object-Meta-Foo"] == "kept"
    assert kept["Content-Type"] == "text/x"
    assert not [name for name in kept if "Backend" in name or "Sysmeta" in name]
    assert "X-Container-Host" not in kept


def test_internal_headers_of_answers_do_not_leave():
    bench = Bench("gatekeeper")
    bench.end.answers["*"] = found(
        X_Backend_Timestamp="1", X_Object_Sysmeta_A="1", X_Object_Meta_A="kept"
    )
    headers = bench.ask("GET", "/v1/a/c/o").headers
    assert headers["X-Object-Meta-A"] == "kept"
    assert "X-Backend-Timestamp" not in headers
    assert "X-Object-Sysmeta-A" not in headers


def test_a_clients_timestamp_is_set_aside():
    bench = Bench("gatekeeper")
    bench.ask("PUT", "/v1/a/c/o", {"X-Timestamp": "12345"})
    assert "HTTP_X_TIMESTAMP" not in bench.end.last
    assert bench.end.last["HTTP_X_BACKEND_INBOUND_X_TIMESTAMP"] == "12345"


def test_a_clients_timestamp_counts_when_it_is_not_shunted():
    bench = Bench("gatekeeper", shunt_inbound_x_timestamp="no")
    bench.ask("PUT", "/v1/a/c/o", {"X-Timestamp": "12345"})
    assert bench.end.last["HTTP_X_TIMESTAMP"] == "12345"


@pytest.mark.parametrize(
    ("option", "opened"), [("false", False), ("true", True)], ids=["closed", "open"]
)
def test_reserved_names_open_by_option_only(option, opened):
    bench = Bench("gatekeeper", allow_reserved_names_header=option)
    bench.ask("GET", "/v1/a/c/o", {"X-Allow-Reserved-Names": "true"})
    assert ("HTTP_X_BACKEND_ALLOW_RESERVED_NAMES" in bench.end.last) is opened


def test_a_location_is_relative_when_a_filter_asks_for_it():
    bench = Bench("gatekeeper")

    def answer(environ):
        environ[env.LEAVE_RELATIVE_LOCATION] = True
        return found(status=307, Location="http://host/v1/a/c/o?x=1#f")

    bench.end.answers["*"] = answer
    assert bench.ask("POST", "/v1/a/c/o").headers["Location"] == "/v1/a/c/o?x=1#f"


# --- healthcheck, crossdomain ---------------------------------------------------------


def test_healthcheck_answers_any_verb():
    bench = Bench("healthcheck")
    for method in ("GET", "POST"):
        response = bench.ask(method, "/healthcheck")
        assert (response.status, response.body) == (200, b"OK")
    assert bench.end.seen == []


def test_healthcheck_is_disabled_by_a_file(tmp_path):
    switch = tmp_path / "off"
    bench = Bench("healthcheck", disable_path=str(switch))
    assert bench.ask("GET", "/healthcheck").status == 200
    switch.touch()
    response = bench.ask("GET", "/healthcheck")
    assert (response.status, response.body) == (503, b"DISABLED BY FILE")


def test_crossdomain_wraps_the_policy():
    bench = Bench("crossdomain")
    response = bench.ask("GET", "/crossdomain.xml")
    assert response.status == 200
    assert response.headers["Content-Type"] == "application/xml"
    assert b'<allow-access-from domain="*" secure="false" />' in response.body
    assert response.body.startswith(b"<?xml version")
    assert "crossdomain" in bench.process.info.features


# --- name_check -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status"),
    [
        pytest.param("/v1/a/c/plain", 404, id="passes"),
        pytest.param("/v1/a/c/a%22b", 400, id="forbidden character"),
        pytest.param("/v1/a/c/../b", 400, id="forbidden pattern"),
        pytest.param("/v1/a/c/" + "x" * 248, 400, id="too long by one"),
        pytest.param("/v1/a/c/" + "x" * 247, 404, id="as long as allowed"),
        pytest.param("/v1/a/c/%FF", 404, id="no UTF-8 is the proxy's to say"),
    ],
)
def test_name_check_refuses(path, status):
    assert Bench("name_check").ask("PUT", path).status == status


def test_name_check_tells_its_rules():
    bench = Bench("name_check", maximum_length="10", forbidden_regexp="")
    facts = bench.process.info.features["name_check"]
    assert facts == {
        "forbidden_chars": "'\"`<>",
        "maximum_length": 10,
        "forbidden_regexp": "",
    }
    assert bench.ask("GET", "/v1/..").status == 404


def test_name_check_refuses_to_start_with_a_bad_pattern():
    with pytest.raises(ConfigError):
        Bench("name_check", forbidden_regexp="(")


# --- read_only ------------------------------------------------------------------------


def with_mark(bench: Bench, marks: dict[str, str]) -> None:
    def fetch(environ, name):
        headers = Headers()
        if name.account in marks:
            headers["X-Account-Sysmeta-Read-Only"] = marks[name.account]
        return Response(204, headers, b"")

    bench.extra = {env.INFO_FETCHER: InfoFetcher(fetch)}


@pytest.mark.parametrize(
    ("options", "method", "marks", "status"),
    [
        pytest.param({}, "PUT", {}, 404, id="off"),
        pytest.param({"read_only": "1"}, "GET", {}, 404, id="reads pass"),
        pytest.param({"read_only": "1"}, "PUT", {}, 405, id="writes do not"),
        pytest.param({"read_only": "1"}, "DELETE", {}, 405, id="nor deletes"),
        pytest.param(
            {"read_only": "1", "allow_deletes": "1"},
            "DELETE",
            {},
            404,
            id="deletes allowed",
        ),
        pytest.param({"read_only": "1"}, "PUT", {"a": "no"}, 404, id="account opened"),
        pytest.param({}, "POST", {"a": "yes"}, 405, id="account closed"),
        pytest.param({}, "COPY", {"b": "yes"}, 405, id="target account closed"),
    ],
)
def test_read_only_refuses_writes(options, method, marks, status):
    bench = Bench("read_only", **options)
    with_mark(bench, marks)
    headers = {"Destination": "/c/o", "Destination-Account": "b"}
    response = bench.ask(method, "/v1/a/c/o", headers, **bench.extra)
    assert response.status == status
