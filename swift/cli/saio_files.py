# SPDX-License-Identifier: Apache-2.0
"""The files of a one-machine cluster: configuration, rings, keys, folders.

Made once and kept between starts. The files below etc/ are those of a real cluster, so
any server can be run on them by its own command.
"""

from __future__ import annotations

import json
import os
import random
import secrets
from dataclasses import dataclass
from pathlib import Path

from swift.cli.daemons import PROGRAMS
from swift.core.errors import SwiftError
from swift.core.ring.builder import RingBuilder
from swift.core.ring.codec import write_ring
from swift.runtime import green, process

NODES = 4
REPLICAS = 3
PART_POWER = 10
POLICIES = ("replica", "replica+ec", "ec+replica")
"""What storage policies there may be; the first named is the default."""

EC_INDEX = 1
EC_NAME = "ec-4-2"
EC_DATA = 4
EC_PARITY = 2
KINDS = ("account", "container", "object")
FIRST_STORAGE_PORT = 6210
STATE_FILE = "saio.json"

DAEMONS = {
    "account": ("account-auditor", "account-replicator", "account-reaper"),
    "container": (
        "container-auditor",
        "container-replicator",
        "container-updater",
        "container-sync",
        "container-sharder",
    ),
    "object": (
        "object-auditor",
        "object-replicator",
        "object-reconstructor",
        "object-updater",
        "object-expirer",
    ),
}
LONG_INTERVAL_S = 60
INTERVALS_S = {
    "account-replicator": 15,
    "container-replicator": 15,
    "container-updater": 5,
    "object-replicator": 15,
    "object-reconstructor": 15,
    "object-updater": 2,
    "object-expirer": 10,
}
EXTRA_OPTIONS = {
    "object-replicator": ("sync_method = ssync",),
    "object-updater": ("objects_per_second = 0",),
    "object-expirer": (
        "dequeue_from_legacy = true",
        f"processes = {NODES}",
        "process = {index}",
    ),
}
"""Section → further options; `{index}` is the node's number from 0."""
PATIENCE_S = 5
WAIT_FOR_LISTINGS = f"""\
# A container server of this machine that is silent is slow, not away: waiting for it
# keeps listings complete, where giving up leaves the entry to the updater.
container_update_timeout = {PATIENCE_S}
node_timeout = {PATIENCE_S}
"""


class SaioError(SwiftError):
    """The cluster cannot be made or run; the message says what to do."""


@dataclass(frozen=True)
class Layout:
    """Where things are in a cluster's folder."""

    root: Path

    @property
    def etc(self) -> Path:
        """Configuration and rings: the cluster's swift_dir."""
        return self.root / "etc"

    @property
    def logs(self) -> Path:
        """A log file for each server."""
        return self.root / "log"

    @property
    def run(self) -> Path:
        """A pid file for each running server."""
        return self.root / "run"

    @property
    def cache(self) -> Path:
        """Facts that daemons leave for recon."""
        return self.root / "cache"

    @property
    def state(self) -> Path:
        """What was decided when the cluster was made: ports and the user."""
        return self.root / STATE_FILE

    def devices(self, node: int) -> Path:
        """The devices root of one node."""
        return self.root / "srv" / str(node)


@dataclass(frozen=True)
class State:
    """The choices that a restart must keep.

    ports: kind → port of each node, in the order of the nodes. policies: one of
    POLICIES.
    """

    ip: str
    port: int
    ports: dict[str, list[int]]
    user: str
    key: str
    policies: str = POLICIES[0]

    @property
    def has_erasure_coding(self) -> bool:
        """True when there is a second policy, and a second device on each node."""
        return "ec" in self.policies

    @property
    def endpoint(self) -> str:
        """The URL that clients start from."""
        return f"http://{self.ip}:{self.port}"


def check_folder(layout: Layout) -> None:
    """Raise SaioError unless the folder can hold devices: writable, with xattrs."""
    probe = layout.root / ".probe"
    try:
        layout.root.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
    except OSError as error:
        raise SaioError(f"cannot write in {layout.root}: {error.strerror}") from error
    try:
        os.setxattr(probe, "user.swift.probe", b"1")
    except OSError as error:
        raise SaioError(
            f"{layout.root} is on a file system without user extended attributes "
            f"({error.strerror}); choose a folder on ext4, XFS or Btrfs"
        ) from error
    finally:
        probe.unlink(missing_ok=True)


def create(
    layout: Layout,
    *,
    ip: str | None,
    port: int | None,
    storage_port: int,
    policies: str = POLICIES[0],
) -> State:
    """Make every file of a new cluster, the state file last: a rerun repairs."""
    address = ip or "127.0.0.1"
    taken: set[int] = set()
    state = State(
        ip=address,
        port=port if port is not None else 8080,
        ports={
            kind: [
                _free_port(address, storage_port + 10 * node + offset, taken)
                for node in range(NODES)
            ]
            for offset, kind in enumerate(KINDS)
        },
        user="test:tester",
        key=secrets.token_hex(12),
        policies=policies,
    )
    for folder in (layout.etc, layout.logs, layout.run, layout.cache):
        folder.mkdir(parents=True, exist_ok=True)
    layout.root.chmod(0o700)
    for node in range(1, NODES + 1):
        for device in _devices(node, state):
            (layout.devices(node) / device).mkdir(parents=True, exist_ok=True)
        (layout.cache / str(node)).mkdir(exist_ok=True)
    if not (layout.etc / "swift.conf").exists():
        _write(layout.etc / "swift.conf", _swift_conf(state))
    if state.has_erasure_coding:
        builder = _builder(EC_DATA + EC_PARITY, "object", state, all_devices=True)
        _write_ring(layout.etc, f"object-{EC_INDEX}", builder)
    for kind in KINDS:
        _write_ring(layout.etc, kind, _builder(REPLICAS, kind, state))
        for node in range(1, NODES + 1):
            folder = layout.etc / f"{kind}-server"
            folder.mkdir(exist_ok=True)
            _write(folder / f"{node}.conf", _storage_conf(layout, state, kind, node))
    _write(layout.etc / "proxy-server.conf", _proxy_conf(layout, state))
    _write(layout.state, json.dumps(vars(state), indent=1) + "\n")
    return state


def load(layout: Layout, *, ip: str | None, port: int | None) -> State:
    """Read the state of an existing cluster; a new port of the API is taken over."""
    try:
        values = json.loads(layout.state.read_text())
        state = State(**values)
    except (OSError, ValueError, TypeError) as error:
        raise SaioError(f"{layout.state} is not readable: {error}") from error
    if ip not in (None, state.ip):
        raise SaioError(
            f"the rings in {layout.etc} name {state.ip}; choose another folder for {ip}"
        )
    if port not in (None, state.port):
        state = State(**{**vars(state), "port": port})
        _write(layout.etc / "proxy-server.conf", _proxy_conf(layout, state))
        _write(layout.state, json.dumps(vars(state), indent=1) + "\n")
    return state


def _free_port(ip: str, wanted: int, taken: set[int]) -> int:
    port = wanted
    while port in taken or not process.port_is_free(ip, port):
        port = process.free_port(ip)
    taken.add(port)
    return port


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w") as out:
        os.fchmod(out.fileno(), 0o600)
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(path)


def _devices(node: int, state: State) -> list[str]:
    """The devices of a node: the first of each hold all kinds, the second fragments."""
    second = [f"d{node + NODES}"] if state.has_erasure_coding else []
    return [f"d{node}", *second]


def _builder(
    replicas: int, kind: str, state: State, *, all_devices: bool = False
) -> RingBuilder:
    builder = RingBuilder(PART_POWER, replicas, 1)
    for node, port in enumerate(state.ports[kind], 1):
        devices = _devices(node, state)
        for name in devices if all_devices else devices[:1]:
            builder.add_device(
                region=1, zone=node, ip=state.ip, port=port, name=name, weight=100.0
            )
    builder.rebalance(now=green.now(), rng=random.Random(secrets.randbits(64)))  # noqa: S311
    return builder


def _write_ring(etc: Path, stem: str, builder: RingBuilder) -> None:
    (etc / f"{stem}.builder").write_bytes(builder.dump())
    (etc / f"{stem}.ring.gz").write_bytes(write_ring(builder.ring()))


def _swift_conf(state: State) -> str:
    defaults = {True: "default = yes\n", False: ""}
    ec_first = state.policies.startswith("ec")
    erasure_coding = f"""
[storage-policy:{EC_INDEX}]
name = {EC_NAME}
policy_type = erasure_coding
ec_type = isa_l_rs_cauchy
ec_num_data_fragments = {EC_DATA}
ec_num_parity_fragments = {EC_PARITY}
{defaults[ec_first]}"""
    return f"""\
# Made by swift-saio. Never change the two values while there is data: they decide
# where every name is stored.
[swift-hash]
swift_hash_path_prefix = {secrets.token_hex(16)}
swift_hash_path_suffix = {secrets.token_hex(16)}

[storage-policy:0]
name = replica
{defaults[not ec_first]}{erasure_coding if state.has_erasure_coding else ""}"""


def _storage_conf(layout: Layout, state: State, kind: str, node: int) -> str:
    return f"""\
[DEFAULT]
bind_ip = {state.ip}
bind_port = {state.ports[kind][node - 1]}
workers = 0
user = {process.current_user()}
swift_dir = {layout.etc}
devices = {layout.devices(node)}
mount_check = false
recon_cache_path = {layout.cache / str(node)}
log_level = WARNING

[pipeline:main]
pipeline = healthcheck recon {kind}-server

[app:{kind}-server]
use = egg:swift#{kind}
log_name = {kind}-{node}
{WAIT_FOR_LISTINGS if kind == "object" else ""}
[filter:healthcheck]
use = egg:swift#healthcheck

[filter:recon]
use = egg:swift#recon
{_daemon_sections(layout, kind, node)}"""


def _daemon_sections(layout: Layout, kind: str, node: int) -> str:
    """A section for each daemon of that kind.

    Passes are short and often, so that what a failure has left behind is mended within
    seconds. The zone of a device is the number of its node: that makes rsync's module a
    folder of this machine, and no rsync daemon is needed.
    """
    sections = []
    for name in DAEMONS[kind]:
        if name not in PROGRAMS:
            continue
        lines = [
            f"[{name}]",
            f"log_name = {name}-{node}",
            f"interval = {INTERVALS_S.get(name, LONG_INTERVAL_S)}",
        ]
        if name.endswith("-replicator"):
            lines.append(f"rsync_module = {layout.root / 'srv'}/{{zone}}")
        options = EXTRA_OPTIONS.get(name, ())
        lines += [line.replace("{index}", str(node - 1)) for line in options]
        sections.append("\n".join(lines))
    return "".join(f"\n{section}\n" for section in sections)


def _proxy_conf(layout: Layout, state: State) -> str:
    account, user = state.user.split(":")
    return f"""\
[DEFAULT]
bind_ip = {state.ip}
bind_port = {state.port}
# One worker, so that the cache may live in the process; with memcached, use more.
workers = 0
user = {process.current_user()}
swift_dir = {layout.etc}
log_name = proxy

[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck proxy-logging cache etag-quoter \
listing_formats container_sync bulk tempurl formpost ratelimit tempauth staticweb \
copy container-quotas account-quotas slo dlo versioned_writes symlink \
proxy-logging proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
# As the object servers do: a server of this machine that is silent is slow, not away.
post_quorum_timeout = {PATIENCE_S}

[filter:tempauth]
use = egg:swift#tempauth
user_{account}_{user} = {state.key} .admin
user_admin_admin = {state.key} .admin .reseller_admin

[filter:catch_errors]
use = egg:swift#catch_errors

[filter:gatekeeper]
use = egg:swift#gatekeeper

[filter:healthcheck]
use = egg:swift#healthcheck

[filter:proxy-logging]
use = egg:swift#proxy_logging

[filter:cache]
use = egg:swift#memcache
memcache_servers =

[filter:listing_formats]
use = egg:swift#listing_formats

[filter:etag-quoter]
use = egg:swift#etag_quoter

[filter:bulk]
use = egg:swift#bulk
delete_concurrency = 8

[filter:tempurl]
use = egg:swift#tempurl

[filter:formpost]
use = egg:swift#formpost

[filter:ratelimit]
use = egg:swift#ratelimit

[filter:container-quotas]
use = egg:swift#container_quotas

[filter:account-quotas]
use = egg:swift#account_quotas

[filter:staticweb]
use = egg:swift#staticweb

[filter:container_sync]
use = egg:swift#container_sync

[filter:copy]
use = egg:swift#copy

[filter:slo]
use = egg:swift#slo

[filter:dlo]
use = egg:swift#dlo

[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_versioned_writes = true
allow_object_versioning = true

[filter:symlink]
use = egg:swift#symlink
"""
