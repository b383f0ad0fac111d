# SPDX-License-Identifier: Apache-2.0
"""swift-saio: a whole cluster on one machine, made and run by one command.

The folder holds everything: configuration, rings, keys, data and logs. The files below
etc/ are those of a real cluster, so any server can be stopped here and run by its own
command. All servers are forked from this process once their code is loaded, which makes
them start in a second and share most of their memory.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import secrets
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from swift.cli import saio_daemons, servers
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
START_LIMIT_S = 20.0
STOP_LIMIT_S = 5.0
RESTART_PAUSE_S = 1.0
TICK_S = 0.1
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
    "account-replicator": 5,
    "container-replicator": 5,
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

Main = Callable[[Sequence[str] | None], int]

_MAINS: dict[str, Main] = {
    "proxy": servers.proxy_server,
    "account": servers.account_server,
    "container": servers.container_server,
    "object": servers.object_server,
}


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


@dataclass
class Server:
    """One process of the cluster; port 0: one that nobody connects to."""

    kind: str
    node: int
    port: int
    conf: Path
    log: Path
    pid_file: Path
    pid: int = 0
    restart_in_s: float = field(default=0.0)

    @property
    def name(self) -> str:
        """`proxy`, or the kind and the node."""
        return self.kind if self.kind == "proxy" else f"{self.kind}-{self.node}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 after a clean stop, 1 when the cluster cannot run."""
    arguments = _parser().parse_args(argv)
    layout = Layout(Path(arguments.folder).absolute())
    try:
        check_folder(layout)
        fresh = not layout.state.exists()
        state = (
            create(
                layout,
                ip=arguments.ip,
                port=arguments.port,
                storage_port=arguments.storage_port,
                policies=arguments.policies,
            )
            if fresh
            else load(layout, arguments)
        )
        if arguments.create_only:
            print(f"cluster made in {layout.root}")
            return 0
        return run(
            layout,
            state,
            fresh=fresh,
            restart=not arguments.no_restart,
            daemons=not arguments.no_daemons,
        )
    except SaioError as error:
        print(f"swift-saio: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="swift-saio",
        description="Make (the first time) and run a cluster of one proxy and four "
        "storage nodes, three replicas, in a folder of this machine.",
        epilog="Ctrl-C stops every server; the data stays for the next start.",
    )
    parser.add_argument(
        "folder", nargs="?", default="saio", help="where it lives (default ./saio)"
    )
    parser.add_argument(
        "--port", type=int, default=None, help="of the public API (default 8080)"
    )
    parser.add_argument(
        "--ip", default=None, help="address to listen on (default 127.0.0.1)"
    )
    parser.add_argument(
        "--storage-port",
        type=int,
        default=FIRST_STORAGE_PORT,
        help="first port of the storage servers of a new cluster (default 6210)",
    )
    parser.add_argument(
        "--policies",
        choices=POLICIES,
        default=POLICIES[0],
        help="storage policies of a new cluster, its default first: three replicas, "
        f"and {EC_NAME}, erasure coding over eight devices (default {POLICIES[0]})",
    )
    parser.add_argument(
        "--create-only", action="store_true", help="make the files, start nothing"
    )
    parser.add_argument(
        "--no-daemons",
        action="store_true",
        help="servers only: nothing heals, expires or is audited by itself",
    )
    parser.add_argument(
        "--no-restart", action="store_true", help="leave servers that died dead"
    )
    return parser


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


def load(layout: Layout, arguments: argparse.Namespace) -> State:
    """Read the state of an existing cluster; a new --port or --ip is taken over."""
    try:
        values = json.loads(layout.state.read_text())
        state = State(**values)
    except (OSError, ValueError, TypeError) as error:
        raise SaioError(f"{layout.state} is not readable: {error}") from error
    if arguments.ip not in (None, state.ip):
        raise SaioError(
            f"the rings in {layout.etc} name {state.ip}; "
            f"choose another folder for {arguments.ip}"
        )
    if arguments.port not in (None, state.port):
        state = State(**{**vars(state), "port": arguments.port})
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


def all_servers(layout: Layout, state: State, *, daemons: bool = True) -> list[Server]:
    """The processes of the cluster, storage first."""
    found = []
    for kind in KINDS:
        for node, port in enumerate(state.ports[kind], 1):
            conf = layout.etc / f"{kind}-server" / f"{node}.conf"
            found.append(_server(layout, kind, node, port, conf))
    conf = layout.etc / "proxy-server.conf"
    found.append(_server(layout, "proxy", 0, state.port, conf))
    if daemons:
        found += [
            _server(layout, "daemons", node, 0, layout.etc)
            for node in range(1, NODES + 1)
        ]
    return found


def _server(layout: Layout, kind: str, node: int, port: int, conf: Path) -> Server:
    name = kind if kind == "proxy" else f"{kind}-{node}"
    log, pid_file = layout.logs / f"{name}.log", layout.run / f"{name}.pid"
    return Server(kind, node, port, conf, log, pid_file)


def run(
    layout: Layout, state: State, *, fresh: bool, restart: bool, daemons: bool
) -> int:
    """Start every server, say how to use them, follow the logs until a signal."""
    cluster = all_servers(layout, state, daemons=daemons)
    for server in cluster:
        if server.port and not process.port_is_free(state.ip, server.port):
            raise SaioError(
                f"port {server.port} of {state.ip} is taken; is the cluster running "
                "already? Another port for the API: --port N"
            )
    stops = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    signal.pthread_sigmask(signal.SIG_BLOCK, stops | {signal.SIGCHLD})
    follower = Follower([server.log for server in cluster])
    gc.collect()
    gc.freeze()
    try:
        for server in cluster:
            _fork(server)
        if not _all_ready(state.ip, cluster):
            _print_lines(follower)
            raise SaioError(f"not every server came up; see {layout.logs}")
        print(_welcome(layout, state, fresh=fresh), flush=True)
        while True:
            got = signal.sigtimedwait(stops | {signal.SIGCHLD}, TICK_S)
            _print_lines(follower)
            if got is not None and got.si_signo in stops:
                return 0
            _tend(cluster, restart=restart)
    finally:
        print("\nstopping", flush=True)
        _stop(cluster)


def _fork(server: Server) -> None:
    server.pid = os.fork()
    if server.pid:
        server.pid_file.write_text(f"{server.pid}\n")
        return
    code = 1
    try:
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        os.setsid()
        log = os.open(server.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if server.kind == "daemons":
            confs = [server.conf / f"{kind}-server" for kind in KINDS]
            code = saio_daemons.run_node([c / f"{server.node}.conf" for c in confs])
        else:
            sys.argv = [f"swift-{server.kind}-server", str(server.conf), "-v"]
            code = _MAINS[server.kind](sys.argv[1:])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # The parent's handlers and buffers are not this process's to run.
        os._exit(code)


def _all_ready(ip: str, cluster: list[Server]) -> bool:
    """Wait until each server accepts connections; False when one died or is late."""
    waited = 0.0
    waiting = [server for server in cluster if server.port]
    while waiting and waited < START_LIMIT_S:
        waiting = [one for one in waiting if process.port_is_free(ip, one.port)]
        if any(_has_died(server) for server in waiting):
            return False
        signal.sigtimedwait({signal.SIGCHLD}, TICK_S / 4)
        waited += TICK_S / 4
    return not waiting


def _has_died(server: Server) -> bool:
    if not server.pid:
        return True
    pid, _ = os.waitpid(server.pid, os.WNOHANG)
    if pid:
        server.pid = 0
    return bool(pid)


def _tend(cluster: list[Server], *, restart: bool) -> None:
    """Notice the dead; after a pause start them again."""
    for server in cluster:
        if server.pid:
            if _has_died(server):
                print(f"{server.name} died", flush=True)
                server.pid_file.unlink(missing_ok=True)
                server.restart_in_s = RESTART_PAUSE_S
        elif restart:
            server.restart_in_s -= TICK_S
            if server.restart_in_s <= 0:
                print(f"{server.name} starts again", flush=True)
                _fork(server)


def _stop(cluster: list[Server]) -> None:
    for server in cluster:
        if server.pid:
            os.kill(server.pid, signal.SIGTERM)
    waited = 0.0
    while waited < STOP_LIMIT_S and any(one.pid for one in cluster):
        signal.sigtimedwait({signal.SIGCHLD}, TICK_S)
        waited += TICK_S
        for server in cluster:
            if server.pid:
                _has_died(server)
    for server in cluster:
        if server.pid:
            os.killpg(server.pid, signal.SIGKILL)
            os.waitpid(server.pid, 0)
        server.pid_file.unlink(missing_ok=True)


class Follower:
    """Reads what is appended to log files from now on."""

    def __init__(self, paths: list[Path]) -> None:
        self._at = {path: path.stat().st_size if path.exists() else 0 for path in paths}

    def lines(self) -> Iterator[str]:
        """The whole lines written since the last call, file by file."""
        for path, at in self._at.items():
            if not path.exists() or path.stat().st_size <= at:
                continue
            with path.open("rb") as log:
                log.seek(at)
                new = log.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._at[path] = at + len(whole)
            yield from whole.decode("utf-8", "replace").splitlines()


def _print_lines(follower: Follower) -> None:
    for line in follower.lines():
        print(line, flush=True)


def _welcome(layout: Layout, state: State, *, fresh: bool) -> str:
    account = state.user.split(":")[0]
    conf = layout.etc / "proxy-server.conf"
    find = f"$(awk '/^user_{account}_/ {{print $3}}' {conf})"
    key = state.key if fresh else find
    auth = f"{state.endpoint}/auth/v1.0"
    note = (
        f"The key is shown this once; it stays in {conf}."
        if fresh
        else f"The key is in {conf}."
    )
    return f"""\
Swift is running at {state.endpoint}   (data, logs, keys: {layout.root}; stop: Ctrl-C)
{note}

curl:
  TOKEN=$(curl -si {auth} -H 'X-Auth-User: {state.user}' \\
    -H "X-Auth-Key: {key}" | tr -d '\\r' | awk '/^X-Auth-Token:/ {{print $2}}')
  URL={state.endpoint}/v1/AUTH_{account}
  curl -X PUT -H "X-Auth-Token: $TOKEN" $URL/photos
  curl -T README.md -H "X-Auth-Token: $TOKEN" $URL/photos/
  curl -H "X-Auth-Token: $TOKEN" $URL/photos/README.md

swift:
  export ST_AUTH={auth} ST_USER={state.user} ST_KEY="{key}"
  swift upload photos README.md

rclone:
  export RCLONE_CONFIG_SAIO_TYPE=swift RCLONE_CONFIG_SAIO_AUTH={auth}
  export RCLONE_CONFIG_SAIO_USER={state.user} RCLONE_CONFIG_SAIO_KEY="{key}"
  rclone copy README.md saio:photos
"""
