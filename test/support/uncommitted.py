# SPDX-License-Identifier: Apache-2.0
"""An upload of fragments whose proxy dies before it says commit."""

from __future__ import annotations

import http.client
import os
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from test.support.client import Client
from test.support.cluster import Cluster, wait_until


def kill_before_commit(
    cluster: Cluster,
    client: Client,
    path: str,
    body: bytes,
    files: Callable[[], Iterable[Path]],
) -> set[Path]:
    """PUT `body`, kill the proxy once two nodes wait for the commit; what landed.

    files: the fragments that there are. The first two nodes are stopped meanwhile, for
    the proxy would commit as soon as enough have answered. The proxy runs again.
    """
    before = set(files())
    connection = http.client.HTTPConnection(client.host, client.port, timeout=30)
    connection.putrequest("PUT", path)
    for name, value in (
        ("X-Auth-Token", client.token or ""),
        ("Content-Length", str(len(body))),
        ("Content-Type", "x/y"),
        ("Expect", "100-continue"),
    ):
        connection.putheader(name, value)
    connection.endheaders()
    # The proxy reads, and so sends this, when all nodes have said 100 to it.
    assert connection.sock.recv(65536).startswith(b"HTTP/1.1 100")
    stopped = [cluster.pid("object-1"), cluster.pid("object-2")]
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        connection.sock.sendall(body)
        wait_until(
            lambda: len(set(files()) - before) >= 2,
            30,
            "nodes have their fragments and wait for the commit",
        )
        cluster.kill("proxy")
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    with suppress(OSError):
        connection.close()
    cluster.restart("proxy")
    return set(files()) - before
