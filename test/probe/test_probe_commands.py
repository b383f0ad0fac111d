# SPDX-License-Identifier: Apache-2.0
"""Operators' commands on a real cluster: what they print, and what they do."""

from __future__ import annotations

import io
import json
import re
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from swift.cli import (
    auditing,
    dispersion_populate,
    dispersion_report,
    info,
    init,
    processes,
    recon,
    relink,
    ring_builder,
)
from test.support.client import Client
from test.support.cluster import ROOT, Cluster, find, wait_until


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("commands"))
    made.start()
    yield made
    made.stop()


def lines_of(capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What was printed, without progress."""
    text = capsys.readouterr().out
    return [line.rpartition("\x1b[K")[2] for line in text.rstrip("\n").split("\n")]


# --- Dispersion -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def dispersion_conf(cluster: Cluster) -> str:
    path = cluster.folder / "etc" / "dispersion.conf"
    path.write_text(
        "[dispersion]\n"
        f"auth_url = {cluster.endpoint}/auth/v1.0\n"
        f"auth_user = {cluster.user}\n"
        f"auth_key = {cluster.key}\n"
        f"swift_dir = {cluster.folder}/etc\n"
        "retries = 0\n"
    )
    return str(path)


def test_copies_are_spread_found_and_missed(cluster, dispersion_conf, capsys):
    assert dispersion_report.report([dispersion_conf]) == 0
    assert "swift-dispersion-populate" in capsys.readouterr().err

    assert dispersion_populate.populate([dispersion_conf]) == 0
    made = [re.sub(r"\d+s,", "0s,", line) for line in lines_of(capsys)]
    assert made == [
        "Using storage policy: replica ",
        "Created 10 containers for dispersion reporting, 0s, 0 retries",
        "Created 10 objects for dispersion reporting, 0s, 0 retries",
    ]

    assert dispersion_report.report([dispersion_conf]) == 0
    found = [re.sub(r"\d+s,", "0s,", line) for line in lines_of(capsys)]
    assert found == [
        "Using storage policy: replica ",
        "Queried 10 containers for dispersion reporting, 0s, 0 retries",
        "100.00% of container copies found (30 of 30)",
        "Sample represents 0.98% of the container partition space",
        "Queried 10 objects for dispersion reporting, 0s, 0 retries",
        "There were 10 partitions missing 0 copies.",
        "100.00% of object copies found (30 of 30)",
        "Sample represents 0.98% of the object partition space",
    ]

    lost = next(path for path in cluster.object_files() if path.suffix == ".data")
    lost.unlink()
    assert (
        dispersion_report.report([dispersion_conf, "-j", "--object-only", "-p", "-d"])
        == 0
    )
    shown = capsys.readouterr()
    assert json.loads(shown.out) == {
        "object": {
            "retries": 0,
            "overlapping": 0,
            "pct_found": pytest.approx(96.67, abs=0.01),
            "copies_found": 29,
            "copies_expected": 30,
            "missing_0": 9,
            "missing_1": 1,
        }
    }
    assert re.search(r"# Object partition \d+ missing 1 copy\n", shown.err)
    assert "404" in shown.err

    assert (
        dispersion_populate.populate(
            [dispersion_conf, "--no-overlap", "--container-only"]
        )
        == 0
    )
    assert lines_of(capsys)[-1] == "Total container coverage is now 1.95%."


# --- Account audit --------------------------------------------------------------------


def test_an_audit_finds_what_replicas_lack(cluster, capsys, monkeypatch, tmp_path):
    client = Client.authenticated(
        f"{cluster.endpoint}/auth/v1.0", cluster.user, cluster.key
    )
    assert client.put(f"{client.base}/audited").status == 201
    for number in range(3):
        path = f"{client.base}/audited/object-{number}"
        assert client.put(path, b"body").status == 201
    monkeypatch.setattr("sys.stdin", io.StringIO())
    swift_dir = f"{cluster.folder}/etc"
    errors = tmp_path / "errors"
    words = ["-r", swift_dir, "-e", str(errors), "AUTH_test/audited"]

    assert auditing.account_audit(words) == 0
    assert capsys.readouterr().out.splitlines() == [
        'Auditing container "audited"',
        "",
        "  Accounts checked: 0",
        "",
        "Containers checked: 1",
        "",
        "   Objects checked: 3",
        "",
    ]

    body = next(
        path
        for path in cluster.object_files()
        if path.suffix == ".data" and path.read_bytes() == b"body"
    )
    kept = body.with_name("kept")
    body.rename(kept)
    try:
        assert auditing.account_audit([*words, "-d"]) == 0
    finally:
        kept.rename(body)
    lines = capsys.readouterr().out.splitlines()
    problem = next(line for line in lines if line.startswith("  Missing Replicas: "))
    assert " status 404 on 127.0.0.1:" in problem
    assert lines[-3:] == ["   Objects checked: 3", "  Missing Replicas: 1", ""]
    assert errors.read_text().startswith("/AUTH_test/audited/object-")

    monkeypatch.setattr("sys.stdin", io.StringIO("AUTH_test\n"))
    assert auditing.account_audit(["-r", swift_dir]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == 'Auditing account "AUTH_test"'
    assert "  Accounts checked: 1" in lines


# --- Inspection -----------------------------------------------------------------------


def test_recon_asks_the_nodes(cluster, capsys):
    swift_dir = ["--swiftdir", f"{cluster.folder}/etc"]
    assert recon.main(["object", "container", "--all", *swift_dir]) == 0
    text = capsys.readouterr().out
    assert "--> Starting reconnaissance on 4 hosts (object)" in text
    assert "--> Starting reconnaissance on 4 hosts (container)" in text
    assert text.count("4/4 hosts matched, 0 error[s] while checking hosts.") >= 4
    assert text.count("4/4 hosts ok, 0 error[s] while checking hosts.") == 2
    assert "Versions matched (" in text
    assert "-> http" not in text


def test_files_of_the_cluster_are_explained(cluster, capsys):
    swift_dir = ["-d", f"{cluster.folder}/etc"]
    body = next(
        path
        for path in cluster.object_files()
        if path.suffix == ".data" and path.stat().st_size
    )
    assert info.object_info([str(body), *swift_dir]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Path: /AUTH_test/")
    assert any(line.endswith("(valid)") for line in lines)
    assert any(str(body.parent.name) in line for line in lines if "ssh " in line)
    for kind, main in (
        ("account", info.account_info),
        ("container", info.container_info),
    ):
        database = find(cluster.folder, f"srv/*/*/{kind}s/*/*/*/*.db")[0]
        assert main([str(database), "-s", *swift_dir]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("Path: /")
        assert "Outgoing Syncs:" in lines


# --- Part power -----------------------------------------------------------------------


def relink_all(cluster: Cluster, step: str) -> list[int]:
    """Run the relinker on every node; the exit codes."""
    return [
        relink.main(
            [
                step,
                "--swift-dir", f"{cluster.folder}/etc",
                "--devices", f"{cluster.folder}/srv/{node}",
                "--skip-mount-check", "--workers", "0",
                "--logfile", f"{cluster.folder}/log/relinker.log",
            ]
        )
        for node in range(1, 5)
    ]  # fmt: skip


def change_ring(cluster: Cluster, command: str) -> None:
    """Change the object ring, and have the proxy see it."""
    builder = str(cluster.folder / "etc" / "object.builder")
    assert ring_builder.main([builder, command]) == 0
    assert ring_builder.main([builder, "write_ring"]) == 0
    # Faster than to wait until it has looked at the file again by itself.
    cluster.kill("proxy")
    cluster.restart("proxy")


def power_client(cluster: Cluster) -> Client:
    """A client whose paths are below the container of the test."""
    found = Client.authenticated(
        f"{cluster.endpoint}/auth/v1.0", cluster.user, cluster.key
    )
    found.base += "/power"
    assert found.put(found.base).status in (201, 202)
    return found


class Load(threading.Thread):
    """Writes, overwrites and deletes objects until told to stop."""

    def __init__(self, client: Client) -> None:
        super().__init__()
        self._client = client
        self._stopping = threading.Event()
        self.bodies: dict[str, bytes | None] = {}

    def run(self) -> None:
        count = 0
        while not self._stopping.is_set():
            count += 1
            name = f"load-{count % 40}"
            path = f"{self._client.base}/{name}"
            if count % 5 == 0:
                if self._client.delete(path).status in (204, 404):
                    self.bodies[name] = None
                continue
            body = f"{name} {count}".encode()
            if self._client.put(path, body).status == 201:
                self.bodies[name] = body

    def stop(self) -> None:
        self._stopping.set()
        self.join(30)


def test_the_part_power_grows_while_the_cluster_serves(cluster):
    client = power_client(cluster)
    for number in range(30):
        assert client.put(f"{client.base}/old-{number}", b"old").status == 201

    change_ring(cluster, "prepare_increase_partition_power")
    load = Load(power_client(cluster))
    load.start()
    assert relink_all(cluster, "relink") == [0] * 4
    wait_until(lambda: len(load.bodies) > 10, 20, "some writes")
    load.stop()
    expected = dict(load.bodies)

    change_ring(cluster, "increase_partition_power")
    load = Load(power_client(cluster))
    load.start()
    assert relink_all(cluster, "cleanup") == [0] * 4
    wait_until(lambda: len(load.bodies) > 10, 20, "some writes")
    load.stop()
    expected.update(load.bodies)
    change_ring(cluster, "finish_increase_partition_power")

    client = power_client(cluster)
    for number in range(30):
        assert client.get(f"{client.base}/old-{number}").body == b"old"
    for name, body in expected.items():
        answer = client.get(f"{client.base}/{name}")
        assert (answer.body if body else answer.status) == (body or 404), name
    # One name a file: nothing is left at the old places.
    files = [path for path in cluster.object_files() if path.suffix == ".data"]
    assert {path.stat().st_nlink for path in files} == {1}
    for path in files:
        path_hash, partition = path.parent.name, path.parts[-4]
        assert int(path_hash[:8], 16) >> (32 - 11) == int(partition)


# --- Processes ------------------------------------------------------------------------


def test_servers_are_started_reloaded_and_stopped(
    cluster, capsys, monkeypatch, tmp_path
):
    monkeypatch.setenv(
        "PATH", f"{ROOT}/bin:{Path(sys.executable).parent}:/usr/bin:/bin"
    )
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    dirs = ["--swift-dir", f"{cluster.folder}/etc", "-r", str(tmp_path)]
    cluster.kill("account-1")
    cluster.kill("account-2")
    conf = f"{cluster.folder}/etc/account-server/1.conf"
    # A server that serves in its main process has nobody to hand its port over to.
    text = Path(conf).read_text().replace("workers = 0", "workers = 1")
    Path(conf).write_text(text)

    def said() -> list[str]:
        lines = capsys.readouterr().out.splitlines()
        return [line for line in lines if not line.startswith("WARNING: Unable")]

    assert init.main(["account.1", "start", *dirs]) == 0
    assert said() == [f"Starting account-server...({conf})"]
    pid = int((tmp_path / "account-server" / "1.pid").read_text())
    try:
        assert init.main(["account.1", "status", *dirs]) == 0
        assert said() == [f"account-server running ({pid} - {conf})"]
        assert asks(cluster, "account-1") == 200

        assert processes.reload(["-v", "-t", "30", str(pid)]) == 0
        assert said() == [
            "Checking config for swift-account-server",
            "Sending USR1 signal",
            "Process is RELOADING",
            "Process is READY",
            "Reloaded swift-account-server",
        ]
        assert asks(cluster, "account-1") == 200
        # A configuration that does not parse is refused, and the server goes on.
        Path(conf).write_text(text.replace("workers = 1", "workers = many"))
        assert processes.reload([str(pid)]) == 1
        Path(conf).write_text(text)
        assert asks(cluster, "account-1") == 200

        assert init.main(["account.1", "reload-seamless", *dirs]) == 0
        wait_until(lambda: asks(cluster, "account-1") == 200, 20, "the new server")
        assert init.main(["account.1", "restart", *dirs]) == 0
        assert asks(cluster, "account-1") == 200
        assert init.main(["account-auditor.1", "once", *dirs]) == 0
    finally:
        capsys.readouterr()
        assert init.main(["account.1", "shutdown", *dirs]) == 0
    assert init.main(["account.1", "status", *dirs]) == 1
    cluster.restart("account-1")
    cluster.restart("account-2")


def asks(cluster: Cluster, name: str) -> int:
    """The status of a server's healthcheck."""
    url = f"http://127.0.0.1:{cluster.port_of(name)}/healthcheck"
    with urllib.request.urlopen(url, timeout=60) as answer:
        return int(answer.status)
