# SPDX-License-Identifier: Apache-2.0
"""An erasure-coded cluster in one process: real object servers and disks, behind the
network door, and databases in memory.

What can be done to it is done by address: refuse connections, cut a body short while it
is sent, stop taking one while it is received.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import md5
from pathlib import Path
from typing import Any

from swift.core import headers as h
from swift.core.erasure import ErasureCoding
from swift.core.headers import Headers
from swift.core.names import Limits
from swift.core.policy import StoragePolicies, StoragePolicy
from swift.core.settings import Reserve
from swift.runtime.cluster import Cluster
from swift.runtime.logs import NULL_LOG
from swift.runtime.metrics import NO_METRICS
from swift.services.object import ObjectConfig, ObjectServer, make_server
from swift.storage.object.context import DiskConfig
from swift.wire import environ as env
from swift.wire.client import HttpConnection
from swift.wire.environ import headers_of
from swift.wire.request import Response, call
from swift.wire.streams import FileRange
from test.support.nodes import (
    KINDS,
    FixedRing,
    Nodes,
    Seen,
    Setup,
    make_cluster,
    make_ring,
)

SEGMENT = 65536
CODING = ErasureCoding("isa_l_rs_vand", 4, 2, segment_size=SEGMENT)
DEVICES = 8

OBJECT = "/v1/a/c/o"
BIG = os.urandom(3 * SEGMENT + 1000)
SMALL = b"a small body"


def service_address(ip: str) -> str:
    """The address by which tests know a node, from any that the ring has."""
    return ip.replace("10.1.", "10.0.")


class FragmentNodes(Nodes):
    """Nodes whose object servers are real.

    cut: ip → bytes of a GET's body after which its connection breaks. deaf: ip → bytes
    of a PUT's body after which it breaks.
    """

    def __init__(self, root: Path, cluster: Cluster) -> None:
        super().__init__()
        self.root = root
        self.cut: dict[str, int] = {}
        self.deaf: dict[str, int] = {}
        self._cluster = cluster
        self._servers: dict[str, ObjectServer] = {}
        self._made: list[HttpConnection] = []

    def connect(self, ip: str, port: int, timeout_s: float) -> HttpConnection:
        """As a Connector; a node is the same by both of its addresses."""
        made = super().connect(service_address(ip), port, timeout_s)
        self._made.append(made)
        return made

    def close(self) -> None:
        """Close every connection that was made."""
        for connection in self._made:
            connection.close()
        self._made.clear()

    def device(self, ip: str) -> Path:
        """The device directory of an address."""
        return self.root / ip / f"d{ip.rsplit('.', 1)[1]}"

    def server(self, ip: str) -> ObjectServer:
        """The object server of an address."""
        found = self._servers.get(ip)
        if found is None:
            self.device(ip).mkdir(parents=True, exist_ok=True)
            disks = DiskConfig(
                devices=str(self.root / ip),
                mount_check=False,
                fallocate_reserve=Reserve(),
            )
            found = self._servers[ip] = make_server(
                ObjectConfig(),
                disks,
                cluster=self._cluster,
                connector=self,
                log=NULL_LOG,
                metrics=NO_METRICS,
            )
        return found

    def answer(self, ip: str, port: int, environ: Any) -> Any:
        """What a node answers: for objects, its own server does."""
        if KINDS[port] != "object":
            return super().answer(ip, port, environ)
        # Of daemons' requests about a whole partition nothing follows its number.
        rest = "".join(environ[env.PATH_INFO].split("/", 3)[3:])
        method = environ[env.REQUEST_METHOD]
        seen = Seen(ip, port, method, f"/{rest}", "", headers_of(environ))
        self.requests.append(seen)
        fault = self.faults.get(ip)
        planted = fault(seen) if fault is not None else None
        if planted is not None:
            return planted
        if method == "PUT" and ip in self.deaf:
            environ[env.WSGI_INPUT] = _Deaf(environ[env.WSGI_INPUT], self.deaf[ip])
        if method != "GET" or ip not in self.cut:
            return self.server(ip)
        response = call(self.server(ip), environ)
        body = response.app_iter or [response.body or b""]
        if isinstance(body, FileRange):
            whole = os.pread(body.fileno(), body.length, body.offset)
        else:
            whole = b"".join(body)
        response.headers[h.CONTENT_LENGTH] = str(len(whole))
        pieces = _cut(whole, self.cut[ip])
        return Response(response.status, response.headers, app_iter=pieces)

    def files(self, kind: str = "data") -> dict[str, list[str]]:
        """ip → names of object files there, of one extension."""
        found = {}
        for root in sorted(self.root.iterdir()):
            names = [path.name for path in root.rglob(f"objects*/*/*/*/*.{kind}")]
            if names:
                found[root.name] = sorted(names)
        return found

    def paths(self, ip: str) -> list[Path]:
        """The data files on one node."""
        return sorted(self.device(ip).rglob("*.data"))


def _cut(body: bytes, size: int) -> Iterator[bytes]:
    yield body[:size]
    if len(body) > size:
        raise OSError("cut by the test")


class _Deaf:
    """A request body whose connection breaks."""

    def __init__(self, source: Any, size: int) -> None:
        self._source = source
        self._left = size

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def read_some(self, size: int) -> bytes:
        """As RequestBody."""
        data: bytes = self._source.read_some(size)
        self._left -= len(data)
        if self._left < 0:
            raise OSError("cut by the test")
        return data


class FragmentSetup(Setup):
    """A proxy before eight such nodes, whose default policy is 4+2 or `coding`."""

    def __init__(
        self, root: Path, coding: ErasureCoding = CODING, **options: Any
    ) -> None:
        plain = make_cluster(devices=DEVICES)
        policies = StoragePolicies([StoragePolicy(0, ("deep",), coding, True)])
        rings: Any = {
            **plain.rings,
            "object": FixedRing(make_ring("object", DEVICES, coding.ring_size or 0)),
        }
        cluster = Cluster(plain.swift_dir, plain.salt, Limits(), policies, rings)
        super().__init__(cluster, nodes=FragmentNodes(root, cluster), **options)

    def primaries(self, path: str = "/a/c/o") -> list[str]:
        """The addresses that should hold an object, by position."""
        ring = self.cluster.object_ring(0)
        partition = ring.partition(self.cluster.salt.digest_of_path(path))
        return [node.ip for node in ring.primaries(partition)]


# --- What tests ask of it -------------------------------------------------------------


def put(setup: FragmentSetup, body: bytes = BIG, **headers: str) -> Response:
    """PUT the object."""
    given = Headers(**{"Content-Type": "x/y", **headers})
    return setup.ask("PUT", OBJECT, body, given)


def get(setup: FragmentSetup, **headers: str) -> Response:
    """GET the object, the whole body read."""
    return setup.ask("GET", OBJECT, headers=Headers(**headers))


def assert_whole(answer: Response, body: bytes) -> None:
    """Hold an answer against the object that it should bring."""
    assert answer.status == 200
    assert answer.body == body
    assert answer.headers[h.CONTENT_LENGTH] == str(len(body))
    assert answer.headers[h.ETAG] == md5(body).hexdigest()
    assert not any("-Ec-" in name for name in answer.headers)
