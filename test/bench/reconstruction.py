# SPDX-License-Identifier: Apache-2.0
"""make bench-reconstruction: how fast the fragments of a lost device are made again.

Objects are put into the erasure-coded policy of a swift-saio cluster without daemons;
then one device is emptied, and `swift-object-reconstructor --once` runs on all nodes at
once until it is full again. What the same commands take when nothing is lost is taken
off. Beside that stand one bare decode and encode of the bytes of the objects concerned,
on one thread, and the writing of the lost archives to the same disk, each file synced.
All are medians of a few rounds, and rates of the bytes of objects, by the clock and by
CPU time: on a machine that does other things only the latter means something. Nothing
here judges: it prints.
"""

from __future__ import annotations

import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from swift.cli import saio_files
from swift.cli.saio_files import EC_DATA, EC_NAME, EC_PARITY
from swift.core.erasure import DEFAULT_SEGMENT_SIZE, ErasureCoding
from swift.runtime.process import keep_freed_memory
from test.bench.run import call, cpu_seconds, machine
from test.support.client import Client
from test.support.cluster import ROOT, STORAGE_PORTS, Cluster, find
from test.support.passes import NODES, command, conf_of
from test.support.ports import free_port

LOST = "d5"
"""The device that is emptied; it holds nothing but fragments."""

KINDS = ((48, 16 << 20), (600, 4096))
"""How many objects of which size, one after the other."""

ROUNDS = 5
"""How often the device is lost; what nothing lost takes varies by half a second."""

PART_POWER = 4
"""So that a partition has many objects, as in a cluster that is filled."""

CONCURRENCY = 1
"""Partitions that each node works on at a time; all nodes share this machine."""

MB = 1_000_000


@dataclass(frozen=True)
class Cost:
    """What some work took, in seconds."""

    wall: float
    cpu: float

    def __sub__(self, other: Cost) -> Cost:
        # Two runs differ by chance, too; nothing takes no time.
        return Cost(max(1e-3, self.wall - other.wall), max(1e-3, self.cpu - other.cpu))

    def __mul__(self, factor: float) -> Cost:
        return Cost(self.wall * factor, self.cpu * factor)


def cost(work: Callable[[], object]) -> Cost:
    """Of one run in this process."""
    wall, cpu = time.monotonic(), time.process_time()
    work()
    return Cost(time.monotonic() - wall, time.process_time() - cpu)


def bare(count: int, size: int) -> Cost:
    """Decoding from fragments with parity, and encoding, so many objects of a size."""
    coding = ErasureCoding("isa_l_rs_cauchy", EC_DATA, EC_PARITY)
    segments = [
        random.randbytes(min(DEFAULT_SEGMENT_SIZE, size - at))
        for at in range(0, size, DEFAULT_SEGMENT_SIZE)
    ]
    wanted = range(EC_PARITY, coding.unique)
    coded = [coding.encode(segment) for segment in segments]
    few = [{index: made[index] for index in wanted} for made in coded]
    rounds = max(1, min(count, (64 << 20) // size))

    def decode_and_encode() -> None:
        for _ in range(rounds):
            for pieces in few:
                coding.encode(coding.decode(pieces))

    return cost(decode_and_encode) * (count / rounds)


class Bench:
    """The cluster, and what is on the device that gets lost."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        place = folder / "saio"
        self.cluster = Cluster(place, "--no-daemons", "--policies", "replica+ec")
        place.mkdir()
        saio_files.PART_POWER = PART_POWER
        saio_files.create(
            saio_files.Layout(place),
            ip=None,
            port=self.cluster.port,
            storage_port=free_port(STORAGE_PORTS),
            policies="replica+ec",
        )

    def start(self) -> None:
        """Start the servers; every node's reconstructor has a section of its own."""
        self.cluster.start()
        self.url, self.token = self.cluster.token()
        for node in NODES:
            conf = conf_of(self.cluster.folder, node, "object-reconstructor")
            text = conf.read_text()
            section = "[object-reconstructor]\n"
            assert section in text, f"{conf} has no such daemon"
            options = f"concurrency = {CONCURRENCY}\n"
            conf.write_text(text.replace(section, section + options))

    def forget(self) -> None:
        """Remove all fragments, so that the next kind is alone."""
        for tree in find(self.cluster.folder, "srv/*/*/objects-1"):
            shutil.rmtree(tree)

    def fill(self, container: str, count: int, size: int) -> None:
        """Put objects of random bytes."""
        client = Client.authenticated(
            f"{self.cluster.endpoint}/auth/v1.0", self.cluster.user, self.cluster.key
        )
        box = f"{client.base}/{container}"
        made = client.put(box, headers={"X-Storage-Policy": EC_NAME})
        assert made.status == 201, made
        for number in range(count):
            assert client.put(f"{box}/o{number}", random.randbytes(size)).status == 201

    @property
    def device(self) -> Path:
        """Where the device that gets lost is mounted."""
        [found] = find(self.cluster.folder, f"srv/*/{LOST}")
        return found

    def archives(self) -> list[Path]:
        """The archives there."""
        return find(self.device, "objects-1/*/*/*/*.data")

    def write_archives(self) -> Cost:
        """Copying them on the same file system, each synced."""
        sources = [path.read_bytes() for path in self.archives()]
        target = self.device / "copies"
        target.mkdir()

        def write() -> None:
            for number, content in enumerate(sources):
                fd = os.open(target / str(number), os.O_CREAT | os.O_WRONLY)
                os.write(fd, content)
                os.fsync(fd)
                os.close(fd)

        taken = cost(write)
        shutil.rmtree(target)
        return taken

    def reconstruct(self) -> Cost:
        """Until all nodes have passed once; the CPU time of servers is included."""
        servers = [
            pid
            for name, pid in self.cluster.pids().items()
            if name.startswith("object-")
        ]
        before = cpu_seconds(servers) + children_cpu_s()
        wall = cost(self._pass).wall
        return Cost(wall, cpu_seconds(servers) + children_cpu_s() - before)

    def _pass(self) -> None:
        running = [
            subprocess.Popen(
                command(
                    self.cluster.folder, node, "object-reconstructor", "--once", "-v"
                ),
                stdout=subprocess.DEVNULL,
                stderr=(self.folder / f"reconstructor-{node}.log").open("ab"),
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            for node in NODES
        ]
        for node, process in zip(NODES, running, strict=True):
            if process.wait():
                log = self.folder / f"reconstructor-{node}.log"
                raise SystemExit(f"node {node}: {log.read_text()[-2000:]}")


def children_cpu_s() -> float:
    """CPU time of children that have ended."""
    times = os.times()
    return times.children_user + times.children_system


def measure(bench: Bench, count: int, size: int) -> None:
    """Fill; lose the device and have it filled again, a few times; print the rates."""
    bench.fill(f"of{size}", count, size)
    os.sync()
    bench.reconstruct()  # all suffix hashes are known afterwards
    kept = bench.archives()
    found: dict[str, list[Cost]] = {}
    for _ in range(ROUNDS):
        idle = bench.reconstruct()
        written = bench.write_archives()
        shutil.rmtree(bench.device / "objects-1")
        whole = bench.reconstruct()
        assert bench.archives() == kept, "some archives are not back"
        for what, taken in (
            ("reconstruction of the device", whole),
            (FILLING, whole - idle),
            (CODING, bare(len(kept), size)),
            (WRITING, written),
        ):
            found.setdefault(what, []).append(taken)
    print(f"{len(kept)} archives of {count} objects of {size} bytes:")
    medians = {what: median(costs) for what, costs in found.items()}
    for what, taken in medians.items():
        print(f"  {what:<36}{rates(taken.wall, len(kept), size)}", end="")
        print(f"   by CPU {rates(taken.cpu, len(kept), size)}")
    slower = max(medians[CODING].wall, medians[WRITING].wall)
    print(f"  {slower / medians[FILLING].wall:.2f} of the slower of the last two")


FILLING = "without starting and comparing"
CODING = "bare decode and encode, one thread"
WRITING = "writing and syncing the archives"


def median(costs: list[Cost]) -> Cost:
    """Of each of the two by itself."""
    return Cost(
        statistics.median(cost.wall for cost in costs),
        statistics.median(cost.cpu for cost in costs),
    )


def rates(taken_s: float, count: int, size: int) -> str:
    """Objects and their bytes a second."""
    return f"{count / taken_s:>9.1f}/s{count * size / taken_s / MB:>9.1f} MB/s"


def main() -> int:
    """Run it all."""
    folder = Path(tempfile.mkdtemp(prefix="swift-bench-rebuild-"))
    bench = Bench(folder)
    print(machine())
    keep_freed_memory()
    try:
        bench.start()
        call(f"{bench.url}/unused", "PUT", bench.token)
        for count, size in KINDS:
            measure(bench, count, size)
            bench.forget()
    finally:
        bench.cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
