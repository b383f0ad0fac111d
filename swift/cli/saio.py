# SPDX-License-Identifier: Apache-2.0
"""swift-saio: a whole cluster on one machine, made and run by one command.

The folder holds everything: configuration, rings, keys, data and logs (`saio_files`).
All servers are forked from this process once their code is loaded, which makes them
start in a second and share most of their memory.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from swift.cli import saio_daemons, servers
from swift.cli.saio_files import (
    EC_NAME,
    FIRST_STORAGE_PORT,
    KINDS,
    NODES,
    POLICIES,
    Layout,
    SaioError,
    State,
    check_folder,
    create,
    load,
)
from swift.core.errors import SwiftError
from swift.runtime import process
from swift.runtime.cluster import Cluster
from swift.storage.devices import Devices
from swift.storage.object.conflicts import check_stored_objects

START_LIMIT_S = 60.0
STOP_LIMIT_S = 5.0
RESTART_PAUSE_S = 1.0
TICK_S = 0.1

Main = Callable[[Sequence[str] | None], int]

_MAINS: dict[str, Main] = {
    "proxy": servers.proxy_server,
    "account": servers.account_server,
    "container": servers.container_server,
    "object": servers.object_server,
}


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
            else load(layout, ip=arguments.ip, port=arguments.port)
        )
        _check_policies(layout)
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
    except SwiftError as error:
        print(f"swift-saio: {error}", file=sys.stderr)
        return 1


def _check_policies(layout: Layout) -> None:
    """Raise ConfigError, once, for what every server would refuse to start with."""
    cluster = Cluster.load(str(layout.etc))
    cluster.check_object_rings()
    for node in range(1, NODES + 1):
        check_stored_objects(
            Devices(str(layout.devices(node)), mount_check=False), cluster
        )


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
