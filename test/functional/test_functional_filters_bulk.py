# SPDX-License-Identifier: Apache-2.0
"""Bulk, quotas and quoted tags over HTTP: contract middleware.md 1, 3, 6, 13."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import tarfile
from xml.etree import ElementTree

import pytest

from test.support.client import Client

PACK = {"tar": bytes, "tar.gz": gzip.compress, "tar.bz2": bz2.compress}
JSON = {"Accept": "application/json"}
TEXT = {"Content-Type": "text/plain", **JSON}


def archive(files, pax=None):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.pax_headers = pax or {}
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def names(client, container):
    return client.get(container).body.decode().split("\n")[:-1]


@pytest.mark.parametrize("form", list(PACK))
def test_an_archive_is_extracted(client, container, form):
    files = {f"d{i % 3}/f{i:03}": b"%d" % i * 50 for i in range(60)}
    files["big"] = b"b" * 400_000
    data = PACK[form](archive(files, {"SCHILY.xattr.user.meta.colour": "red"}))
    got = client.put(f"{container}/pre?extract-archive={form}", data, JSON)
    assert got.status == 200
    report = got.json()
    assert report["Response Status"] == "201 Created", report
    assert report["Number Files Created"] == 61
    assert sorted(names(client, container)) == sorted(f"pre/{name}" for name in files)
    one = client.get(f"{container}/pre/big")
    assert one.body == files["big"]
    assert one.headers["x-object-meta-colour"] == "red"


def test_an_archive_makes_its_containers(client, container):
    base, _, short = container.rpartition("/")
    data = archive({f"{short}-new/o": b"1", "bare": b"2"})
    got = client.put(f"{base}?extract-archive=tar", data, JSON)
    assert got.json()["Number Files Created"] == 1
    assert client.get(f"{container}-new/o").body == b"1"
    client.remove_container(f"{container}-new")


def test_strangers_extract_and_delete_nothing(client, container):
    stranger = client.anonymous()
    data = archive({"o": b"1"})
    got = stranger.put(f"{container}?extract-archive=tar", data, JSON)
    assert got.json()["Response Status"] == "401 Unauthorized"
    assert client.put(f"{container}/o", b"x").status == 201
    short = container.rpartition("/")[2]
    got = stranger.post(f"{client.base}?bulk-delete", TEXT, f"{short}/o".encode())
    assert got.json()["Response Status"] == "401 Unauthorized"
    assert client.get(f"{container}/o").status == 200


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"no archive" * 99, id="noise"),
        pytest.param(archive({"f": b"x" * 5000})[:2000], id="cut"),
        pytest.param(archive({"../f": b"x"}), id="upwards"),
        pytest.param(gzip.compress(bytes(1 << 20))[:200], id="gzip in a tar"),
    ],
)
def test_bad_archives_store_nothing(client, container, data):
    got = client.put(f"{container}?extract-archive=tar", data, JSON)
    assert got.json()["Response Status"] == "400 Bad Request"
    assert names(client, container) == []


@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_a_list_of_names_is_deleted(client, container, method):
    short = container.rpartition("/")[2]
    for name in ("a", "b%20c", "d/%C3%BC"):
        assert client.put(f"{container}/{name}", b"x").status == 201
    body = "\n".join(f"{short}/{name}" for name in ("a", "b%20c", "d/%C3%BC", "gone"))
    got = client.request(method, f"{client.base}?bulk-delete", TEXT, body.encode())
    assert got.json() == {
        "Response Status": "200 OK",
        "Response Body": "",
        "Number Deleted": 3,
        "Number Not Found": 1,
        "Errors": [],
    }
    assert names(client, container) == []


def test_a_container_that_is_not_empty_is_named_in_xml(client, container):
    short = container.rpartition("/")[2]
    assert client.put(f"{container}/o", b"x").status == 201
    headers = {"Content-Type": "text/plain", "Accept": "application/xml"}
    got = client.post(f"{client.base}?bulk-delete", headers, short.encode())
    root = ElementTree.fromstring(got.body.strip())
    assert root.findtext("response_status") == "400 Bad Request"
    assert root.findtext("errors/object/status") == "409 Conflict"


def test_a_client_that_expects_100_gets_it_before_the_report(client, container):
    data = archive({"o": b"1"})
    short = container[len(client.base) :]
    head = (
        f"PUT {client.base}{short}?extract-archive=tar HTTP/1.1\r\nHost: x\r\n"
        f"X-Auth-Token: {client.token}\r\nExpect: 100-continue\r\n"
        f"Content-Length: {len(data)}\r\nConnection: close\r\n\r\n"
    )
    answer = client.raw(head.encode() + data, half_close=False)
    assert answer.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
    assert b"201 Created" in answer


# --- Quotas -------------------------------------------------------------------------


def test_a_container_quota_stops_writers(client, container):
    headers = {
        "X-Container-Meta-Quota-Bytes": "10",
        "X-Container-Meta-Quota-Count": "1",
    }
    assert client.post(container, headers).status == 204
    assert client.put(f"{container}/o", b"x" * 11).status == 413
    assert client.put(f"{container}/o", b"x" * 10).status == 201
    assert client.anonymous().put(f"{container}/o", b"x" * 11).status == 401
    bad = {"X-Container-Meta-Quota-Bytes": "many"}
    assert client.post(container, bad).status == 400


def test_a_copy_is_held_to_the_quota_of_its_target(client, container):
    assert client.put(f"{container}/o", b"x" * 100).status == 201
    target = f"{container}-t"
    assert (
        client.put(target, headers={"X-Container-Meta-Quota-Bytes": "10"}).status == 201
    )
    headers = {"Destination": f"{target.rpartition('/')[2]}/o"}
    assert client.request("COPY", f"{container}/o", headers).status == 413
    client.remove_container(target)


@pytest.fixture(scope="module")
def reseller(cluster, client):
    if cluster is None:
        pytest.skip("the reseller's key is that of another cluster")
    found = Client.authenticated(
        f"{cluster.endpoint}/auth/v1.0", "admin:admin", cluster.key
    )
    found.base = client.base
    yield found
    found.post(found.base, {"X-Remove-Account-Quota-Bytes": "x"})


def test_an_account_quota_is_set_by_resellers_only(client, reseller, container):
    quota = {"X-Account-Quota-Bytes": "0"}
    assert client.post(client.base, quota).status == 403
    assert reseller.post(client.base, quota).status == 204
    assert client.head(client.base).headers["x-account-quota-bytes"] == "0"
    assert client.put(f"{container}/o", b"x").status == 413
    assert reseller.put(f"{container}/o", b"x").status == 201
    gone = {"X-Remove-Account-Quota-Bytes": "x"}
    assert reseller.post(client.base, gone).status == 204
    assert "x-account-quota-bytes" not in client.head(client.base).headers
    assert client.put(f"{container}/o", b"x").status == 201


# --- Quoted tags --------------------------------------------------------------------


def test_tags_are_quoted_where_the_owner_wants_it(client, container):
    path = f"{container}/o"
    assert client.put(path, b"x").status == 201
    plain = client.get(path).headers["etag"]
    flag = {"X-Container-Rfc-Compliant-Etags": "true"}
    assert client.post(container, flag).status == 204
    got = client.head(container).headers
    assert got["x-container-rfc-compliant-etags"] == "true"
    for answer in (client.get(path), client.head(path), client.put(path, b"x")):
        assert answer.headers["etag"] == f'"{plain}"'
    conditional = client.get(path, {"If-None-Match": f'"{plain}"'})
    assert (conditional.status, conditional.headers["etag"]) == (304, f'"{plain}"')
    client.post(container, {"X-Remove-Container-Rfc-Compliant-Etags": "x"})
    assert client.get(path).headers["etag"] == plain


def test_info_tells_of_all(client):
    facts = client.get("/info").json()
    assert facts["bulk_delete"]["max_deletes_per_request"] == 10000
    assert facts["bulk_upload"]["max_containers_per_extraction"] == 10000
    assert facts["account_quotas"] == facts["container_quotas"] == {}
    assert facts["etag_quoter"] == {"enable_by_default": False}
    assert facts["ratelimit"]["account_ratelimit"] == 0
    json.dumps(facts)
