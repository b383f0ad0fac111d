# SPDX-License-Identifier: Apache-2.0
"""Hosts on one machine: network namespaces on a switch, each with processes of its own.

A `Network` makes a namespace for the switch (a bridge) and one for each host, gives
this process an address there, too, and can pull a host's cable. Nothing of the
machine's own namespace is changed but one veth interface, and `close` removes what was
made, whatever the test did.

Run as a program this module is a host's first process: it starts the commands that it
is told over its standard input, as `bin/` starts them but without loading Python anew
for each, and ends them all when the input ends, which a test that dies sees to.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from test.support.cluster import ROOT, listens, wait_until

XFS_BYTES = 320 << 20
"""Of a device's image, which is sparse; mkfs.xfs refuses less than 300 MiB."""

STOP_LIMIT_S = 5.0


def run(*command: str, check: bool = True) -> str:
    """What a command prints. AssertionError with its words when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, f"{command}: {done.stderr.strip()}"
    return done.stdout


def why_not() -> str | None:
    """Why namespaces cannot be made here, None when they can."""
    if shutil.which("ip") is None:
        return "no ip command: install iproute2"
    name = f"swift-{os.getpid()}-try"
    try:
        run("ip", "netns", "add", name)
    except AssertionError as error:
        return f"network namespaces need root (CAP_SYS_ADMIN, CAP_NET_ADMIN): {error}"
    try:
        run("ip", "-n", name, "link", "add", "br0", "type", "bridge")
        run("ip", "link", "add", f"sw{os.getpid()}x", "type", "veth",
            "peer", "name", "try0", "netns", name)  # fmt: skip
    except AssertionError as error:
        return f"no bridges or veth interfaces in this kernel: {error}"
    finally:
        run("ip", "netns", "del", name)
    return None


class Network:
    """A switch with hosts on it. Close it."""

    def __init__(self) -> None:
        self._stem = f"swift-{os.getpid()}"
        self._namespaces: list[str] = []
        self._ours = f"sw{os.getpid()}"
        routes = run("ip", "-4", "route", "show", "table", "all")
        self._prefix = next(
            prefix
            for prefix in (f"10.{201 + n // 100}.{n % 100}." for n in range(1000))
            if prefix not in routes
        )
        self.switch = self._namespace("switch")
        try:
            run("ip", "-n", self.switch, "link", "add", "br0", "type", "bridge")
            run("ip", "-n", self.switch, "link", "set", "br0", "up")
            run("ip", "link", "add", self._ours, "type", "veth",
                "peer", "name", "root", "netns", self.switch)  # fmt: skip
            self._plug("root")
            run("ip", "addr", "add", f"{self._prefix}254/24", "dev", self._ours)
            run("ip", "link", "set", self._ours, "up")
        except BaseException:
            self.close()
            raise

    def _namespace(self, name: str) -> str:
        full = f"{self._stem}-{name}"
        run("ip", "netns", "add", full)
        self._namespaces.append(full)
        return full

    def _plug(self, port: str) -> None:
        run("ip", "-n", self.switch, "link", "set", port, "master", "br0", "up")

    def add(self, number: int) -> tuple[str, str]:
        """Make host `number`, 1 to 9: (name of its namespace, address)."""
        name, port = f"h{number}", f"port{number}"
        namespace = self._namespace(name)
        address = f"{self._prefix}{number}"
        run("ip", "-n", self.switch, "link", "add", port, "type", "veth",
            "peer", "name", "eth0", "netns", namespace)  # fmt: skip
        self._plug(port)
        run("ip", "-n", namespace, "link", "set", "lo", "up")
        run("ip", "-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
        run("ip", "-n", namespace, "link", "set", "eth0", "up")
        return namespace, address

    def cut(self, number: int) -> None:
        """Pull the cable of a host."""
        run("ip", "-n", self.switch, "link", "set", f"port{number}", "down")

    def join(self, number: int) -> None:
        """Put the cable back."""
        run("ip", "-n", self.switch, "link", "set", f"port{number}", "up")

    def close(self) -> None:
        """Remove every interface and namespace that was made."""
        run("ip", "link", "del", self._ours, check=False)
        for namespace in self._namespaces:
            run("ip", "netns", "del", namespace, check=False)
        self._namespaces.clear()


class Devices:
    """Devices of hosts: XFS on loop-mounted images, or plain directories. Close it."""

    def __init__(self) -> None:
        self._mounted: list[Path] = []
        self.are_mounted = True

    def make(self, path: Path) -> None:
        """Make one device at an absent path; the first that fails ends mounting."""
        path.mkdir(parents=True)
        if not self.are_mounted:
            return
        image = path.parent / f"{path.name}.img"
        with image.open("wb") as stream:
            stream.truncate(XFS_BYTES)
        try:
            run("mkfs.xfs", "-q", str(image))
            run("mount", "-o", "loop,noatime", str(image), str(path))
        except (AssertionError, FileNotFoundError):
            image.unlink()
            if self._mounted:
                raise
            self.are_mounted = False
        else:
            self._mounted.append(path)

    def close(self) -> None:
        """Unmount what was mounted, and remove the images."""
        for path in self._mounted:
            run("umount", "-l", str(path), check=False)
            (path.parent / f"{path.name}.img").unlink(missing_ok=True)
        self._mounted.clear()


class Host:
    """The processes of one host; `folder` has its files. Close it."""

    def __init__(self, namespace: str, address: str, folder: Path) -> None:
        self.address = address
        self.folder = folder
        (folder / "log").mkdir(parents=True, exist_ok=True)
        self._agent = subprocess.Popen(
            ["ip", "netns", "exec", namespace, sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def _tell(self, verb: str, name: str, command: list[str]) -> None:
        assert self._agent.stdin is not None
        log = str(self.folder / "log" / f"{name}.log")
        self._agent.stdin.write(json.dumps([verb, log, command]) + "\n")
        self._agent.stdin.flush()

    def _answer(self) -> int:
        assert self._agent.stdout is not None
        return int(self._agent.stdout.readline() or "-1")

    def start(self, name: str, *command: str) -> int:
        """Start a server and return its pid; `name` is that of its log file."""
        self._tell("start", name, list(command))
        return self._answer()

    def begin(self, name: str, *command: str) -> None:
        """Run a command that ends; `end` waits for it."""
        self._tell("run", name, list(command))

    def end(self) -> int:
        """The exit code of the oldest command that was begun."""
        return self._answer()

    def wait_for(self, port: int, limit_s: float = 30.0) -> None:
        """Return once the host listens on a port."""
        where = f"{self.address}:{port}; see {self.folder}/log"
        wait_until(lambda: listens(port, self.address), limit_s, where)

    def said(self, name: str) -> str:
        """What a command has logged."""
        path = self.folder / "log" / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def close(self) -> None:
        """End every process of the host."""
        assert self._agent.stdin is not None
        with suppress(BrokenPipeError):
            self._agent.stdin.close()
        try:
            self._agent.wait(2 * STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._agent.kill()
            self._agent.wait(5)


# --- The first process of a host ------------------------------------------------------


def _agent() -> None:
    from swift.cli import daemons, servers

    started: list[int] = []
    for line in sys.stdin:
        verb, log, command = json.loads(line)
        pid = os.fork()
        if pid == 0:
            _child(log, command, (servers, daemons))
        if verb == "start":
            started.append(pid)
            print(pid, flush=True)
        else:
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)
    _end(started)


def _child(log: str, command: list[str], rooms: tuple[object, ...]) -> None:
    """Be a command: `swift-NAME …` by the function that bin/ calls, others by exec."""
    code = 1
    try:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(out, 1)
        os.dup2(out, 2)
        program = command[0].removeprefix("swift-").replace("-", "_")
        if program == command[0]:
            os.execvp(command[0], command)
        sys.argv = command
        main = next(getattr(room, program) for room in rooms if hasattr(room, program))
        code = main(command[1:])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException as error:
        print(f"{command[0]}: {error!r}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _end(pids: list[int]) -> None:
    for how in (signal.SIGTERM, signal.SIGKILL):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.killpg(pid, how)
        end = time.monotonic() + STOP_LIMIT_S / 2
        while pids and time.monotonic() < end:
            pids = [pid for pid in pids if os.waitpid(pid, os.WNOHANG)[0] == 0]
            time.sleep(0.01)


if __name__ == "__main__":
    _agent()
