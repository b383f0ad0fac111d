# SPDX-License-Identifier: Apache-2.0
"""Four hosts with a network between them: one is cut off, comes back, all converges.

Each host is a network namespace with its own address, account, container and object
server, rsync daemon, background daemons and two devices, which are XFS where images can
be mounted. Two hosts run a proxy. Daemons run when the test says so, and never else.
"""

from __future__ import annotations

import json
import random
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from swift.core.hashing import partition_of_hex
from swift.core.names import AccountName, ContainerName, ObjectName
from swift.core.ring.builder import RingBuilder
from swift.core.ring.codec import write_ring
from swift.runtime import green
from swift.runtime.cluster import Cluster as Facts
from swift.runtime.process import current_user
from test.support import hosts
from test.support.client import Client
from test.support.cluster import find
from test.support.hosts import Devices, Host, Network

NUMBERS = (1, 2, 3, 4)
PROXIES = (1, 3)
"""Hosts with a proxy; clients use that of the first, as the other is cut off."""

CUT = 3
"""The host whose cable is pulled."""

PORTS = {"object": 6200, "container": 6201, "account": 6202}
PROXY_PORT = 8080
RSYNC_PORT = 873
PART_POWER = 6
ROUNDS = 6
"""Passes of all hosts until everything is where it belongs, at most."""

PASSES = (
    "object-updater",
    "container-replicator",
    "account-replicator",
    "container-updater",
    "object-replicator",
)
"""Of rows of a container that differ in counts only, an account keeps what came last: a
handoff has to bring its old ones home before new counts are reported."""
KEY = "secret"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    reason = hosts.why_not()
    if reason is not None:
        pytest.skip(reason)
    with ExitStack() as stack:
        yield Site(tmp_path_factory.mktemp("hosts"), stack)


class Site:
    """All hosts, running; `stack` ends and removes them."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        devices = Devices()
        stack.callback(devices.close)
        self.network = Network()
        stack.callback(self.network.close)
        self.hosts = {}
        for number in NUMBERS:
            namespace, address = self.network.add(number)
            for name in ("d1", "d2"):
                devices.make(folder / f"h{number}" / "srv" / name)
            host = Host(namespace, address, folder / f"h{number}")
            stack.callback(host.close)
            self.hosts[number] = host
        self.devices_are_mounted = devices.are_mounted
        self._write_cluster()
        for number, host in self.hosts.items():
            self._write_host(number, host)
        for number, host in self.hosts.items():
            host.start("rsync", "rsync", "--daemon", "--no-detach",
                       f"--config={host.folder}/rsyncd.conf")  # fmt: skip
            for kind in PORTS:
                conf = str(host.folder / f"{kind}-server.conf")
                host.start(f"{kind}-server", f"swift-{kind}-server", conf, "-v")
            if number in PROXIES:
                conf = str(host.folder / "proxy-server.conf")
                host.start("proxy-server", "swift-proxy-server", conf, "-v")
        for number, host in self.hosts.items():
            for port in (RSYNC_PORT, *PORTS.values()):
                host.wait_for(port)
            if number in PROXIES:
                host.wait_for(PROXY_PORT)
        self.facts = Facts.load(str(folder / "etc"))

    # --- files ------------------------------------------------------------------------

    def _write_cluster(self) -> None:
        etc = self.folder / "etc"
        etc.mkdir()
        (etc / "swift.conf").write_text(
            "[swift-hash]\nswift_hash_path_suffix = several hosts\n"
            "[storage-policy:0]\nname = gold\ndefault = yes\n"
        )
        for kind, port in PORTS.items():
            builder = RingBuilder(PART_POWER, 3, 1)
            for number, host in self.hosts.items():
                for name in ("d1", "d2"):
                    builder.add_device(
                        zone=number, ip=host.address, port=port, name=name, weight=100.0
                    )
            builder.rebalance(now=green.now(), rng=random.Random(1))
            (etc / f"{kind}.ring.gz").write_bytes(write_ring(builder.ring()))

    def _write_host(self, number: int, host: Host) -> None:
        (host.folder / "cache").mkdir()
        for kind, port in PORTS.items():
            (host.folder / f"{kind}-server.conf").write_text(
                self._storage_conf(host, kind, port)
            )
        modules = "".join(
            f"[{kind}]\npath = {host.folder}/srv\nread only = no\nuid = 0\ngid = 0\n"
            for kind in PORTS
        )
        (host.folder / "rsyncd.conf").write_text(
            f"port = {RSYNC_PORT}\naddress = {host.address}\nuse chroot = no\n"
            f"log file = {host.folder}/log/rsyncd.log\n{modules}"
        )
        if number in PROXIES:
            path = host.folder / "proxy-server.conf"
            path.write_text(self._proxy_conf(host))

    def _storage_conf(self, host: Host, kind: str, port: int) -> str:
        daemons = "".join(
            f"[{name}]\nlog_name = {name}\n{EXTRA.get(name, '')}\n"
            for name in PASSES
            if name.startswith(kind)
        )
        return f"""\
[DEFAULT]
bind_ip = {host.address}
bind_port = {port}
workers = 0
user = {current_user()}
swift_dir = {self.folder}/etc
devices = {host.folder}/srv
mount_check = {self.devices_are_mounted}
recon_cache_path = {host.folder}/cache
conn_timeout = 0.5
node_timeout = 2

[pipeline:main]
pipeline = healthcheck recon {kind}-server

[app:{kind}-server]
use = egg:swift#{kind}
log_name = {kind}-server
conn_timeout = 0.5
node_timeout = 2

[filter:healthcheck]
use = egg:swift#healthcheck

[filter:recon]
use = egg:swift#recon

{daemons}"""

    def _proxy_conf(self, host: Host) -> str:
        return f"""\
[DEFAULT]
bind_ip = {host.address}
bind_port = {PROXY_PORT}
workers = 0
user = {current_user()}
swift_dir = {self.folder}/etc

[pipeline:main]
pipeline = catch_errors gatekeeper cache listing_formats tempauth proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
conn_timeout = 0.5
node_timeout = 2

[filter:catch_errors]
use = egg:swift#catch_errors

[filter:gatekeeper]
use = egg:swift#gatekeeper

[filter:cache]
use = egg:swift#memcache
memcache_servers =

[filter:listing_formats]
use = egg:swift#listing_formats

[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {KEY} .admin
"""

    # --- doing ------------------------------------------------------------------------

    def client(self, number: int) -> Client:
        """A signed-in user of one host's proxy."""
        url = f"http://{self.hosts[number].address}:{PROXY_PORT}/auth/v1.0"
        return Client.authenticated(url, "test:tester", KEY)

    def run_passes(self) -> None:
        """Run each daemon's command once, on all hosts at the same time."""
        for name in PASSES:
            kind = name.partition("-")[0]
            for host in self.hosts.values():
                conf = str(host.folder / f"{kind}-server.conf")
                host.begin(name, f"swift-{name}", conf, "--once", "-v")
            codes = {number: host.end() for number, host in self.hosts.items()}
            assert set(codes.values()) == {0}, (name, codes, self.said(name))

    def said(self, *names: str) -> str:
        """What some commands have logged, host by host."""
        return "\n".join(
            f"--- {name} of host {number}\n{host.said(name)}"
            for name in names
            for number, host in self.hosts.items()
        )

    # --- looking ----------------------------------------------------------------------

    def device(self, address: str, name: str) -> Path:
        """The directory of a device of the ring."""
        (host,) = (host for host in self.hosts.values() if host.address == address)
        return host.folder / "srv" / name

    def place(self, name: AccountName | ContainerName | ObjectName) -> Place:
        """Where the ring wants something, and where it is."""
        kind = type(name).__name__.removesuffix("Name").lower()
        facts = self.facts
        ring = (
            facts.object_ring(0)
            if kind == "object"
            else facts.container_ring()
            if kind == "container"
            else facts.account_ring()
        )
        path_hash = facts.salt.hex_of(name)
        partition = partition_of_hex(path_hash, ring.part_power)
        nodes = ring.primaries(partition)
        below = f"{kind}s/{partition}"
        inside = f"{path_hash[-3:]}/{path_hash}"
        wanted = [self.device(node.ip, node.name) for node in nodes]
        return Place(
            primaries=[device / below / inside for device in wanted],
            elsewhere=[
                host.folder / "srv" / device / below
                for host in self.hosts.values()
                for device in ("d1", "d2")
                if host.folder / "srv" / device not in wanted
            ],
            urls=[
                f"http://{node.ip}:{node.port}/{node.name}/{partition}{name.quoted}"
                for node in nodes
            ],
            addresses={node.ip for node in nodes},
        )


EXTRA = {
    "object-replicator": "sync_method = ssync",
    "object-updater": "objects_per_second = 0",
}


@dataclass(frozen=True)
class Place:
    """primaries: the directory on each. elsewhere: the partition on other devices."""

    primaries: list[Path]
    elsewhere: list[Path]
    urls: list[str]
    addresses: set[str]

    def files(self) -> list[tuple[str, ...]]:
        """The names of the object's files on each primary."""
        return [
            tuple(sorted(path.name for path in where.glob("*.*")))
            for where in self.primaries
        ]

    def is_home(self, *endings: str) -> bool:
        """True when each primary has the same files, and no other device has any."""
        held = self.files()
        return (
            len(set(held)) == 1
            and sorted(Path(name).suffix for name in held[0]) == sorted(endings)
            and not any(path.exists() for path in self.elsewhere)
        )

    def ask(self) -> list[tuple[dict[str, str], list[dict[str, object]]]]:
        """Headers and rows that each primary's server answers."""
        found = []
        for url in self.urls:
            with urllib.request.urlopen(f"{url}?format=json", timeout=60) as got:
                headers = {name.lower(): value for name, value in got.getheaders()}
                found.append((headers, json.load(got) if got.status == 200 else []))
        return found


def test_a_host_that_was_cut_off_catches_up_and_handoffs_are_emptied(site):
    # Given objects, of which each host but one is told at the time
    client = site.client(1)
    account = client.base.rsplit("/", 1)[-1]

    def send(method, path, body=None, headers=None, container="before"):
        url = f"{client.base}/{container}{path}"
        answer = client.request(method, url, headers, body)
        assert answer.status // 100 == 2, (method, path, answer)

    send("PUT", "")
    bodies = {f"o{number:02d}": b"old" * 700 for number in range(16)}
    for name, body in bodies.items():
        send("PUT", f"/{name}", body)
    names = list(bodies)
    deleted, replaced, posted = names[:4], names[4:8], names[8:12]

    # When a host is cut off while clients go on
    site.network.cut(CUT)
    for name in deleted:
        send("DELETE", f"/{name}")
        del bodies[name]
    for name in [*replaced, *(f"n{number:02d}" for number in range(12))]:
        bodies[name] = name.encode() * 500
        send("PUT", f"/{name}", bodies[name])
    for name in posted:
        send("POST", f"/{name}", headers={"X-Object-Meta-Color": "blue"})
    send("PUT", "", container="during", headers={"X-Container-Meta-Color": "red"})
    for name in ("a", "b", "c"):
        send("PUT", f"/{name}", b"xyz", container="during")
    for name, body in bodies.items():
        assert client.get(f"{client.base}/before/{name}").body == body

    places = {
        name: site.place(ObjectName(account, "before", name))
        for name in [*names, *bodies]
    }
    cut = site.hosts[CUT].address
    lacking = [
        name
        for name, place in places.items()
        if cut in place.addresses and (name not in names or name in deleted + replaced)
    ]
    assert lacking, "the host that was cut off is no primary of any object"
    for name in lacking:
        assert any(path.exists() for path in places[name].elsewhere), name
        assert len(set(places[name].files())) > 1, name

    # Then its return and some passes make all replicas right
    site.network.join(CUT)
    before = site.place(ContainerName(account, "before"))
    during = site.place(ContainerName(account, "during"))
    whole = site.place(AccountName(account))

    def is_healed():
        for name, place in places.items():
            kinds = (
                (".ts",)
                if name in deleted
                else (".data", ".meta")
                if name in posted
                else (".data",)
            )
            if not place.is_home(*kinds):
                return False
        pendings = find(site.folder, "h*/srv/d*/async_pending*/*/*")
        return not any(pendings) and all(
            all(path.exists() for path in place.primaries)
            and not any(path.exists() for path in place.elsewhere)
            for place in (before, during, whole)
        )

    counts = [("before", len(bodies)), ("during", 3)]

    def is_counted():
        # What a handoff told the account late is told again in the next round.
        return all(
            [(row["name"], row["count"]) for row in rows] == counts
            for _, rows in whole.ask()
        )

    for _ in range(ROUNDS):
        site.run_passes()
        if is_healed() and is_counted():
            break
    else:
        unhealed = {name: place.files() for name, place in places.items()}
        raise AssertionError(f"{unhealed}\n{site.said(*PASSES)}")

    for name, body in bodies.items():
        for where in places[name].primaries:
            (copy,) = where.glob("*.data")
            assert copy.read_bytes() == body
    for headers, rows in before.ask():
        assert [row["name"] for row in rows] == sorted(bodies)
        assert headers["x-container-object-count"] == str(len(bodies))
        total = sum(map(len, bodies.values()))
        assert headers["x-container-bytes-used"] == str(total)
    for headers, rows in during.ask():
        assert [row["name"] for row in rows] == ["a", "b", "c"]
        assert headers["x-container-meta-color"] == "red"
    for headers, rows in whole.ask():
        assert [(row["name"], row["count"]) for row in rows] == counts
        assert headers["x-account-object-count"] == str(len(bodies) + 3)

    # And the proxy of that host serves what it never saw being written
    other = site.client(CUT)
    for name, body in bodies.items():
        answer = other.get(f"{other.base}/before/{name}")
        assert (answer.status, answer.body) == (200, body)
        color = answer.headers.get("x-object-meta-color")
        assert color == ("blue" if name in posted else None)
    for name in deleted:
        assert other.get(f"{other.base}/before/{name}").status == 404
