# SPDX-License-Identifier: Apache-2.0
"""What our proxy asks of the nodes is what OpenStack Swift's asked in the captures.

Each client request of a capture goes through a proxy before nodes in memory; the
requests that the nodes see must have the captured methods, queries and headers. Left
out is what differs by nature: addresses, times, and how a connection or a body is
framed.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from swift.core import headers as h
from swift.core.headers import Headers
from swift.wire import environ as env
from test.support.nodes import Setup

CAPTURES = Path(__file__).parent / "golden" / "wire"
KINDS = {"6200": "object", "6201": "container", "6202": "account"}

# How it travels, and who sent it.
FRAMING = {
    "Accept-Encoding", "Connection", "Content-Length", "Expect", "Host",
    "Transfer-Encoding", h.X_BACKEND_OBJ_MULTIPART_MIME_BOUNDARY,
}  # fmt: skip
# Their values are of the capture's cluster and moment.
OF_THE_MOMENT = {
    h.REFERER, h.USER_AGENT, h.X_TIMESTAMP, h.X_TRANS_ID, h.X_ACCOUNT_DEVICE,
    h.X_ACCOUNT_HOST, h.X_ACCOUNT_PARTITION, h.X_CONTAINER_DEVICE, h.X_CONTAINER_HOST,
    h.X_CONTAINER_PARTITION, h.X_DELETE_AT_CONTAINER, h.X_DELETE_AT_DEVICE,
    h.X_DELETE_AT_HOST, h.X_DELETE_AT_PARTITION,
}  # fmt: skip


def shape(method, query, headers):
    """A request as far as it must be alike."""
    fields = tuple(
        sorted(
            (name, "*" if name in OF_THE_MOMENT else value)
            for name, value in headers.items()
            if name not in FRAMING
        )
    )
    return method, query, fields


def captured(scenario, kind):
    """Shapes of what the proxy of a capture sent to one kind of server."""
    found = Counter()
    text = (CAPTURES / f"{scenario}.json").read_text()
    for connection in json.loads(text)["connections"]:
        if KINDS[connection["server"].rpartition(":")[2]] != kind:
            continue
        sent = "".join(
            event["bytes_latin1"]
            for event in connection["events"]
            if event["from"] == "client"
        )
        head = sent.partition("\r\n\r\n")[0].split("\r\n")
        method, target, _ = head[0].split(" ")
        headers = Headers(line.split(": ", 1) for line in head[1:])
        if headers[h.USER_AGENT].startswith("proxy-server"):
            found[shape(method, target.partition("?")[2], headers)] += 1
    return found


def seen(setup, kind):
    """The same of what our proxy sent."""
    return Counter(
        shape(one.method, one.query, one.headers) for one in setup.nodes.of(kind)
    )


@pytest.fixture
def setup():
    made = Setup()
    made.ask("PUT", "/v1/AUTH_test/c", headers={"X-Container-Meta-A": "b"})
    made.cache.delete("account-info/AUTH_test")
    made.cache.delete("container-info/AUTH_test/c")
    made.nodes.requests.clear()
    return made


def test_container_put(setup):
    setup.ask("PUT", "/v1/AUTH_test/c", headers={"X-Container-Meta-A": "b"})
    assert seen(setup, "container") == captured("container-put", "container")
    assert seen(setup, "account") == captured("container-put", "account")


def test_account_get(setup):
    setup.ask("GET", "/v1/AUTH_test?format=json")
    assert seen(setup, "account") == captured("account-get", "account")


def test_container_get(setup):
    setup.ask("GET", "/v1/AUTH_test/c?format=json")
    assert seen(setup, "container") == captured("container-get", "container")
    assert seen(setup, "account") == captured("container-get", "account")


def test_object_put(setup):
    body = b"hello object"
    headers = {
        "Content-Type": "text/plain",
        "X-Object-Meta-Color": "blue",
        "Etag": "537b5d3c49e31bc3b5abc518ed5afe33",
    }
    assert setup.ask("PUT", "/v1/AUTH_test/c/o", body, headers).status == 201
    for kind in ("account", "container", "object"):
        assert seen(setup, kind) == captured("object-put-replicated", kind)


def test_object_put_of_nothing(setup):
    headers = {"Content-Type": "text/plain"}
    assert setup.ask("PUT", "/v1/AUTH_test/c/zero", b"", headers).status == 201
    assert seen(setup, "object") == captured("object-put-zero-byte", "object")


def test_object_put_that_expires(setup):
    headers = {"Content-Type": "text/plain", "X-Delete-At": "4000000000"}
    assert setup.ask("PUT", "/v1/AUTH_test/c/exp", b"bye", headers).status == 201
    assert seen(setup, "object") == captured("object-put-delete-at", "object")


def test_object_put_with_footers(setup):
    def footers(found):
        found["X-Object-Sysmeta-Footer"] = "from-footer"
        found["Etag"] = "5dcfc24e075d1748e62efecfceb77a62"
        found["X-Object-Sysmeta-Container-Update-Override-Etag"] = "override-etag"

    answer = setup.ask(
        "PUT",
        "/v1/AUTH_test/c/foot",
        b"with footers",
        {"Content-Type": "text/plain"},
        {env.UPDATE_FOOTERS: footers},
    )
    assert answer.status == 201
    assert seen(setup, "object") == captured("object-put-footers", "object")


def test_object_get_post_and_delete(setup):
    headers = {"Content-Type": "text/plain"}
    setup.ask("PUT", "/v1/AUTH_test/c/o", b"hello object", headers)
    setup.nodes.requests.clear()
    setup.ask("GET", "/v1/AUTH_test/c/o")
    assert seen(setup, "object") == captured("object-get-replicated", "object")
    setup.nodes.requests.clear()
    headers = {"Content-Type": "text/html", "X-Object-Meta-Color": "green"}
    assert setup.ask("POST", "/v1/AUTH_test/c/o", headers=headers).status == 202
    assert seen(setup, "object") == captured("object-post", "object")
    setup.nodes.requests.clear()
    assert setup.ask("DELETE", "/v1/AUTH_test/c/o").status == 204
    assert seen(setup, "object") == captured("object-delete", "object")
