# SPDX-License-Identifier: Apache-2.0
"""Servers die, disks fail, bytes rot: right bytes or a clear error, never wrong ones.

These tests break a cluster of their own.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import threading

import pytest

from test.support.client import Client
from test.support.cluster import Cluster, find, wait_until


@pytest.fixture(scope="module")
def own(tmp_path_factory, policies):
    started = Cluster(tmp_path_factory.mktemp("faults"), *policies)
    started.start()
    yield started
    started.stop()


@pytest.fixture
def user(own):
    return Client.authenticated(f"{own.endpoint}/auth/v1.0", own.user, own.key)


@pytest.fixture(autouse=True)
def fresh_proxy(own):
    """A proxy that holds nothing against nodes that earlier tests broke."""
    own.kill("proxy")
    own.restart("proxy")


@pytest.fixture
def box(user):
    path = f"{user.base}/faults"
    assert user.put(path).status in (201, 202)
    return path


def replicas(own, name):
    """The data files of one object; others come and go as daemons move them."""
    files = [path for path in own.object_files() if path.suffix == ".data"]
    return [path for path in files if name.encode() in record(path)]


def record(path):
    try:
        return os.getxattr(path, "user.swift.metadata")
    except OSError:  # moved meanwhile, or damaged by a test
        return b""


def test_no_acknowledged_put_is_lost_when_a_server_is_killed(own, user, box):
    acknowledged: dict[str, bytes] = {}
    stop = threading.Event()

    def writer(number):
        mine = Client(user.host, user.port, user.base, user.token)
        count = 0
        while not stop.is_set():
            name, data = f"w{number}-{count}", os.urandom(3000 + count)
            count += 1
            if mine.put(f"{box}/{name}", data).status == 201:
                acknowledged[name] = data

    threads = [threading.Thread(target=writer, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: len(acknowledged) > 30, 30, "writes before the kill")
        own.kill("object-2")
        at_kill = len(acknowledged)
        wait_until(lambda: len(acknowledged) > at_kill + 60, 60, "writes without it")
        own.restart("object-2")
        at_restart = len(acknowledged)
        wait_until(lambda: len(acknowledged) > at_restart + 30, 30, "writes after")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for name, data in acknowledged.items():
        got = user.get(f"{box}/{name}")
        assert (got.status, got.body) == (200, data), name


def test_downloads_go_on_when_their_server_is_killed(own, user, box):
    data = os.urandom(48 * 1024 * 1024)
    assert user.put(f"{box}/big", data).status == 201
    for victim in ("object-1", "object-2", "object-3"):
        results: list[bool] = []

        def download(results=results):
            got = user.get(f"{box}/big")
            results.append(
                got.status == 200
                and hashlib.md5(got.body).digest() == hashlib.md5(data).digest()
            )

        threads = [threading.Thread(target=download) for _ in range(4)]
        for thread in threads:
            thread.start()
        own.kill(victim)
        for thread in threads:
            thread.join()
        own.restart(victim)
        assert results == [True] * 4, victim


def test_two_dead_servers_of_a_kind_stop_writes_with_503(own, user, box):
    user.put(f"{box}/before", b"x")
    for name in ("object-1", "object-2", "object-3"):
        own.kill(name)
    try:
        assert user.put(f"{box}/during", b"y").status == 503
    finally:
        for name in ("object-1", "object-2", "object-3"):
            own.restart(name)
    assert user.get(f"{box}/before").body == b"x"
    wait_until(
        lambda: user.put(f"{box}/during", b"y").status == 201, 90, "writes come back"
    )


@pytest.mark.parametrize("damage", ["flip a bit", "cut it short", "lose its metadata"])
def test_a_corrupted_replica_is_never_served(own, user, box, damage):
    name = damage.replace(" ", "-")
    data = os.urandom(300_000)
    assert user.put(f"{box}/{name}", data).status == 201
    # Of fragments the first, whose name comes first: parity is read only in need.
    victim = min(replicas(own, f"/faults/{name}"), key=lambda path: path.name)
    middle = victim.stat().st_size // 2
    if damage == "flip a bit":
        with victim.open("r+b") as replica:
            replica.seek(middle)
            byte = replica.read(1)
            replica.seek(middle)
            replica.write(bytes([byte[0] ^ 1]))
    elif damage == "cut it short":
        os.truncate(victim, middle)
    else:
        os.removexattr(victim, "user.swift.metadata")
    bad = 0

    def is_found():
        nonlocal bad
        try:
            got = user.get(f"{box}/{name}")
        except http.client.IncompleteRead:  # cut short of its Content-Length
            bad += 1
        else:
            assert (got.status, got.body) == (200, data)
        return not victim.exists()

    wait_until(is_found, 30, "the corrupt replica is read and put into quarantine")
    assert bad <= 1
    for _ in range(6):
        assert user.get(f"{box}/{name}").body == data


def test_an_unreadable_device_is_worked_around(own, user, box):
    assert user.put(f"{box}/before-loss", b"data").status == 201
    device = own.device(2)
    aside = device.with_name("aside")
    device.rename(aside)
    try:
        assert user.get(f"{box}/before-loss").body == b"data"
        assert user.put(f"{box}/after-loss", b"data").status == 201
        assert user.get(f"{box}/after-loss").body == b"data"
        assert not device.exists(), "a missing device is never made by a write"
    finally:
        aside.rename(device)


def test_a_full_disk_refuses_or_is_worked_around(own, user, box):
    conf = own.folder / "etc" / "object-server" / "3.conf"
    text = conf.read_text()
    conf.write_text(
        text.replace(
            "mount_check = false", "mount_check = false\nfallocate_reserve = 100%"
        )
    )
    own.kill("object-3")
    own.restart("object-3")
    try:
        device = own.device(3)
        for number in range(20):
            assert user.put(f"{box}/full-{number}", b"data").status == 201
            assert user.get(f"{box}/full-{number}").body == b"data"
        stored = replicas(own, "/faults/full-")
        assert stored
        assert not [path for path in stored if device in path.parents]
    finally:
        conf.write_text(text)
        own.kill("object-3")
        own.restart("object-3")


def test_a_corrupted_database_is_quarantined_not_served(own, user, box):
    path = f"{user.base}/db-victim"
    assert user.put(path).status == 201
    assert user.put(f"{path}/o", b"x").status == 201
    assert user.get(path).lines == ["o"]
    victims = [
        found
        for node in range(1, 5)
        for found in find(own.device(node), "containers/*/*/*/*.db")
        if b"db-victim" in found.read_bytes()
    ]
    assert len(victims) == 3
    with victims[0].open("r+b") as database:
        database.write(b"\0" * 4096)
    for _ in range(12):
        got = user.get(path)
        assert (got.status, got.lines) == (200, ["o"])
    assert user.get(f"{path}/o").body == b"x"
