# SPDX-License-Identifier: Apache-2.0
"""make bench: CPU time per request, summed over all server processes, in ms and in H.

The load comes from load.c. CPU time is read from /proc before and after each run, so
what the load generator itself burns does not count. H is the CPU time per request of
stock eventlet.wsgi answering 4 KiB from memory, measured in the same run; M is the CPU
time of one MD5 over the same bytes. Nothing here judges: it prints.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from test.support.cluster import ROOT, Cluster, wait_until
from test.support.ports import free_port

TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
SMALL = 4096
LARGE = 100 * 1024 * 1024
WORKS = "GET,HEAD,PUT,DELETE"
REPLICAS = 3
NAMES = 10_000


@dataclass
class Row:
    """One measurement; times in milliseconds."""

    work: str
    connections: int
    requests: int
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms: float
    in_h: float
    errors: int


def cpu_seconds(pids: list[int]) -> float:
    """User and system time of the processes and all their threads."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total * TICK_S


def compiled(folder: Path, name: str = "load") -> Path:
    """A program of this directory, built with the C compiler at hand."""
    program = folder / name
    source = ROOT / "test" / "bench" / f"{name}.c"
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise SystemExit("make bench needs a C compiler: apt-get install gcc libc6-dev")
    options = ["-O2", "-pthread", "-o", str(program)]
    subprocess.run([compiler, *options, str(source)], check=True)
    return program


@dataclass(frozen=True)
class Load:
    """What the load generator asks for; `%d` in path walks over `count` names."""

    method: str
    path: str
    token: str = "-"
    count: int = 1
    body_bytes: int = 0

    def run(
        self, program: Path, port: int, connections: int, seconds: float
    ) -> dict[str, float]:
        """Requests, seconds, p50_ms, p99_ms and errors of one run."""
        command = [
            program, "127.0.0.1", port, connections, seconds, self.method, self.path,
            self.count, self.token, self.body_bytes,
        ]  # fmt: skip
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            check=True,
            timeout=seconds + 60,
        )
        found: dict[str, float] = json.loads(done.stdout)
        return found


class Bench:
    """The cluster under load, and the rows so far."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder = folder
        self.seconds = seconds
        self.rows: list[Row] = []
        self.h_ms = 0.0
        # The passes of daemons are not the requests' cost.
        self.cluster = Cluster(folder / "saio", "--no-daemons")
        self.program = compiled(folder)

    def yardstick(self) -> None:
        """Measure H."""
        port = free_port()
        server = subprocess.Popen(
            [sys.executable, str(ROOT / "test/bench/yardstick.py"), str(port)]
        )
        try:
            wait_until(lambda: _answers(port), 10, "yardstick server")
            found = []
            for _ in range(3):
                before = cpu_seconds([server.pid])
                got = Load("GET", "/").run(self.program, port, 64, self.seconds)
                used = cpu_seconds([server.pid]) - before
                found.append(1e3 * used / got["requests"])
            self.h_ms = statistics.median(found)
        finally:
            server.terminate()
            server.wait(10)

    def measure(self, work: str, connections: int, load: Load) -> Row:
        """One run against the proxy; daemons' passes are not the request's."""
        pids = self.server_pids()
        before = cpu_seconds(pids)
        got = load.run(self.program, self.cluster.port, connections, self.seconds)
        # What a request leaves to be done after its answer belongs to it, too.
        time.sleep(0.3)
        used = cpu_seconds(pids) - before
        return self.row(work, connections, got, used)

    def server_pids(self) -> list[int]:
        """The proxy and the storage servers."""
        return [
            pid
            for name, pid in self.cluster.pids().items()
            if not name.startswith("daemons")
        ]

    def row(
        self, work: str, connections: int, got: dict[str, float], used_s: float
    ) -> Row:
        """Keep and print one measurement."""
        cpu_ms = 1e3 * used_s / max(1, got["requests"])
        row = Row(
            work, connections, int(got["requests"]), got["requests"] / got["seconds"],
            got["p50_ms"], got["p99_ms"], cpu_ms, cpu_ms / self.h_ms,
            int(got["errors"]),
        )  # fmt: skip
        self.rows.append(row)
        print(
            f"{row.work:<16}{row.connections:>5}{row.requests:>9}{row.per_second:>10.0f}"
            f"{row.p50_ms:>10.2f}{row.p99_ms:>10.2f}{row.cpu_ms:>10.3f}"
            f"{row.in_h:>9.2f} H{row.errors:>6} errors",
            flush=True,
        )
        return row

    def floor(self) -> None:
        """What the system calls of a PUT cost by themselves, on three replicas."""
        command = [compiled(self.folder, "commit"), self.folder / "floor", 16, 512, 4]
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, check=True
        )
        found = json.loads(done.stdout)
        cpu_ms = REPLICAS * found["cpu_ms"]
        print(
            f"{REPLICAS} commits without a server: {cpu_ms:.3f} ms, "
            f"{cpu_ms / self.h_ms:.2f} H, {REPLICAS * found['switches']:.0f} switches"
        )

    def small_objects(self, levels: list[int], works: list[str]) -> None:
        """PUT, GET, HEAD and DELETE of 4 KiB, as far as they are among `works`."""
        url, token = self.cluster.token()
        base = urlsplit(url).path + "/bench"
        call(url + "/bench", "PUT", token)
        fill(url + "/bench", token, 512)
        for level in levels:
            for method, size in (("GET", 0), ("HEAD", 0), ("PUT", SMALL)):
                if method in works:
                    load = Load(method, f"{base}/o%d", token, 512, size)
                    self.measure(f"{method} 4 KiB", level, load)
            if "DELETE" not in works:
                continue
            new = Load("PUT", f"{base}/d{level}-%d", token, 1_000_000, SMALL)
            made = self.measure("PUT, new names", level, new)
            gone = Load("DELETE", f"{base}/d{level}-%d", token, made.requests)
            self.measure("DELETE", level, gone)

    def listing(self) -> None:
        """10,000 names as JSON."""
        url, token = self.cluster.token()
        call(url + "/names", "PUT", token)
        fill(url + "/names", token, NAMES, body=b"")
        path = urlsplit(url).path + "/names?format=json"
        self.measure("list 10,000", 8, Load("GET", path, token))

    def large_objects(self) -> None:
        """GET and PUT of 100 MiB at two connections; the figure is also in M."""
        url, token = self.cluster.token()
        call(url + "/large", "PUT", token)
        block = os.urandom(LARGE)
        started = time.process_time()
        hashlib.md5(block).hexdigest()
        m_ms = 1e3 * (time.process_time() - started)
        print(f"M = {m_ms:.1f} ms (MD5 of 100 MiB)")
        source = self.folder / "large"
        source.write_bytes(block)
        for work in ("PUT", "GET"):
            pids = self.server_pids()
            before, started = cpu_seconds(pids), time.monotonic()
            rounds = 4
            for _ in range(rounds // 2):
                jobs = [
                    subprocess.Popen(_curl(work, f"{url}/large/o{n}", token, source))
                    for n in range(2)
                ]
                for job in jobs:
                    assert job.wait(120) == 0
            wall = time.monotonic() - started
            used = cpu_seconds(pids) - before
            got = {
                "requests": rounds, "seconds": wall, "p50_ms": 2e3 * wall / rounds,
                "p99_ms": 2e3 * wall / rounds, "errors": 0,
            }  # fmt: skip
            self.row(f"{work} 100 MiB", 2, got, used)
            print(f"{'':16}  = {1e3 * used / rounds / m_ms:.2f} M")


def _curl(work: str, url: str, token: str, source: Path) -> list[str]:
    command = ["curl", "-sf", "-o", "/dev/null", "-H", f"X-Auth-Token: {token}", url]
    return [*command, "-T", str(source)] if work == "PUT" else command


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def call(url: str, method: str, token: str, body: bytes | None = None) -> None:
    """One request that must succeed."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    connection.request(method, parts.path, body, {"X-Auth-Token": token})
    answer = connection.getresponse()
    answer.read()
    assert answer.status < 300, (method, url, answer.status)
    connection.close()


def fill(url: str, token: str, count: int, body: bytes = b"x" * SMALL) -> None:
    """Store `count` objects o0, o1, … over a few connections."""
    workers = 8

    def work(first: int) -> None:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=60)
        for number in range(first, count, workers):
            path = f"{parts.path}/o{number}"
            connection.request("PUT", path, body, {"X-Auth-Token": token})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == 201, (path, answer.status)
        connection.close()

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(workers)))


def machine() -> str:
    """What the figures were measured on."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True, text=True, cwd=ROOT, check=False,
    ).stdout.strip()  # fmt: skip
    return (
        f"{os.cpu_count()} × {model[1] if model else platform.machine()}, "
        f"Linux {platform.release()}, Python {platform.python_version()}, "
        f"commit {commit or '-'}"
    )


def main() -> int:
    """Run the parts asked for; all of them by default."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each run")
    parser.add_argument("--levels", default="1,8,64", help="numbers of connections")
    parser.add_argument(
        "--works", default=WORKS, help="on small objects; DELETE makes new names first"
    )
    parser.add_argument("--json", help="also write the rows to this file")
    parser.add_argument("--keep", help="work in this folder and keep it")
    parser.add_argument(
        "--only", choices=["floor", "small", "listing", "large"], action="append"
    )
    arguments = parser.parse_args()
    folder = Path(arguments.keep or tempfile.mkdtemp(prefix="swift-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(folder, arguments.seconds)
    print(machine())
    parts: dict[str, Callable[[], None]] = {
        "floor": bench.floor,
        "small": lambda: bench.small_objects(
            [int(level) for level in arguments.levels.split(",")],
            arguments.works.split(","),
        ),
        "listing": bench.listing,
        "large": bench.large_objects,
    }
    try:
        bench.yardstick()
        print(f"H = {bench.h_ms:.4f} ms")
        print(
            f"{'work':<16}{'conn':>5}{'requests':>9}{'req/s':>10}{'p50 ms':>10}"
            f"{'p99 ms':>10}{'CPU ms':>10}{'in H':>9}"
        )
        bench.cluster.start()
        for name, part in parts.items():
            if not arguments.only or name in arguments.only:
                part()
    finally:
        bench.cluster.stop()
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    if arguments.json:
        rows = [asdict(row) for row in bench.rows]
        report = {"machine": machine(), "h_ms": bench.h_ms, "rows": rows}
        Path(arguments.json).write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
