# SPDX-License-Identifier: Apache-2.0
"""An erasure-coded policy of a real cluster: devices are lost, a proxy is killed."""

from __future__ import annotations

import os
from itertools import combinations

import pytest

from test.support.client import Client
from test.support.cluster import Cluster, find, wait_until
from test.support.passes import run_passes
from test.support.uncommitted import kill_before_commit

BODY = os.urandom(2_500_000)
POLICY = "ec-4-2"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    started = Cluster(tmp_path_factory.mktemp("erasure"), "--policies", "replica+ec")
    started.start()
    # What heals must not hide what a request does.
    started.kill_daemons()
    yield started
    started.stop()


@pytest.fixture
def client(cluster):
    return Client.authenticated(
        f"{cluster.endpoint}/auth/v1.0", cluster.user, cluster.key
    )


@pytest.fixture
def box(client, request):
    path = f"{client.base}/{request.node.name[:60]}"
    got = client.put(path, headers={"X-Storage-Policy": POLICY})
    assert got.status == 201, got
    return path


def fragments(cluster):
    """Data files of the policy below all devices, by path."""
    return find(cluster.folder, "srv/*/d*/objects-1/*/*/*/*.data")


def test_two_policies_stand_side_by_side(cluster, client, box):
    assert client.head(box).headers["x-storage-policy"] == POLICY
    plain = f"{client.base}/plain"
    assert client.put(plain).status == 201
    assert client.head(plain).headers["x-storage-policy"] == "replica"
    assert client.put(f"{box}/o", BODY).status == 201
    assert client.put(f"{plain}/o", BODY).status == 201
    assert len(fragments(cluster)) == 6
    stored = sum(path.stat().st_size for path in fragments(cluster))
    assert stored <= 1.51 * len(BODY)
    copied = client.request("COPY", f"{box}/o", {"Destination": "plain/copy"})
    assert copied.status == 201
    assert client.get(f"{plain}/copy").body == BODY
    [row] = client.get(f"{box}?format=json").json()
    assert row["bytes"] == len(BODY)
    assert row["hash"] == client.head(f"{plain}/o").headers["etag"]


def test_two_lost_devices_are_worked_around(cluster, client, box):
    before = set(fragments(cluster))
    assert client.put(f"{box}/o", BODY).status == 201
    own = sorted(set(fragments(cluster)) - before)
    devices = [path.parents[4] for path in own]
    aside = [device.with_name(f"aside-{device.name}") for device in devices[:2]]
    for device, place in zip(devices, aside, strict=False):
        device.rename(place)
    try:
        for _ in range(3):
            assert client.get(f"{box}/o").body == BODY
        span = client.get(f"{box}/o", {"Range": "bytes=1000000-2000000"})
        assert (span.status, span.body) == (206, BODY[1_000_000:2_000_001])
        assert client.head(f"{box}/o").headers["content-length"] == str(len(BODY))
        assert client.put(f"{box}/o", BODY[::-1]).status == 201
        assert client.get(f"{box}/o").body == BODY[::-1]
    finally:
        for device, place in zip(devices, aside, strict=False):
            place.rename(device)
    # What came back is older, and is not mistaken for the object.
    for _ in range(3):
        assert client.get(f"{box}/o").body == BODY[::-1]


def test_any_two_of_the_six_devices_may_be_lost(cluster, client, box):
    before = set(fragments(cluster))
    assert client.put(f"{box}/o", BODY).status == 201
    own = sorted(set(fragments(cluster)) - before)
    devices = [path.parents[4] for path in own]
    assert len(devices) == 6
    for pair in combinations(devices, 2):
        aside = [device.with_name(f"aside-{device.name}") for device in pair]
        for device, place in zip(pair, aside, strict=True):
            device.rename(place)
        try:
            assert client.get(f"{box}/o").body == BODY, pair
            span = client.get(f"{box}/o", {"Range": "bytes=1048570-1048580"})
            assert (span.status, span.body) == (206, BODY[1_048_570:1_048_581]), pair
        finally:
            for device, place in zip(pair, aside, strict=True):
                place.rename(device)


def killed_before_the_commit(cluster, client, path):
    """The fragments of a PUT of BODY whose proxy is killed while nodes have fragments
    and wait for the commit; the proxy runs again afterwards.

    It begins with a proxy that holds nothing against nodes that other tests broke: a
    fragment on a handoff would stay there, and nothing here moves it.
    """
    cluster.kill("proxy")
    cluster.restart("proxy")
    landed = kill_before_commit(cluster, client, path, BODY, lambda: fragments(cluster))
    assert all("#d" not in name.name for name in landed)
    return landed


def test_a_proxy_killed_before_the_commit_changes_nothing(cluster, client, box):
    cluster.kill("proxy")
    cluster.restart("proxy")
    assert client.put(f"{box}/o", b"the old one").status == 201
    landed = killed_before_the_commit(cluster, client, f"{box}/o")
    again = Client.authenticated(
        f"{cluster.endpoint}/auth/v1.0", cluster.user, cluster.key
    )
    assert again.get(f"{box}/o").body == b"the old one"
    assert again.put(f"{box}/o", BODY).status == 201
    assert again.get(f"{box}/o").body == BODY

    def is_tidy():
        # A node that is slow to commit is not waited for once a quorum has; it tidies
        # up at the next write.
        assert again.put(f"{box}/o", BODY).status == 201
        return not landed & set(fragments(cluster))

    wait_until(is_tidy, 30, "commits have cleaned up")


def test_what_a_killed_proxy_left_is_cleaned_up_after_a_while(cluster, client, box):
    landed = killed_before_the_commit(cluster, client, f"{box}/o")
    assert landed
    again = Client.authenticated(
        f"{cluster.endpoint}/auth/v1.0", cluster.user, cluster.key
    )
    assert again.get(f"{box}/o").status == 404

    def remaining(commit_window):
        options = {
            "object-auditor": {"reclaim_age": "0"},
            "object-reconstructor": {
                "reclaim_age": "0",
                "commit_window": commit_window,
            },
        }
        run_passes(cluster.folder, list(options), options)
        return landed & set(fragments(cluster))

    assert remaining("3600") == landed, "their commit might still come"
    wait_until(lambda: not remaining("1"), 120, "they are removed")


def test_damaged_fragments_are_found_and_made_again(cluster, client, box):
    cluster.kill("proxy")
    cluster.restart("proxy")
    whole = {}
    for number in range(3):
        before = set(fragments(cluster))
        assert client.put(f"{box}/{number}", BODY).status == 201
        own = sorted(set(fragments(cluster)) - before, key=lambda path: path.name)
        victim = own[number]
        data = whole[victim] = victim.read_bytes()
        damaged = (
            data[: len(data) // 2],
            data[:-1] + bytes([data[-1] ^ 1]),
            own[5].read_bytes(),
        )[number]
        with victim.open("r+b") as stream:
            stream.write(damaged)
            stream.truncate(len(damaged))

    run_passes(cluster.folder, ["object-auditor"])
    assert not any(path.exists() for path in whole), "they are in quarantine"

    def are_back():
        run_passes(cluster.folder, ["object-reconstructor"])
        return all(path.exists() for path in whole)

    wait_until(are_back, 120, "the fragments are made again")
    assert all(path.read_bytes() == data for path, data in whole.items())
    for number in range(3):
        assert client.get(f"{box}/{number}").body == BODY
