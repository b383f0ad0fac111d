# SPDX-License-Identifier: Apache-2.0
"""make bench-replication: what the background passes cost, beside plain tools.

Object trees are written through the storage engine, three replicas over the four
devices of a swift-saio cluster whose own daemons do not run; those of the clean pass,
which looks at names only, as empty files. Then the real commands run, `--once`, and
their wall time and CPU time are taken, that of the object and container servers they
talk to included. Beside each stand `find` over the same tree, `rsync -a` of the same
files and `md5sum` of the same bytes, all measured in the same run with the page cache
warm. Nothing here judges: it prints.
"""

from __future__ import annotations

import argparse
import configparser
import http.client
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from swift.core import headers as h
from swift.core.hashing import hash_directory
from swift.core.headers import Headers
from swift.core.names import ContainerName, ObjectName
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.runtime.cluster import Cluster as Facts
from swift.runtime.logs import NULL_LOG
from swift.runtime.metrics import NO_METRICS
from swift.storage.fs import FileSystem
from swift.storage.object.manager import DiskConfig, DiskFileManager
from test.bench.run import call, cpu_seconds, machine
from test.support.cluster import ROOT, Cluster, listens, wait_until
from test.support.ports import free_port

DAEMONS = ("object-replicator", "object-auditor", "object-updater")
NODES = (1, 2, 3, 4)
BODY_BYTES = 4096
REPLICAS = 3
CONTAINER = "bench"
BASE_S = 1_700_000_000


class HastyDisk(FileSystem):
    """A disk that is not waited for: the trees are made once, and may be lost."""

    def sync(self, fd: int) -> None:
        """Nothing."""

    def sync_data(self, fd: int) -> None:
        """Nothing."""

    def sync_directory(self, path: str) -> None:
        """Nothing."""


@dataclass
class Row:
    """One measurement. `n`: of the things named in `what`, `size_bytes` their bodies.

    peak_mb: the largest process of a command, 0 when not taken.
    """

    work: str
    what: str
    n: int
    wall_s: float
    cpu_s: float
    size_bytes: int = 0
    peak_mb: float = 0.0


class Bench:
    """The cluster, its trees, and the rows so far."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cluster = Cluster(folder / "saio", "--no-daemons")
        self.rows: list[Row] = []
        self._written = 0
        self._rsyncd: subprocess.Popen[bytes] | None = None
        self._rsync_port = 0
        self._peak_mb = 0.0

    def start(self) -> None:
        """Start the servers, make the container, start an rsync daemon."""
        self.cluster.start()
        url, token = self.cluster.token()
        call(f"{url}/{CONTAINER}", "PUT", token)
        self.account = urlsplit(url).path.rpartition("/")[2]
        self.facts = Facts.load(str(self.cluster.folder / "etc"))
        self._start_rsync()
        for name in DAEMONS:
            self._command(name, "--help", stdout=subprocess.DEVNULL).wait(60)

    def _start_rsync(self) -> None:
        self._rsync_port = free_port()
        conf = self.folder / "rsyncd.conf"
        modules = "".join(
            f"[object{node}]\npath = {self.cluster.folder}/srv/{node}\n"
            f"read only = no\nuid = {os.getuid()}\ngid = {os.getgid()}\n"
            for node in NODES
        )
        conf.write_text(
            f"port = {self._rsync_port}\naddress = 127.0.0.1\nuse chroot = no\n"
            f"log file = /dev/null\n{modules}"
        )
        self._rsyncd = subprocess.Popen(
            ["rsync", "--daemon", "--no-detach", f"--config={conf}"]
        )
        wait_until(lambda: listens(self._rsync_port), 10, "rsync daemon")

    def stop(self) -> None:
        """Stop all of it."""
        if self._rsyncd is not None:
            self._rsyncd.terminate()
            self._rsyncd.wait(10)
        self.cluster.stop()

    # --- trees ------------------------------------------------------------------------

    def name(self, number: int) -> ObjectName:
        """The name of an object."""
        return ObjectName(self.account, CONTAINER, f"o{number:07d}")

    def write_objects(self, count: int) -> None:
        """Write objects until there are `count`."""
        self._on_each_node(self._write_device, count)

    def write_names(self, count: int) -> None:
        """Make the files of objects until there are `count`, with nothing in them.

        For passes that look at names only; it takes a fraction of the time.
        """
        self._on_each_node(self._name_device, count)

    def _on_each_node(self, work: Callable[[int, int, int], None], count: int) -> None:
        """Make the objects up to `count`, one process a device."""
        started = time.monotonic()
        children = []
        for node in NODES:
            pid = os.fork()
            if not pid:
                code = 1
                try:
                    green.after_fork()
                    green.spawn(work, node, self._written, count).wait()
                    code = 0
                finally:
                    os._exit(code)
            children.append(pid)
        for pid in children:
            assert os.waitpid(pid, 0)[1] == 0, "writing the trees failed"
        took = time.monotonic() - started
        print(f"({count - self._written} objects written in {took:.0f} s)", flush=True)
        self._written = count
        os.sync()

    def _manager(self, node: int) -> DiskFileManager:
        root = str(self.cluster.device(node).parent)
        config = DiskConfig(devices=root, mount_check=False)
        policy = self.facts.policies.default
        salt = self.facts.salt
        return DiskFileManager(
            config, policy, salt, NULL_LOG, NO_METRICS, fs=HastyDisk()
        )

    def _places(self, node: int, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """(number, partition) of the objects that have a replica on a node."""
        ring = self.facts.object_ring(0)
        for number in range(start, stop):
            partition = ring.partition(self.facts.salt.digest_of(self.name(number)))
            if any(each.name == f"d{node}" for each in ring.primaries(partition)):
                yield number, partition

    def _name_device(self, node: int, start: int, stop: int) -> None:
        root = self.cluster.device(node)
        for number, partition in self._places(node, start, stop):
            path_hash = self.facts.salt.digest_of(self.name(number)).hex()
            directory = root / hash_directory("objects", partition, path_hash)
            directory.mkdir(parents=True)
            (directory / f"{Timestamp.at(BASE_S + number).internal}.data").touch()

    def _write_device(self, node: int, start: int, stop: int) -> None:
        manager = self._manager(node)
        for number, partition in self._places(node, start, stop):
            name = self.name(number)
            body = f"{name.obj}\n".encode() * (BODY_BYTES // 9 + 1)
            disk = manager.diskfile(f"d{node}", partition, name)
            with disk.writer(BODY_BYTES) as writer:
                writer.write(body[:BODY_BYTES])
                record = Headers({h.CONTENT_TYPE: "application/octet-stream"})
                writer.commit(record, Timestamp.at(BASE_S + number))

    def write_pendings(self, node: int, count: int) -> None:
        """Leave updates of new objects for the container."""
        green.spawn(self._write_pendings, node, count).wait()
        os.sync()

    def _write_pendings(self, node: int, count: int) -> None:
        manager = self._manager(node)
        for number in range(count):
            headers = Headers(
                {
                    h.X_SIZE: str(BODY_BYTES),
                    h.X_ETAG: "d41d8cd98f00b204e9800998ecf8427e",
                    h.X_CONTENT_TYPE: "text/plain",
                    h.X_TIMESTAMP: Timestamp.at(BASE_S + number).internal,
                    h.X_BACKEND_STORAGE_POLICY_INDEX: "0",
                }
            )
            manager.pending.save(f"d{node}", "PUT", self.name(number), headers)

    def objects_on(self, node: int) -> int:
        """How many object directories a device has."""
        tree = str(self.cluster.device(node) / "objects")
        found = subprocess.run(
            ["find", tree, "-name", "*.data", "-printf", "x"],
            capture_output=True,
            check=False,
        )
        return len(found.stdout)

    # --- measuring --------------------------------------------------------------------

    def _server_pids(self) -> list[int]:
        return [
            pid
            for name, pid in self.cluster.pids().items()
            if name.startswith(("object-", "container-"))
        ]

    @contextmanager
    def measured(
        self, work: str, what: str, n: int, *, size_bytes: int = 0, servers: bool
    ) -> Iterator[None]:
        """Take the time of what is done inside and print it."""
        servers_before = cpu_seconds(self._server_pids()) if servers else 0.0
        self._peak_mb = 0.0
        before, started = _children_cpu(), time.monotonic()
        yield
        wall = time.monotonic() - started
        used = _children_cpu() - before
        if servers:
            used += cpu_seconds(self._server_pids()) - servers_before
        row = Row(work, what, n, wall, used, size_bytes, self._peak_mb)
        self.rows.append(row)
        print(line_of(row), flush=True)

    def daemons(self, name: str, nodes: Sequence[int], **options: object) -> None:
        """Run one pass of a daemon's command on some nodes at once."""
        running = []
        for node in nodes:
            source = configparser.ConfigParser(interpolation=None)
            etc = self.cluster.folder / "etc"
            source.read(etc / "object-server" / f"{node}.conf")
            conf = configparser.ConfigParser(interpolation=None)
            conf["DEFAULT"] = dict(source["DEFAULT"])
            conf[name] = {"log_name": name, **{k: str(v) for k, v in options.items()}}
            path = self.folder / f"{name}-{node}.conf"
            with path.open("w") as stream:
                conf.write(stream)
            log = (self.folder / f"{name}-{node}.log").open("ab")
            running.append(self._command(name, str(path), "--once", "-v", stderr=log))
        for process in running:
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            assert process.returncode == 0, f"{name}; see {self.folder}"
            self._peak_mb = max(self._peak_mb, usage.ru_maxrss / 1024)

    def _command(
        self, name: str, *arguments: str, **streams: Any
    ) -> subprocess.Popen[bytes]:
        """Start a daemon's command; its modules are compiled, as when installed."""
        env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONPYCACHEPREFIX": str(self.folder / "pycache"),
        }
        env.pop("PYTHONDONTWRITEBYTECODE", None)
        command = str(ROOT / "bin" / f"swift-{name}")
        return subprocess.Popen(
            [sys.executable, command, *arguments], **streams, env=env
        )

    # --- the parts --------------------------------------------------------------------

    def heal(self, on_device: int) -> None:
        """Empty a device of about `on_device` objects, and have it filled again."""
        self.write_objects(on_device * len(NODES) // REPLICAS)
        node = NODES[0]
        tree = self.cluster.device(node) / "objects"
        aside = tree.with_name("aside")
        others = NODES[1:]
        count = self.objects_on(node)
        size = count * BODY_BYTES
        replicate = "object-replicator"
        self.daemons(replicate, NODES, sync_method="ssync")
        tree.rename(aside)
        target = self.folder / "copy"
        with self.measured("rsync -a", "files", count, size_bytes=size, servers=False):
            subprocess.run(["rsync", "-a", f"{aside}/", f"{target}/"], check=True)
        shutil.rmtree(target)
        module = f"rsync://127.0.0.1:{self._rsync_port}/object{{zone}}"
        for method in ("ssync", "rsync"):
            with self.measured(
                f"heal by {method}", "objects", count, size_bytes=size, servers=True
            ):
                self.daemons(replicate, others, sync_method=method, rsync_module=module)
            healed = self.objects_on(node)
            assert healed == count, f"{healed} of {count} objects are back"
            shutil.rmtree(tree)
        aside.rename(tree)

    def audit(self) -> None:
        """Read every object of one device."""
        node = NODES[0]
        count = self.objects_on(node)
        size = count * BODY_BYTES
        tree = self.cluster.device(node) / "objects"
        with self.measured("md5sum", "files", count, size_bytes=size, servers=False):
            subprocess.run(
                f"find {tree} -name '*.data' -print0 | xargs -0 md5sum > /dev/null",
                shell=True,
                check=True,
            )
        with self.measured("audit", "objects", count, size_bytes=size, servers=False):
            self.daemons(
                "object-auditor", [node], files_per_second=0, bytes_per_second=0,
                zero_byte_files_per_second=0,
            )  # fmt: skip

    def deliver(self, count: int) -> None:
        """Deliver updates that wait on one device."""
        node = NODES[0]
        self.write_pendings(node, count)
        tree = self.cluster.device(node) / "async_pending"
        with self.measured("find", "pending files", count, servers=False):
            find(tree)
        with self.measured("deliver", "updates", count, servers=True):
            self.daemons("object-updater", [node], objects_per_second=0)
        left = [path for path in tree.rglob("*") if path.is_file()]
        assert not left, f"{len(left)} updates are left"
        for listed in self._listing_counts():
            assert listed == count, f"a listing has {listed} rows of {count}"

    def _listing_counts(self) -> list[int]:
        name = ContainerName(self.account, CONTAINER)
        ring = self.facts.container_ring()
        partition = ring.partition(self.facts.salt.digest_of(name))
        counts = []
        for node in ring.primaries(partition):
            peer = http.client.HTTPConnection(node.ip, node.port, timeout=10)
            peer.request("HEAD", f"/{node.name}/{partition}{name.quoted}")
            answer = peer.getresponse()
            counts.append(int(answer.headers[h.X_CONTAINER_OBJECT_COUNT]))
            peer.close()
        return counts

    def clean_pass(self, count: int) -> None:
        """A pass of all nodes over objects of which every replica is in sync."""
        self.write_names(max(count, self._written))
        count = self._written
        options = {"sync_method": "ssync"}
        with self.measured("first pass", "objects", count, servers=True):
            self.daemons("object-replicator", NODES, **options)
        trees = [self.cluster.device(node) / "objects" for node in NODES]
        find(*trees)
        with self.measured("find", "objects", count, servers=False):
            find(*trees)
        with self.measured("clean pass", "objects", count, servers=True):
            self.daemons("object-replicator", NODES, **options)


def find(*trees: Path) -> None:
    """List every file, as cheaply as it goes."""
    with open(os.devnull, "wb") as null:
        subprocess.run(["find", *map(str, trees)], stdout=null, check=True)


def _children_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def line_of(row: Row) -> str:
    """A row of a table in Markdown."""
    rate = row.size_bytes / row.wall_s / 1e6
    return (
        f"| {row.work} | {row.n:,} {row.what} | {row.wall_s:.2f} | {row.cpu_s:.2f} "
        f"| {row.n / row.wall_s:,.0f} | {row.n / row.cpu_s:,.0f} "
        f"| {f'{rate:.1f}' if rate else ''} "
        f"| {f'{row.peak_mb:.0f}' if row.peak_mb else ''} |"
    )


HEAD = """\
| work | of | wall s | CPU s | per s | per CPU s | MB/s | peak MB |
|---|---|---:|---:|---:|---:|---:|---:|"""

RATIOS = (
    ("clean pass", "find", "cpu_s"),
    ("heal by ssync", "rsync -a", "wall_s"),
    ("heal by rsync", "rsync -a", "wall_s"),
    ("audit", "md5sum", "cpu_s"),
)


def ratios(rows: Sequence[Row]) -> Iterator[str]:
    """Sentences that compare a pass with the plain tool beside it."""
    for work, beside, field in RATIOS:
        for at, row in enumerate(rows):
            if row.work == work:
                other = [each for each in rows[:at] if each.work == beside][-1]
                times = getattr(row, field) / getattr(other, field)
                unit = "CPU" if field == "cpu_s" else "wall"
                yield f"{work}: {times:.2f} × the {unit} time of {beside}"


def main() -> int:
    """Run all parts."""
    parser = argparse.ArgumentParser(prog="make bench-replication", description=__doc__)
    parser.add_argument("--objects", type=int, default=200_000, help="in sync")
    parser.add_argument("--lost", type=int, default=20_000, help="on the wiped device")
    parser.add_argument("--pendings", type=int, default=5_000, help="updates waiting")
    parser.add_argument("--keep", help="work in this folder and keep it")
    parser.add_argument("--json", help="also write the rows to this file")
    parser.add_argument(
        "--only", choices=["heal", "audit", "deliver", "clean"], action="append"
    )
    arguments = parser.parse_args()
    folder = Path(arguments.keep or tempfile.mkdtemp(prefix="swift-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(folder)
    parts = {
        "heal": lambda: bench.heal(arguments.lost),
        "audit": bench.audit,
        "deliver": lambda: bench.deliver(arguments.pendings),
        "clean": lambda: bench.clean_pass(arguments.objects),
    }
    print(f"{machine()}\n{HEAD}", flush=True)
    try:
        bench.start()
        for name, part in parts.items():
            if not arguments.only or name in arguments.only:
                part()
    finally:
        bench.stop()
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print("\n".join(ratios(bench.rows)))
    if arguments.json:
        report = {"machine": machine(), "rows": [asdict(row) for row in bench.rows]}
        Path(arguments.json).write_text(json.dumps(report, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
