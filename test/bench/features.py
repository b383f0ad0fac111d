# SPDX-License-Identifier: Apache-2.0
"""python -m test.bench.features: what the filters of a full pipeline cost and reach.

- proxy CPU of a plain 4 KiB GET through the full pipeline and through a minimal one, in
  turn on the same cluster;
- the rate of a static large object of 200 segments beside a plain object of its size;
- deletes a second of one bulk delete, and how many are in flight;
- files a second of a tar.gz extraction beside the same files PUT in parallel.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

from test.bench.run import Load, call, compiled, cpu_seconds, fill, machine
from test.support.client import Client
from test.support.cluster import ROOT, Cluster, wait_until
from test.support.ports import free_port

MINIMAL = "catch_errors gatekeeper cache tempauth proxy-logging proxy-server"
ROUNDS = 5
SEGMENTS = 200


class Proxy:
    """A further proxy of the cluster, with a pipeline of its own."""

    def __init__(self, cluster: Cluster, pipeline: str, folder: Path) -> None:
        self.port = free_port()
        text = (cluster.folder / "etc" / "proxy-server.conf").read_text()
        text = re.sub(r"bind_port = \d+", f"bind_port = {self.port}", text)
        text = re.sub(
            r"pipeline = (.*\\\n)*.*\n", f"pipeline = {pipeline}\n", text, count=1
        )
        conf = folder / f"proxy-{self.port}.conf"
        conf.write_text(text)
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "bin" / "swift-proxy-server"), str(conf)],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        wait_until(self._listens, 20, "a further proxy")

    def _listens(self) -> bool:
        client = Client("127.0.0.1", self.port, "", None)
        try:
            return client.get("/info").status in (200, 404)
        except OSError:
            return False

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(10)


def full_pipeline(cluster: Cluster) -> str:
    """The pipeline that saio writes, on one line."""
    text = (cluster.folder / "etc" / "proxy-server.conf").read_text()
    match = re.search(r"^pipeline = ((?:.*\\\n)*.*)$", text, re.MULTILINE)
    assert match, "saio writes a pipeline"
    return " ".join(match[1].replace("\\\n", " ").split())


def pipeline_cost(cluster: Cluster, folder: Path, seconds: float) -> None:
    """Proxy CPU per GET: full and minimal, in turn; the ratio is what counts."""
    program = compiled(folder)
    url, token = cluster.token()
    base = urlsplit(url).path + "/bench"
    call(url + "/bench", "PUT", token)
    fill(url + "/bench", token, 256)
    proxies = {
        "minimal": Proxy(cluster, MINIMAL, folder),
        "full": Proxy(cluster, full_pipeline(cluster), folder),
    }
    found: dict[str, list[float]] = {name: [] for name in proxies}
    try:
        for _ in range(ROUNDS):
            for name, proxy in proxies.items():
                before = cpu_seconds([proxy.process.pid])
                load = Load("GET", f"{base}/o%d", token, 256)
                got = load.run(program, proxy.port, 16, seconds)
                assert not got["errors"], got
                used = cpu_seconds([proxy.process.pid]) - before
                found[name].append(1e3 * used / got["requests"])
    finally:
        for proxy in proxies.values():
            proxy.stop()
    medians = {name: statistics.median(values) for name, values in found.items()}
    ratios = [
        full / less for full, less in zip(found["full"], found["minimal"], strict=True)
    ]
    print(
        f"GET 4 KiB, proxy CPU: minimal {medians['minimal']:.3f} ms, full "
        f"{medians['full']:.3f} ms, ratio {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f})"
    )


def slo_rate(cluster: Cluster, folder: Path, mib: int) -> None:
    """MB/s of an SLO of 200 segments, and of a plain object of the same bytes."""
    url, token = cluster.token()
    client = _client(cluster)
    path = urlsplit(url).path
    call(url + "/slo", "PUT", token)
    size = mib * 1024 * 1024
    source = folder / "plain"
    with source.open("wb") as out:
        for _ in range(mib):
            out.write(os.urandom(1024 * 1024))
    segment = size // SEGMENTS
    manifest = []
    with source.open("rb") as data:
        for number in range(SEGMENTS):
            got = client.put(f"{path}/slo/s{number:03}", data.read(segment))
            assert got.status == 201
            manifest.append({"path": f"/slo/s{number:03}"})
    body = json.dumps(manifest)
    got = client.put(f"{path}/slo/large?multipart-manifest=put", body)
    assert got.status == 201, got.body
    subprocess.run(
        ["curl", "-sf", "-T", source, "-H", f"X-Auth-Token: {token}",
         f"{url}/slo/plain"], check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    rates: dict[str, list[float]] = {"plain": [], "large": []}
    for _ in range(ROUNDS):
        for name, into in rates.items():
            began = time.monotonic()
            subprocess.run(
                ["curl", "-sf", "-o", "/dev/null", "-H", f"X-Auth-Token: {token}",
                 f"{url}/slo/{name}"], check=True,
            )  # fmt: skip
            into.append(segment * SEGMENTS / 1e6 / (time.monotonic() - began))
    ratios = [a / b for a, b in zip(rates["large"], rates["plain"], strict=True)]
    pid = cluster.pids()["proxy"]
    status = Path(f"/proc/{pid}/status").read_text()
    peak = re.search(r"VmHWM:\s+(\d+)", status)
    print(
        f"SLO of {mib} MiB in {SEGMENTS} segments: "
        f"{statistics.median(rates['large']):.0f} MB/s, plain "
        f"{statistics.median(rates['plain']):.0f} MB/s, ratio "
        f"{statistics.median(ratios):.3f}; peak memory of the proxy "
        f"{int(peak[1]) // 1024 if peak else 0} MB"
    )


def _client(cluster: Cluster) -> Client:
    auth = f"{cluster.endpoint}/auth/v1.0"
    return Client.authenticated(auth, cluster.user, cluster.key)


def bulk(cluster: Cluster, count: int) -> None:
    """Bulk delete of `count` objects; extraction of 1,000 files beside PUTs of them."""
    client = _client(cluster)
    container = f"{client.base}/bulk"
    client.put(container)
    files = {f"f{number:05}": os.urandom(1000) for number in range(1000)}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    began = time.monotonic()
    report = client.put(
        f"{container}?extract-archive=tar.gz",
        packed.getvalue(),
        {"Accept": "application/json"},
    ).json()
    extract_s = time.monotonic() - began
    assert report["Number Files Created"] == len(files), report
    began = time.monotonic()
    _in_parallel(
        [(f"{container}/{name}", data) for name, data in files.items()], client, 8
    )
    put_s = time.monotonic() - began
    print(
        f"tar.gz of 1,000 files: {1000 / extract_s:.0f} files/s; PUT by 8 connections "
        f"{1000 / put_s:.0f}/s, ratio {put_s / extract_s:.2f}"
    )
    _in_parallel(
        [(f"{container}/d{number:05}", b"x") for number in range(count - 1000)],
        client,
        8,
    )
    names = [*files, *(f"d{number:05}" for number in range(count - 1000))]
    body = "\n".join(f"/bulk/{name}" for name in names)
    began = time.monotonic()
    report = client.post(
        f"{client.base}?bulk-delete",
        {"Content-Type": "text/plain", "Accept": "application/json"},
        body,
    ).json()
    delete_s = time.monotonic() - began
    assert report["Number Deleted"] == count, report
    print(f"bulk delete of {count} objects: {count / delete_s:.0f} deletes/s")


def _in_parallel(puts: list[tuple[str, bytes]], client: Client, workers: int) -> None:
    def work(share: list[tuple[str, bytes]]) -> None:
        for path, data in share:
            assert client.put(path, data).status == 201

    threads = [
        threading.Thread(target=work, args=(puts[n::workers],)) for n in range(workers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> int:
    """Run the parts asked for; all of them by default."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each GET run")
    parser.add_argument("--mib", type=int, default=1024, help="of the large object")
    parser.add_argument("--deletes", type=int, default=10_000)
    parser.add_argument("--only", choices=["pipeline", "slo", "bulk"], action="append")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="swift-bench-"))
    cluster = Cluster(folder / "saio", "--no-daemons")
    print(machine())
    parts = {
        "pipeline": lambda: pipeline_cost(cluster, folder, arguments.seconds),
        "slo": lambda: slo_rate(cluster, folder, arguments.mib),
        "bulk": lambda: bulk(cluster, arguments.deletes),
    }
    try:
        cluster.start()
        for name, part in parts.items():
            if not arguments.only or name in arguments.only:
                part()
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
