# SPDX-License-Identifier: Apache-2.0
"""Filters whose work depends on options: a second proxy of the cluster has them set.

Contract: middleware.md 5, 7, 12, 18, 23.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid

import pytest

from swift.core.signing import sync_message, sync_signature
from test.support.client import Client
from test.support.cluster import ROOT, START_LIMIT_S, free_port, wait_until

PIPELINE = (
    "catch_errors gatekeeper healthcheck xprofile proxy-logging cache "
    "list-endpoints cname_lookup domain_remap listing_formats container_sync "
    "ratelimit tempauth slo proxy-logging proxy-server"
)
SECTIONS = """
[filter:list-endpoints]
use = egg:swift#list_endpoints
[filter:cname_lookup]
use = egg:swift#cname_lookup
storage_domain = storage.test
nameservers = 127.0.0.1:1
[filter:domain_remap]
use = egg:swift#domain_remap
storage_domain = storage.test
[filter:xprofile]
use = egg:swift#xprofile
dump_interval = 0
"""


@pytest.fixture(scope="module")
def second(cluster, client):
    """A client of a proxy beside the cluster's own."""
    if cluster is None:
        pytest.skip("no second proxy can be started in another cluster")
    port = free_port()
    etc = cluster.folder / "etc"
    (etc / "container-sync-realms.conf").write_text(
        "[realm]\nkey = realmkey\ncluster_here = http://127.0.0.1/v1/\n"
    )
    lines, skipping = [], False
    for line in (etc / "proxy-server.conf").read_text().splitlines():
        skipping = skipping and line != ""
        if line.startswith("pipeline = "):
            lines.append(f"pipeline = {PIPELINE}")
            skipping = True
        elif line.startswith("bind_port"):
            lines.append(f"bind_port = {port}")
        elif not skipping:
            lines.append(line)
        if line == "[filter:ratelimit]":
            lines += ["container_ratelimit_1 = 5", "rate_buffer_seconds = 0"]
    conf = cluster.folder / "second.conf"
    profiles = f"log_filename_prefix = {cluster.folder}/profiles/second\n"
    conf.write_text("\n".join(lines) + SECTIONS + profiles)
    log = (cluster.folder / "log" / "second.log").open("ab")
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "bin" / "swift-proxy-server"), str(conf), "-v"],
        stdout=log,
        stderr=log,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    log.close()
    found = Client("127.0.0.1", port, client.base, client.token)

    def answers():
        assert process.poll() is None, (cluster.folder / "log/second.log").read_text()
        try:
            return found.get("/healthcheck").status == 200
        except OSError:
            return False

    try:
        wait_until(answers, START_LIMIT_S, "second proxy")
        yield found
    finally:
        process.terminate()
        process.wait(60)


def test_host_names_stand_for_containers(second, client, container):
    assert client.put(f"{container}/o", b"named").status == 201
    account, short = container.split("/")[2:4]
    host = f"{short}.{account.replace('_', '-')}.storage.test"
    assert second.get("/o", {"Host": host}).body == b"named"
    assert second.get("/o", {"Host": f"x.{host}"}).status == 400


def test_a_name_that_is_no_alias_is_refused(second):
    assert second.get("/o", {"Host": "www.nowhere.test"}).status == 400


def test_endpoints_are_where_the_nodes_are(second, cluster, client, container):
    path = container.removeprefix("/v1")
    policy = client.head(container).headers["x-storage-policy"]
    index, nodes = {"replica": ("0", 3), "ec-4-2": ("1", 6)}[policy]
    urls = second.anonymous().get(f"/endpoints/v2{path}/o").json()
    assert len(urls["endpoints"]) == nodes
    ports = {url.split("/")[2].partition(":")[2] for url in urls["endpoints"]}
    assert ports <= {str(port) for port in cluster.state["ports"]["object"]}
    assert urls["headers"] == {"X-Backend-Storage-Policy-Index": index}
    assert second.get("/endpoints/v9/a").status == 400


def test_writes_to_a_full_container_are_slowed(second, client, container):
    for name in ("a", "b"):
        assert client.put(f"{container}/{name}", b"x").status == 201

    def counted():
        headers = client.head(container).headers
        return headers["x-container-object-count"] == "2"

    wait_until(counted, 10, "rows in the container")
    start = time.monotonic()
    for _ in range(3):
        assert second.put(f"{container}/a", b"x").status == 201
    assert time.monotonic() - start >= 0.35
    assert second.get("/info").json()["ratelimit"]["container_ratelimits"] == [[1, 5]]


def test_another_cluster_of_the_realm_writes_under_its_own_time(
    second, client, container
):
    key = {"X-Container-Sync-Key": "userkey", "X-Container-Sync-To": "//realm/here/a/c"}
    assert client.post(container, key).status == 204
    path, stamp = f"{container}/synced", "1600000000.00000"
    nonce = uuid.uuid4().hex
    other = second.anonymous()

    def put(user_key):
        message = sync_message("PUT", path, stamp, nonce, user_key)
        auth = f"realm {nonce} {sync_signature('realmkey', message)}"
        headers = {"X-Container-Sync-Auth": auth, "X-Timestamp": stamp}
        return other.put(path, b"from afar", headers)

    denied = put("wrong")
    assert denied.status == 401
    assert denied.headers["www-authenticate"].startswith("SwiftContainerSync realm=")
    assert put("userkey").status == 201
    got = client.get(path)
    assert got.body == b"from afar"
    assert got.headers["x-timestamp"] == stamp
    assert second.get("/info").json()["container_sync"]["realms"] == {
        "REALM": {"clusters": {"HERE": {}}}
    }


def test_sync_targets_are_checked(second, client, container):
    for target in (
        "//other/here/a/c",
        "//realm/there/a/c",
        "//realm/here/a",
        "ftp://h",
    ):
        headers = {"X-Container-Sync-To": target}
        assert second.post(container, headers).status == 400


def test_requests_are_profiled_and_shown(second, client, container):
    assert client.put(f"{container}/o", b"x").status == 201
    assert second.get(f"{container}/o").body == b"x"

    page = second.get("/__profile__")
    assert page.headers["content-type"].startswith("text/html")
    assert page.status == 200

    def counted():
        got = second.get("/__profile__/all?format=json")
        return got.status == 200 and "object_get.py" in got.body.decode()

    # A worker writes its file at the end of a request; another may show the page.
    wait_until(counted, 30, "the figures of the GET")
    table = second.get("/__profile__/all?format=csv").body.decode()
    assert "read_object" in table
    sheet = second.get("/__profile__/all?format=ods")
    assert sheet.body.startswith(b"PK")
