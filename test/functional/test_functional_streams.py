# SPDX-License-Identifier: Apache-2.0
"""Many bodies at a time: memory stays bounded, and with `splice` none are copied."""

from __future__ import annotations

import os
import re
import socket
from concurrent.futures import ThreadPoolExecutor
from hashlib import md5
from pathlib import Path

import pytest

from test.support.client import Client
from test.support.cluster import Cluster, wait_until

MIB = 1 << 20
STREAMS = 64
PROXY_KIB_MAX = 150 * 1024
LARGE = os.urandom(8 * MIB)


@pytest.fixture(scope="module")
def own_cluster(tmp_path_factory):
    # Of whole copies, whatever policies the other tests want: fragments of a segment
    # must be held to be decoded, and nothing of them can be spliced.
    started = Cluster(tmp_path_factory.mktemp("streams"))
    started.start()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def owner(own_cluster):
    made = Client.authenticated(
        f"{own_cluster.endpoint}/auth/v1.0", own_cluster.user, own_cluster.key
    )
    assert made.put(f"{made.base}/c").status == 201
    assert made.put(f"{made.base}/c/large", body=LARGE).status == 201
    return made


def memory_kib(pid):
    """(resident now, the most it was) of a process."""
    text = Path(f"/proc/{pid}/status").read_text()
    return tuple(
        int(re.search(rf"{key}:\s+(\d+)", text)[1]) for key in ("VmRSS", "VmHWM")
    )


def opened(owner, method, path, length=None):
    """A connection on which a request's head was sent."""
    sock = socket.create_connection((owner.host, owner.port), timeout=60)
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nX-Auth-Token: {owner.token}\r\n"
    if length is not None:
        head += f"Content-Length: {length}\r\n"
    sock.sendall(f"{head}\r\n".encode())
    return sock


def test_slow_readers_and_writers_cost_the_proxy_little_memory(own_cluster, owner):
    pid = own_cluster.pid("proxy")
    readers = [opened(owner, "GET", f"{owner.base}/c/large") for _ in range(STREAMS)]
    writers = [
        opened(owner, "PUT", f"{owner.base}/c/up{n}", 100 * MIB) for n in range(STREAMS)
    ]
    try:
        with ThreadPoolExecutor(STREAMS) as senders:
            list(senders.map(lambda sock: sock.sendall(LARGE[: 2 * MIB]), writers))
        for sock in readers:
            assert sock.recv(4096).startswith(b"HTTP/1.1 200")
        # Nobody reads on, and nobody sends on: what the proxy holds now is the most.
        _, most = memory_kib(pid)
        assert most < PROXY_KIB_MAX
    finally:
        for sock in readers + writers:
            sock.close()
    got = owner.get(f"{owner.base}/c/large")
    assert md5(got.body).digest() == md5(LARGE).digest()


def with_splice(conf):
    """Switch zero-copy on in the app's section of a conf file."""
    text = conf.read_text()
    assert "[app:" in text
    conf.write_text(re.sub(r"(?m)^(\[app:[^\]]+\])$", r"\1\nsplice = true", text))


def pipes(pid):
    """How many descriptors of pipes a process has."""
    links = Path(f"/proc/{pid}/fd").iterdir()
    return sum(os.readlink(link).startswith("pipe:") for link in links)


def copied_by_kernel(pid):
    """Bytes that a process wrote to files or by sendfile; sends do not count."""
    text = Path(f"/proc/{pid}/io").read_text()
    return int(re.search(r"wchar: (\d+)", text)[1])


def test_with_splice_bodies_go_from_disk_to_client_inside_the_kernel(
    own_cluster, owner
):
    etc = own_cluster.folder / "etc"
    with_splice(etc / "proxy-server.conf")
    names = ["proxy"]
    for node in range(1, 5):
        with_splice(etc / "object-server" / f"{node}.conf")
        names.append(f"object-{node}")
    for name in names:
        own_cluster.kill(name)
        own_cluster.restart(name)
    wait_until(
        lambda: owner.head(f"{owner.base}/c/large").status == 200, 20, "the object"
    )
    proxy = own_cluster.pid("proxy")
    nodes = [own_cluster.pid(name) for name in names[1:]]
    pipes_before = pipes(proxy)
    copied_before = sum(map(copied_by_kernel, nodes))
    got = owner.get(f"{owner.base}/c/large")
    assert (got.status, md5(got.body).digest()) == (200, md5(LARGE).digest())
    # The pipe between the sockets is kept for the next body.
    assert pipes(proxy) >= pipes_before + 2
    assert sum(map(copied_by_kernel, nodes)) - copied_before >= len(LARGE)
    part = owner.get(f"{owner.base}/c/large", {"Range": f"bytes=5-{5 * MIB}"})
    assert (part.status, part.body) == (206, LARGE[5 : 5 * MIB + 1])
