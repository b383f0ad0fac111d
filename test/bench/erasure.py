# SPDX-License-Identifier: Apache-2.0
"""make bench, erasure coding: what the proxy pays for 100 MiB at 4+2.

All times are CPU milliseconds of the proxy alone, for one object, beside those of one
MD5 of the same bytes, one bare encode and one bare decode in this run. Nothing here
judges: it prints.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from swift.cli.saio_files import EC_DATA, EC_NAME, EC_PARITY
from swift.core.erasure import ErasureCoding
from swift.runtime.process import keep_freed_memory
from test.bench.run import LARGE, call, machine
from test.support.client import Client
from test.support.cluster import Cluster

ROUNDS = 5
SEGMENT = 1024 * 1024


def cpu_ms(work: Callable[[], object]) -> float:
    """The least CPU time of a few runs in this process."""
    found = []
    for _ in range(ROUNDS):
        started = time.process_time()
        work()
        found.append(time.process_time() - started)
    return 1e3 * min(found)


def yardsticks(body: bytes) -> dict[str, float]:
    """MD5, encode and decode of the bytes, in ms."""
    coding = ErasureCoding("isa_l_rs_cauchy", EC_DATA, EC_PARITY)
    segments = [body[at : at + SEGMENT] for at in range(0, len(body), SEGMENT)]
    wanted = range(EC_PARITY, coding.unique)
    halves = [coding.encode(segment) for segment in segments]
    few = [{index: made[index] for index in wanted} for made in halves]

    def encode() -> None:
        for segment in segments:
            coding.encode(segment)

    def decode() -> None:
        for pieces in few:
            coding.decode(pieces)

    return {
        "MD5": cpu_ms(lambda: hashlib.md5(body).digest()),
        "encode": cpu_ms(encode),
        "decode": cpu_ms(decode),
    }


class Bench:
    """A cluster with both policies, and the proxy's CPU time."""

    def __init__(self, folder: Path) -> None:
        self.source = folder / "large"
        self.cluster = Cluster(folder / "saio", "--policies", "replica+ec")

    def start(self, body: bytes) -> None:
        """Start it, without daemons."""
        self.source.write_bytes(body)
        self.cluster.start()
        for name in self.cluster.names():
            if name.startswith("daemons"):
                self.cluster.kill(name)
        self.url, self.token = self.cluster.token()
        call(f"{self.url}/copies", "PUT", self.token)
        client = Client.authenticated(
            f"{self.cluster.endpoint}/auth/v1.0", self.cluster.user, self.cluster.key
        )
        made = client.put(f"{client.base}/codes", headers={"X-Storage-Policy": EC_NAME})
        assert made.status == 201

    def measure(self, work: str, path: str) -> float:
        """CPU ms of the proxy for one request of 100 MiB, the least of a few."""
        found = []
        for _ in range(ROUNDS):
            before = self.proxy_s()
            command = ["curl", "-sf", "-o", "/dev/null", f"{self.url}/{path}"]
            command += ["-H", f"X-Auth-Token: {self.token}"]
            command += ["-T", str(self.source)] if work == "PUT" else []
            subprocess.run(command, check=True, timeout=300)
            found.append(1e3 * (self.proxy_s() - before))
        return min(found)

    def proxy_s(self) -> float:
        """CPU time of all threads of the proxy, to the nanosecond."""
        tasks = Path(f"/proc/{self.cluster.pid('proxy')}/task").glob("*/schedstat")
        return sum(int(task.read_text().split()[0]) for task in tasks) / 1e9

    def fragments(self) -> list[Path]:
        """The fragments of the one object, by index."""
        found = self.cluster.folder.glob("srv/*/d*/objects-1/*/*/*/*#*.data")
        return sorted(found, key=lambda path: path.name.split("#")[1])


def main() -> int:
    """Run it all."""
    folder = Path(tempfile.mkdtemp(prefix="swift-bench-ec-"))
    body = os.urandom(LARGE)
    bench = Bench(folder)
    print(machine())
    keep_freed_memory()  # as servers do; it is the yardsticks that gain most
    known = yardsticks(body)
    print("of 100 MiB: " + ", ".join(f"{k} {v:.0f} ms" for k, v in known.items()))
    try:
        bench.start(body)
        copies = bench.measure("PUT", "copies/o")
        print(f"{'PUT, three copies':<36}{copies:>8.0f} ms")
        put = bench.measure("PUT", "codes/o")
        bare = known["MD5"] + known["encode"]
        print(f"{'PUT, 4+2':<36}{put:>8.0f} ms = {put / bare:.2f} (MD5 + encode)")
        stored = sum(path.stat().st_size for path in bench.fragments())
        print(f"{'bytes on disk':<36}{stored / LARGE:>8.4f} of the object")
        plain = bench.measure("GET", "copies/o")
        print(f"{'GET, a copy':<36}{plain:>8.0f} ms")
        get = bench.measure("GET", "codes/o")
        print(f"{'GET, 4+2':<36}{get:>8.0f} ms = {get / plain:.2f} copies")
        for path in bench.fragments()[:EC_PARITY]:
            path.rename(path.with_suffix(".aside"))
        lost = bench.measure("GET", "codes/o")
        more = (lost - get) / known["decode"]
        print(
            f"{'GET, two data fragments lost':<36}{lost:>8.0f} ms = + {more:.2f} decode"
        )
    finally:
        bench.cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
