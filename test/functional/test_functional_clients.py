# SPDX-License-Identifier: Apache-2.0
"""Stock clients store, list, fetch and delete a real tree, while a server dies."""

from __future__ import annotations

import filecmp
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from test.support.client import Client
from test.support.cluster import Cluster, wait_until


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, policies):
    """A cluster of this module's own, for its servers are killed."""
    if os.environ.get("SWIFT_TEST_CONFIG_FILE"):
        yield None
        return
    started = Cluster(tmp_path_factory.mktemp("clients"), *policies)
    started.start()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def account(cluster, named_account):
    """(auth URL, user, key)."""
    if cluster is None:
        return named_account
    return f"{cluster.endpoint}/auth/v1.0", cluster.user, cluster.key


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A tree of files: small, large, empty, deep, with odd names."""
    root = tmp_path_factory.mktemp("files") / "tree"
    rng = random.Random(7)
    sizes = [0, 1, 4096, 65536, 70_001, 5_000_000]
    for number in range(60):
        folder = root / f"d{number % 5}" / f"sub {number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        data = rng.randbytes(sizes[number % len(sizes)])
        (folder / f"file-{number} é.bin").write_bytes(data)
    return root


def run(command, env=None, cwd=None):
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **(env or {})},
        cwd=cwd, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def same(one: Path, other: Path) -> None:
    """Assert that two trees hold the same files byte for byte."""
    left = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    right = sorted(
        path.relative_to(other) for path in other.rglob("*") if path.is_file()
    )
    assert left == right
    for path in left:
        assert filecmp.cmp(one / path, other / path, shallow=False), path


def needed(tool):
    if not shutil.which(tool):
        pytest.skip(f"{tool} is not installed (apt-get install {tool})")


class Killer:
    """Kills a storage server once the work has begun and starts it again."""

    def __init__(self, cluster, victim):
        self._cluster, self._victim = cluster, victim
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self):
        size = len(self._cluster.object_files())
        wait_until(
            lambda: (
                self._started.is_set() or len(self._cluster.object_files()) > size + 20
            ),
            60,
            "some uploads",
        )
        self._cluster.kill(self._victim)

    def __enter__(self):
        if self._cluster is not None:
            self._thread.start()
        return self

    def __exit__(self, *_):
        if self._cluster is not None:
            self._started.set()
            self._thread.join()
            self._cluster.restart(self._victim)


def settled(cluster, account, container):
    """Wait until every replica of the container lists every object.

    A replica that was away, or whose object server died before it could tell it of a
    row, hears of it from the daemons.
    """
    if cluster is None:
        return
    client = Client.authenticated(*account)
    path = f"{client.base}/{container}?format=json"

    def all_agree():
        answers = [client.get(path) for _ in range(12)]
        return {answer.status for answer in answers} == {200} and (
            len({answer.body for answer in answers}) == 1
        )

    wait_until(all_agree, 60, f"one listing of {container} from all replicas")


def test_swift_client(cluster, account, files, tmp_path):
    auth, user, key = account
    swift = [Path(sys.executable).with_name("swift"), "-A", auth, "-U", user, "-K", key]
    with Killer(cluster, "object-1"):
        run([*swift, "upload", "swift-client", "."], cwd=files)
        run([*swift, "download", "swift-client", "-D", tmp_path / "live"])
    same(files, tmp_path / "live")
    settled(cluster, account, "swift-client")
    listed = run([*swift, "list", "swift-client"]).splitlines()
    assert len([name for name in listed if name.endswith(".bin")]) == 60
    assert "Account" in run([*swift, "stat"])
    run([*swift, "post", "-m", "Colour:red", "swift-client"])
    assert "Meta Colour: red" in run([*swift, "stat", "swift-client"])
    run([*swift, "download", "swift-client", "-D", tmp_path / "back"])
    same(files, tmp_path / "back")
    run([*swift, "delete", "swift-client"])
    assert "swift-client" not in run([*swift, "list"]).splitlines()


def test_rclone(cluster, account, files, tmp_path):
    needed("rclone")
    auth, user, key = account
    env = {
        "RCLONE_CONFIG": str(tmp_path / "none.conf"),
        "RCLONE_CONFIG_S_TYPE": "swift",
        "RCLONE_CONFIG_S_AUTH": auth,
        "RCLONE_CONFIG_S_USER": user,
        "RCLONE_CONFIG_S_KEY": key,
    }
    with Killer(cluster, "object-2"):
        run(["rclone", "copy", files, "s:rclone"], env)
        settled(cluster, account, "rclone")
        run(["rclone", "check", files, "s:rclone", "--download"], env)
    settled(cluster, account, "rclone")
    run(["rclone", "copy", "s:rclone", tmp_path / "back"], env)
    same(files, tmp_path / "back")
    run(["rclone", "purge", "s:rclone"], env)
    assert "rclone" not in run(["rclone", "lsd", "s:"], env)


def test_restic(cluster, account, files, tmp_path):
    needed("restic")
    auth, user, key = account
    env = {
        "ST_AUTH": auth, "ST_USER": user, "ST_KEY": key,
        "RESTIC_PASSWORD": "test", "RESTIC_CACHE_DIR": str(tmp_path / "cache"),
    }  # fmt: skip
    restic = ["restic", "-r", "swift:restic:/repo"]
    run([*restic, "init"], env)
    with Killer(cluster, "container-3"):
        run([*restic, "backup", "."], env, cwd=files)
        settled(cluster, account, "restic")
        run([*restic, "check", "--read-data"], env)
    settled(cluster, account, "restic")
    run([*restic, "restore", "latest", "--target", tmp_path / "back"], env)
    same(files, tmp_path / "back")
    run([*restic, "forget", "latest", "--prune"], env)


def test_curl(account, files, tmp_path):
    needed("curl")
    auth, user, key = account
    heads = run(["curl", "-si", auth, "-H", f"X-Auth-User: {user}",
                 "-H", f"X-Auth-Key: {key}"])  # fmt: skip
    found = dict(
        line.split(": ", 1)
        for line in heads.replace("\r", "").split("\n")
        if ": " in line
    )
    token = ["-H", f"X-Auth-Token: {found['X-Auth-Token']}"]
    url = f"{found['X-Storage-Url']}/curl"
    source = max(files.rglob("*.bin"), key=lambda path: path.stat().st_size)
    run(["curl", "-sf", "-X", "PUT", *token, url])
    run(["curl", "-sf", "-T", source, *token, f"{url}/file"])
    run(["curl", "-sf", "-o", tmp_path / "file", *token, f"{url}/file"])
    assert (tmp_path / "file").read_bytes() == source.read_bytes()
    run(["curl", "-sf", "-X", "DELETE", *token, f"{url}/file"])
    run(["curl", "-sf", "-X", "DELETE", *token, url])
