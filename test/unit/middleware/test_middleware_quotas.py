# SPDX-License-Identifier: Apache-2.0
"""account_quotas and container_quotas: who may set them, whom they stop."""

from __future__ import annotations

import pytest
from filter_facts import Facts
from filter_pipeline import Bench, found

from swift.wire import environ as env
from swift.wire.request import Response

RESELLER = {env.RESELLER_REQUEST: True}
SYSMETA = "X-Account-Sysmeta-Quota-"


class Quotas(Bench):
    def __init__(self, name, **facts):
        super().__init__(name)
        self.facts = Facts().give_to(self)
        self.facts.set("/a/c")
        self.end.answers["*"] = lambda environ: found(status=201)

    def account(self, **headers):
        self.facts.set(
            "/a", X_Account_Bytes_Used="100", X_Account_Object_Count="5", **headers
        )
        return self

    def container(self, **headers):
        self.facts.set(
            "/a/c",
            X_Container_Bytes_Used="100",
            X_Container_Object_Count="5",
            **headers,
        )
        return self

    def put(self, size=0, **extra):
        headers = {} if size is None else {"Content-Length": str(size)}
        return self.ask("PUT", "/v1/a/c/o", headers, **extra).status


# --- Containers -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("quotas", "size", "status"),
    [
        ({"Bytes": "110"}, 10, 201),
        ({"Bytes": "110"}, 11, 413),
        ({"Bytes": "100"}, None, 201),
        ({"Bytes": "0"}, 0, 413),
        ({"Bytes": ""}, 10, 201),
        ({"Bytes": "many"}, 10, 201),
        ({"Count": "6"}, 10, 201),
        ({"Count": "5"}, 10, 413),
        ({"Bytes": "1000", "Count": "5"}, 10, 413),
        ({}, 10, 201),
    ],
)
def test_a_container_takes_what_its_quota_allows(quotas, size, status):
    named = {f"X_Container_Meta_Quota_{kind}": text for kind, text in quotas.items()}
    assert Quotas("container_quotas").container(**named).put(size) == status


@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize("name", ["Bytes", "Count"])
@pytest.mark.parametrize(
    ("value", "status"), [("1", 201), ("", 201), ("x", 400), ("-1", 400), ("1.5", 400)]
)
def test_a_container_quota_is_a_number(method, name, value, status):
    bench = Quotas("container_quotas")
    headers = {f"X-Container-Meta-Quota-{name}": value}
    assert bench.ask(method, "/v1/a/c", headers).status == status
    assert bench.ask(method, "/v1/a/c/o", headers).status == 201


def test_reads_and_deletes_ask_for_no_facts():
    for name in ("container_quotas", "account_quotas"):
        bench = Quotas(name)
        for method in ("GET", "HEAD", "DELETE", "POST"):
            bench.ask(method, "/v1/a/c/o")
        assert bench.facts.asked == []


@pytest.mark.parametrize("name", ["container_quotas", "account_quotas"])
def test_strangers_hear_of_no_quota(name):
    bench = Quotas(name).container(
        X_Container_Meta_Quota_Bytes="1", X_Container_Write="friends"
    )
    bench.account(X_Account_Sysmeta_Quota_Bytes="1")
    asked = []

    def deny(request):
        asked.append(request.acl)
        return Response(403)

    assert bench.put(10, **{env.AUTHORIZE: deny}) == 403
    assert asked == ["friends"]
    assert bench.put(10, **{env.AUTHORIZE: lambda request: None}) == 413


# --- Accounts -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "size", "status"),
    [
        ({"Sysmeta_Quota_Bytes": "110"}, 10, 201),
        ({"Sysmeta_Quota_Bytes": "110"}, 11, 413),
        ({"Meta_Quota_Bytes": "109"}, 10, 413),
        ({"Meta_Quota_Bytes": "1", "Sysmeta_Quota_Bytes": "200"}, 10, 201),
        ({"Sysmeta_Quota_Count": "5"}, 0, 413),
        ({"Sysmeta_Quota_Count": "6"}, 0, 201),
        ({"Sysmeta_Quota_Bytes": "junk"}, 10, 201),
        (
            {
                "Sysmeta_Quota_Bytes_Policy_0": "50",
                "Storage_Policy_Policy_0_Bytes_Used": "45",
            },
            6,
            413,
        ),
        (
            {
                "Sysmeta_Quota_Bytes_Policy_0": "50",
                "Storage_Policy_Policy_0_Bytes_Used": "45",
            },
            5,
            201,
        ),
        (
            {
                "Sysmeta_Quota_Count_Policy_0": "2",
                "Storage_Policy_Policy_0_Object_Count": "2",
            },
            0,
            413,
        ),
        ({"Sysmeta_Quota_Bytes_Policy_9": "0"}, 10, 201),
    ],
)
def test_an_account_takes_what_its_quota_allows(facts, size, status):
    named = {f"X_Account_{name}": text for name, text in facts.items()}
    bench = Quotas("account_quotas").account(**named)
    assert bench.put(size) == status
    assert bench.put(10_000, **RESELLER) == 201


@pytest.mark.parametrize("method", ["PUT", "POST"])
@pytest.mark.parametrize(
    ("header", "stored"),
    [
        ("X-Account-Quota-Bytes", "Bytes"),
        ("X-Account-Meta-Quota-Bytes", "Bytes"),
        ("X-Account-Quota-Count", "Count"),
        ("X-Account-Quota-Bytes-Policy-Policy-0", "Bytes-Policy-0"),
        ("X-Account-Quota-Count-Policy-Policy-0", "Count-Policy-0"),
    ],
)
def test_resellers_set_quotas_and_nobody_else(method, header, stored):
    bench = Quotas("account_quotas")
    assert bench.ask(method, "/v1/a", {header: "7"}, **RESELLER).status == 201
    sent = env.headers_of(bench.end.last)
    assert sent[SYSMETA + stored] == "7"
    assert sent.get(header, "") == ""
    assert bench.ask(method, "/v1/a", {header: "x"}, **RESELLER).status == 400
    assert bench.ask(method, "/v1/a", {header: "7"}).status == 403
    assert len(bench.end.seen) == 1


@pytest.mark.parametrize(
    ("header", "stored"),
    [
        ("X-Remove-Account-Quota-Bytes", "Bytes"),
        ("X-Remove-Account-Meta-Quota-Bytes", "Bytes"),
        ("X-Remove-Account-Quota-Count-Policy-Policy-0", "Count-Policy-0"),
    ],
)
def test_quotas_are_cleared(header, stored):
    bench = Quotas("account_quotas")
    assert bench.ask("POST", "/v1/a", {header: "x"}, **RESELLER).status == 201
    assert env.headers_of(bench.end.last)[SYSMETA + stored] == ""
    assert bench.ask("POST", "/v1/a", {header: "x"}).status == 403


def test_an_account_shows_its_quotas():
    bench = Quotas("account_quotas")
    bench.end.answers["*"] = lambda environ: found(
        X_Account_Sysmeta_Quota_Bytes="7", X_Account_Sysmeta_Quota_Count_Policy_0="8"
    )
    got = bench.ask("HEAD", "/v1/a")
    assert got.headers["X-Account-Quota-Bytes"] == "7"
    assert got.headers["X-Account-Meta-Quota-Bytes"] == "7"
    assert got.headers["X-Account-Quota-Count-Policy-Policy-0"] == "8"
    assert "X-Account-Quota-Count" not in got.headers


def test_info_names_both():
    for name in ("container_quotas", "account_quotas"):
        assert Quotas(name).process.info.features == {name: {}}
