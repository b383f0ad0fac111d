# SPDX-License-Identifier: Apache-2.0
"""Stock clients upload in segments, and get back what they stored."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SIZE = 5_000_001


@pytest.fixture(scope="module")
def big(tmp_path_factory):
    """A file that takes several segments."""
    path = tmp_path_factory.mktemp("segments") / "big file.bin"
    path.write_bytes(random.Random(11).randbytes(SIZE))
    return path


def run(command, cwd, env=None):
    done = subprocess.run(
        [str(part) for part in command],
        env={**os.environ, **(env or {})},
        cwd=cwd, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.mark.parametrize("kind", ["slo", "dlo"])
def test_swift_client_uploads_in_segments(client, account, big, tmp_path, kind):
    auth, user, key = account
    swift = [Path(sys.executable).with_name("swift"), "-A", auth, "-U", user, "-K", key]
    where = f"segmented-{kind}"
    how = ["--use-slo"] if kind == "slo" else ["--use-dlo"]
    # An older client knows dynamic manifests only, and no switch for them.
    if kind == "dlo" and "--use-dlo" not in run([*swift, "upload", "--help"], tmp_path):
        how = []
    upload = [*swift, "upload", where, "-S", "1000000", *how, big.name]
    run(upload, big.parent)
    head = client.head(f"{client.base}/{where}/{big.name.replace(' ', '%20')}")
    mark = "x-static-large-object" if kind == "slo" else "x-object-manifest"
    assert mark in head.headers
    assert head.headers["content-length"] == str(SIZE)
    segments = run([*swift, "list", f"{where}_segments"], tmp_path).splitlines()
    assert len(segments) == 6
    run([*swift, "download", where, big.name, "-o", tmp_path / "back"], tmp_path)
    assert (tmp_path / "back").read_bytes() == big.read_bytes()
    # The second upload leaves no segments of the first behind.
    run(upload, big.parent)
    run([*swift, "delete", where, big.name], tmp_path)
    assert run([*swift, "list", f"{where}_segments"], tmp_path) == ""
    run([*swift, "delete", where], tmp_path)
    run([*swift, "delete", f"{where}_segments"], tmp_path)


def test_rclone_uploads_in_segments(client, account, big, tmp_path):
    if not shutil.which("rclone"):
        pytest.skip("rclone is not installed (apt-get install rclone)")
    auth, user, key = account
    env = {
        "RCLONE_CONFIG": str(tmp_path / "none.conf"),
        "RCLONE_CONFIG_S_TYPE": "swift",
        "RCLONE_CONFIG_S_AUTH": auth,
        "RCLONE_CONFIG_S_USER": user,
        "RCLONE_CONFIG_S_KEY": key,
    }
    run(["rclone", "copy", "--swift-chunk-size", "1M", big, "s:rclone-large"],
        tmp_path, env)  # fmt: skip
    name = big.name.replace(" ", "%20")
    head = client.head(f"{client.base}/rclone-large/{name}")
    assert head.headers["content-length"] == str(SIZE)
    large = ("x-static-large-object", "x-object-manifest")
    assert any(mark in head.headers for mark in large)
    run(["rclone", "copy", "s:rclone-large", tmp_path / "back"], tmp_path, env)
    assert (tmp_path / "back" / big.name).read_bytes() == big.read_bytes()
    run(["rclone", "purge", "s:rclone-large"], tmp_path, env)
    client.remove_container(f"{client.base}/rclone-large_segments")
