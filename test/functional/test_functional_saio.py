# SPDX-License-Identifier: Apache-2.0
"""swift-saio: made by one command, kept between starts, clear when it cannot run."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from test.support.client import Client
from test.support.cluster import (
    ROOT,
    STORAGE_PORTS,
    Cluster,
    alive,
    free_port,
    wait_until,
)

MEMORY_MAX_MB = 400


def saio(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    command = [sys.executable, ROOT / "bin" / "swift-saio", *arguments]
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def memory_mb(pids):
    """Proportional set size: pages that processes share are counted once."""
    total = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    started = Cluster(tmp_path_factory.mktemp("own"))
    started.start()
    yield started
    started.stop()


def test_the_whole_cluster_is_small_and_says_how_to_use_it(own):
    text = own.output()
    assert own.endpoint in text
    assert f"X-Auth-Key: {own.key}" in text
    for client in ("curl", "swift upload", "rclone copy"):
        assert client in text
    pids = list(own.pids().values())
    assert len(pids) == 17
    assert memory_mb(pids) < MEMORY_MAX_MB


def test_data_and_key_outlive_a_restart_and_the_key_is_shown_once(own):
    user = Client.authenticated(f"{own.endpoint}/auth/v1.0", own.user, own.key)
    assert user.put(f"{user.base}/kept").status == 201
    assert user.put(f"{user.base}/kept/o", b"data").status == 201
    pids = list(own.pids().values())
    shown = len(own.output())
    own.stop()
    assert not [pid for pid in pids if alive(pid)]

    own.start()

    again = Client.authenticated(f"{own.endpoint}/auth/v1.0", own.user, own.key)
    assert again.get(f"{again.base}/kept/o").body == b"data"
    assert own.key not in own.output()[shown:]


def test_a_server_that_dies_is_started_again(tmp_path):
    log = (tmp_path / "out").open("wb")
    port = free_port()
    folder = tmp_path / "saio"
    running = subprocess.Popen(
        [
            sys.executable,
            str(ROOT / "bin" / "swift-saio"),
            *("--port", str(port), "--storage-port", str(free_port(STORAGE_PORTS))),
            str(folder),
        ],
        stdout=log,
        stderr=log,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        out = tmp_path / "out"
        wait_until(lambda: b"Swift is running" in out.read_bytes(), 30, "start")
        pid_file = folder / "run" / "object-2.pid"
        first = int(pid_file.read_text())
        os.kill(first, signal.SIGKILL)
        wait_until(
            lambda: pid_file.exists() and int(pid_file.read_text() or first) != first,
            30,
            "a new object server",
        )
        assert b"object-2 died" in out.read_bytes()
    finally:
        running.send_signal(signal.SIGINT)
        assert running.wait(60) == 0
        log.close()


def test_a_taken_port_is_refused_by_number(tmp_path):
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        done = saio("--port", port, tmp_path / "saio")
    assert done.returncode == 1
    assert f"port {port}" in done.stderr
    assert "taken" in done.stderr


def test_a_folder_that_cannot_be_written_is_refused():
    done = saio("/proc/swift-saio")
    assert done.returncode == 1
    assert "cannot write in /proc/swift-saio" in done.stderr


def test_a_file_system_without_attributes_is_refused(tmp_path):
    # /proc/self/fdinfo and the like cannot be written; ramfs has no user attributes.
    made = subprocess.run(
        ["mount", "-t", "ramfs", "none", str(tmp_path)],
        capture_output=True,
        check=False,
    )
    if made.returncode:
        pytest.skip("ramfs cannot be mounted here (not root, or no mounts allowed)")
    try:
        done = saio(tmp_path / "saio")
        if done.returncode == 0:
            pytest.skip("this kernel's ramfs has user attributes")
        assert "extended attributes" in done.stderr
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_files_can_be_made_without_starting(tmp_path):
    done = saio("--create-only", "--storage-port", free_port(), tmp_path / "saio")
    assert done.returncode == 0
    assert (tmp_path / "saio" / "etc" / "object.ring.gz").exists()
    mode = (tmp_path / "saio" / "etc" / "proxy-server.conf").stat().st_mode
    assert mode & 0o077 == 0
