# SPDX-License-Identifier: Apache-2.0
"""The container sync daemon against a target that can refuse, by HTTP and by TLS."""

from __future__ import annotations

import datetime
import ipaddress
import select
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from swift.core.container_sync import SyncTarget
from swift.core.errors import PeerError
from swift.core.names import ContainerName, Limits
from swift.daemons.container_replicator import ContainerReplicator
from swift.daemons.container_sync import (
    ContainerSync,
    ContainerSyncConfig,
    RemoteContainers,
)
from swift.runtime import green
from swift.runtime.daemon import Frame, Scope, run_pass
from swift.runtime.metrics import NO_METRICS
from swift.storage.db.sync_store import SyncStore, link_path
from swift.wire.request import Response
from test.support.db_nodes import DbNodes, moment, object_row
from test.support.internal import FakeProxy
from test.support.node import LOCALHOST

NAME = ContainerName("AUTH_a", "c")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def _answer(self, status, headers=(), body=b""):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()

    def _do(self):
        far = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        far.requests.append((self.command, self.path, dict(self.headers), body))
        stamp = self.headers["X-Timestamp"]
        if self.path.rsplit("/", 1)[1] in far.refused:
            self._answer(503)
        elif self.command == "PUT":
            far.objects[self.path] = (stamp, body)
            self._answer(201)
        elif self.path not in far.objects:
            self._answer(404)
        elif self.command == "DELETE":
            del far.objects[self.path]
            self._answer(204)
        else:
            self._answer(200, [("X-Timestamp", far.objects[self.path][0])])

    do_PUT = do_HEAD = do_DELETE = _do  # noqa: N815

    def do_CONNECT(self):
        self.server.requests.append(("CONNECT", self.path, {}, b""))
        host, _, port = self.path.partition(":")
        with socket.create_connection((host, int(port))) as other:
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            ends = {self.connection: other, other: self.connection}
            while True:
                for end in select.select(list(ends), [], [], 10)[0]:
                    data = end.recv(65536)
                    if not data:
                        self.close_connection = True
                        return
                    ends[end].sendall(data)

    def log_message(self, *_arguments):
        pass


class Far(ThreadingHTTPServer):
    """Another cluster, or a proxy on the way to it."""

    daemon_threads = True

    def __init__(self):
        super().__init__((LOCALHOST, 0), Handler)
        self.requests, self.objects, self.refused = [], {}, set()
        self.port = self.server_address[1]
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def of(self, method):
        return [path for command, path, _, _ in self.requests if command == method]


@pytest.fixture
def far():
    made = Far()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def tunnel():
    made = Far()
    yield made
    made.shutdown()
    made.server_close()


class Bench:
    def __init__(self, root, far):
        self.nodes = DbNodes(root)
        self.far = far
        self.near = FakeProxy()
        self.number = self.nodes.primaries(NAME)[0]
        self.broker = self.nodes.create(NAME, self.number)
        self.goal = f"http://{LOCALHOST}:{far.port}/v1/AUTH_b/c"
        self.set("X-Container-Sync-To", self.goal)
        self.set("X-Container-Sync-Key", "key")

    def set(self, name, value):
        self.broker.update_metadata({name: (value, moment(50))}, Limits())
        SyncStore().update(self.broker, self.broker.stat())

    def add(self, *names):
        self.broker.merge_rows([object_row(name) for name in names])
        for name in names:
            self.near.answers["GET", f"/AUTH_a/c/{name}"] = lambda _headers, _body: (
                Response(200, {"X-Timestamp": "9999999999.00000"}, b"text")
            )

    def run(self, number=None):
        number = self.number if number is None else number
        node = self.nodes.nodes[number]
        config = ContainerSyncConfig(
            devices=str(node.root),
            mount_check=False,
            bind_ip=LOCALHOST,
            bind_port=node.ports["container"],
        )
        daemon = ContainerSync(
            config,
            Frame(self.nodes.cluster, self.nodes.log, NO_METRICS),
            client=self.near.client(),
        )
        counts = daemon.counts
        run_pass(daemon, Scope(once=True))
        return counts

    @property
    def points(self):
        stat = self.broker.stat()
        return stat.x_container_sync_point1, stat.x_container_sync_point2


@pytest.fixture
def bench(tmp_path, far):
    made = Bench(tmp_path, far)
    yield made
    made.nodes.close()


NAMES = [f"o{number}" for number in range(9)]
ALL = {f"/v1/AUTH_b/c/{name}" for name in NAMES}


def test_a_primary_copies_its_share_and_then_what_the_others_left(bench, far):
    bench.add(*NAMES)
    bench.run()
    share = set(far.objects)
    assert share < ALL
    assert bench.points == (9, -1)
    bench.run()
    assert set(far.objects) == ALL
    assert bench.points == (9, 9)
    asked = len(far.requests)
    bench.run()
    assert len(far.requests) == asked


def test_what_failed_is_tried_again_from_there_on(bench, far):
    bench.add(*NAMES)
    far.refused.update(["o3", "o5"])
    bench.run()
    counts = bench.run()
    assert counts.failures >= 2
    assert bench.points == (9, 3)
    far.refused.clear()
    assert bench.run().failures == 0
    assert set(far.objects) == ALL
    assert bench.points == (9, 9)


def test_a_delete_goes_under_the_time_of_the_tombstone(bench, far):
    bench.add("o1")
    bench.run()
    bench.run()
    stamp = moment(500)
    gone = object_row("o1")._replace(created_at=stamp, deleted=1)
    bench.broker.merge_rows([gone])
    bench.run()
    bench.run()
    assert far.objects == {}
    sent = [headers for method, _, headers, _ in far.requests if method == "DELETE"]
    assert {each["X-Timestamp"] for each in sent} == {stamp}
    assert sent[0]["X-Container-Sync-Key"] == "key"


def test_an_object_older_than_its_row_is_not_sent(bench, far):
    bench.add("o1")
    old = Response(200, {"X-Timestamp": "0000000001.00000"}, b"old")
    bench.near.answers["GET", "/AUTH_a/c/o1"] = lambda _headers, _body: old
    bench.run()
    assert bench.run().failures == 1
    assert far.of("PUT") == []
    assert bench.points == (1, -1)


def test_containers_that_are_not_ours_to_copy_are_left_alone(bench, far):
    bench.add(*NAMES)
    bench.set("X-Container-Sysmeta-Versions-Enabled", "true")
    assert bench.run().skips == 1
    assert far.requests == []


def test_a_target_that_is_not_allowed_fails(bench, far):
    bench.add(*NAMES)
    stamp = moment(60)
    bench.broker.update_metadata(
        {"X-Container-Sync-To": ("http://other.test/v1/a/c", stamp)}, Limits()
    )
    assert bench.run().failures == 1
    assert far.requests == []


def test_the_replicator_brings_the_link_to_the_other_copies(bench):
    other_number = bench.nodes.primaries(NAME)[1]
    other = bench.nodes.create(NAME, other_number)
    link = Path(link_path(other.path))
    assert not link.is_symlink()
    # The first visit brings the metadata, the second is the copy's own.
    bench.nodes.run(ContainerReplicator, bench.number)
    bench.nodes.run(ContainerReplicator, other_number)
    assert link.readlink() == Path(other.path)
    stamp = moment(70)
    bench.broker.update_metadata({"X-Container-Sync-Key": ("", stamp)}, Limits())
    bench.nodes.run(ContainerReplicator, bench.number)
    bench.nodes.run(ContainerReplicator, other_number)
    assert not link.is_symlink()
    assert not Path(link_path(bench.broker.path)).is_symlink()


# --- Ways to the target ---------------------------------------------------------------


@pytest.fixture
def trusted(tmp_path, far, monkeypatch):
    """Let the target speak TLS, with a certificate that is trusted."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, LOCALHOST)])
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)
    address = x509.IPAddress(ipaddress.ip_address(LOCALHOST))
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    cert_file, key_file = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert_file.write_bytes(certificate.public_bytes(pem))
    key_file.write_bytes(
        key.private_bytes(
            pem,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert_file, key_file)
    far.socket = context.wrap_socket(far.socket, server_side=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert_file))
    return far


def put(target, **options):
    """PUT one object to a target; the answer's status."""
    remote = RemoteContainers(ContainerSyncConfig(**options))
    headers = {"Content-Length": "200000"}

    def ask():
        chunks = iter([b"x" * 100_000] * 2)
        return remote.ask(target, "PUT", "o", "1", headers, chunks=chunks).status

    try:
        return green.spawn(ask).wait()
    finally:
        remote.close()


def test_a_target_by_https(trusted):
    target = SyncTarget.of_url(f"https://{LOCALHOST}:{trusted.port}/v1/a/c", "key")
    assert put(target) == 201
    assert trusted.objects["/v1/a/c/o"] == ("1", b"x" * 200_000)


def test_a_certificate_that_is_not_trusted_gets_nothing(trusted, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere")
    target = SyncTarget.of_url(f"https://{LOCALHOST}:{trusted.port}/v1/a/c", "key")
    with pytest.raises(PeerError):
        put(target)
    assert trusted.requests == []


def test_https_goes_through_a_proxy_unread(trusted, tunnel):
    target = SyncTarget.of_url(f"https://{LOCALHOST}:{trusted.port}/v1/a/c", "key")
    assert put(target, sync_proxy=((LOCALHOST, tunnel.port),)) == 201
    assert tunnel.of("CONNECT") == [f"{LOCALHOST}:{trusted.port}"]
    assert len(tunnel.requests) == 1
    assert trusted.of("PUT") == ["/v1/a/c/o"]


def test_http_goes_through_a_proxy_by_the_whole_url(tunnel):
    target = SyncTarget.of_url("http://far.test:81/v1/a/c", "key")
    assert put(target, sync_proxy=((LOCALHOST, tunnel.port),)) == 201
    method, path, headers, _body = tunnel.requests[0]
    assert (method, path) == ("PUT", "http://far.test:81/v1/a/c/o")
    assert headers["Host"] == "far.test:81"
