# SPDX-License-Identifier: Apache-2.0
"""A real cluster of processes for tests: swift-saio in a folder of the test's own."""

from __future__ import annotations

import glob
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from test.support.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
START_LIMIT_S = 90.0
LIMIT_S = 60.0
"""The least limit of a wait for something real: a limit is no wait, and machines that
run tests stall for tens of seconds."""
STORAGE_PORTS = 60
"""Ports in a row that swift-saio may use from its storage port on."""


def wait_until(condition: Callable[[], object], limit_s: float, what: str) -> None:
    """Return once `condition()` is true; AssertionError when it never is.

    Waits for limit_s, but not less than LIMIT_S.
    """
    limit_s = max(limit_s, LIMIT_S)
    end = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {limit_s}s: {what}")
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """True while the process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


class Cluster:
    """One proxy and four nodes; servers can be killed and started one by one.

    revive: swift-saio starts again what died, a second later.
    """

    def __init__(self, folder: Path, *arguments: str, revive: bool = False) -> None:
        self.folder = folder
        self.port = free_port()
        self._arguments = arguments if revive else ("--no-restart", *arguments)
        self._process: subprocess.Popen[bytes] | None = None
        self._extra: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start every server and wait until the proxy answers.

        What does not come up in time is stopped: no fixture would.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        out = (self.folder / "saio.out").open("ab")
        self._process = subprocess.Popen(
            [
                sys.executable,
                str(ROOT / "bin" / "swift-saio"),
                "--port",
                str(self.port),
                # Away from other clusters that start at the same moment.
                "--storage-port",
                str(free_port(STORAGE_PORTS)),
                *self._arguments,
                str(self.folder),
            ],
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        out.close()
        try:
            wait_until(
                self._answers, START_LIMIT_S, f"start; see {self.folder}/saio.out"
            )
        except BaseException:
            self.stop()
            raise

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.output()
        if "Swift is running" not in self.output():
            return False
        try:
            with urllib.request.urlopen(
                f"{self.endpoint}/healthcheck", timeout=LIMIT_S
            ) as got:
                return bool(got.status == 200)
        except OSError:
            return False

    def output(self) -> str:
        """What swift-saio has printed."""
        return (self.folder / "saio.out").read_text(errors="replace")

    def stop(self) -> None:
        """Stop everything that this object started."""
        for name in list(self._extra):
            self._end(self._extra.pop(name), signal.SIGTERM)
        if self._process is not None:
            self._end(self._process, signal.SIGINT)
            self._process = None

    @staticmethod
    def _end(process: subprocess.Popen[bytes], how: int) -> None:
        if process.poll() is None:
            process.send_signal(how)
        try:
            process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(LIMIT_S)

    @property
    def endpoint(self) -> str:
        """`http://ip:port` of the proxy."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def state(self) -> dict[str, object]:
        """Ports, user and key, as swift-saio keeps them."""
        loaded: dict[str, object] = json.loads((self.folder / "saio.json").read_text())
        return loaded

    @property
    def user(self) -> str:
        """`account:user`."""
        return str(self.state["user"])

    @property
    def key(self) -> str:
        """The user's key."""
        return str(self.state["key"])

    def token(self) -> tuple[str, str]:
        """A storage URL and a token."""
        request = urllib.request.Request(
            f"{self.endpoint}/auth/v1.0",
            headers={"X-Auth-User": self.user, "X-Auth-Key": self.key},
        )
        with urllib.request.urlopen(request, timeout=LIMIT_S) as answer:
            return answer.headers["X-Storage-Url"], answer.headers["X-Auth-Token"]

    def pid(self, name: str) -> int:
        """The pid of a server: `proxy`, `object-1`, …"""
        if name in self._extra:
            return self._extra[name].pid
        return int((self.folder / "run" / f"{name}.pid").read_text())

    def names(self) -> list[str]:
        """The servers that have run since the start."""
        return sorted(path.stem for path in (self.folder / "run").glob("*.pid"))

    def pids(self) -> dict[str, int]:
        """Name → pid of the servers that live."""
        found = {name: self.pid(name) for name in {*self.names(), *self._extra}}
        return {name: pid for name, pid in found.items() if alive(pid)}

    def kill(self, name: str) -> None:
        """SIGKILL one server and wait until it is gone."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        if name in self._extra:
            self._extra.pop(name).wait(LIMIT_S)
        wait_until(lambda: not alive(pid), LIMIT_S, f"death of {name}")

    def restart(self, name: str) -> None:
        """Start one server by its own command, as on a real cluster."""
        kind, _, node = name.partition("-")
        conf = (
            self.folder / "etc" / "proxy-server.conf"
            if kind == "proxy"
            else self.folder / "etc" / f"{kind}-server" / f"{node}.conf"
        )
        log = (self.folder / "log" / f"{name}.log").open("ab")
        self._extra[name] = subprocess.Popen(
            [
                sys.executable,
                str(ROOT / "bin" / f"swift-{kind}-server"),
                str(conf),
                "-v",
            ],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
        )
        log.close()
        port = self.port_of(name)
        wait_until(lambda: listens(port), START_LIMIT_S, f"restart of {name}")

    def kill_daemons(self) -> None:
        """Kill what heals by itself: passes then run when a test says so, only."""
        for name in self.names():
            if name.startswith("daemons-"):
                self.kill(name)

    def port_of(self, name: str) -> int:
        """The port a server listens on."""
        kind, _, node = name.partition("-")
        if kind == "proxy":
            return self.port
        ports = self.state["ports"]
        assert isinstance(ports, dict)
        return int(ports[kind][int(node) - 1])

    def device(self, node: int) -> Path:
        """The device directory of a node."""
        return self.folder / "srv" / str(node) / f"d{node}"

    def object_files(self) -> list[Path]:
        """Every file below the devices' objects directories, sorted."""
        found: list[Path] = []
        for tree in find(self.folder, "srv/*/*/objects*"):
            for folder, _folders, names in os.walk(tree):
                found += [Path(folder, name) for name in names]
        return sorted(found)


def find(folder: Path, pattern: str) -> list[Path]:
    """What matches below a folder, sorted; for trees that servers change meanwhile.

    `Path.glob` raises when a directory goes away between its listing and its reading.
    """
    return sorted(folder / name for name in glob.glob(pattern, root_dir=folder))


def listens(port: int, address: str = "127.0.0.1") -> bool:
    """True when a connection to a TCP port is accepted within a second."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((address, port)) == 0
