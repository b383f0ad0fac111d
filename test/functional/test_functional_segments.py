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


def test_duplicity_backs_up_in_segments(client, account, tmp_path):
    if not shutil.which("duplicity"):
        pytest.skip("duplicity is not installed (apt-get install duplicity)")
    if not backend_of_duplicity():
        pytest.skip(
            "duplicity has no Swift backend (apt-get install python3-swiftclient)"
        )
    auth, user, key = account
    rng = random.Random(13)
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "one.bin").write_bytes(rng.randbytes(3_000_000))
    (tree / "two é.bin").write_bytes(rng.randbytes(100_000))
    env = {
        "SWIFT_AUTHURL": auth,
        "SWIFT_USERNAME": user,
        "SWIFT_PASSWORD": key,
        "SWIFT_AUTHVERSION": "1",
        # Its segments are uploaded by another part, which reads other names.
        "ST_AUTH": auth,
        "ST_USER": user,
        "ST_KEY": key,
        "HOME": str(tmp_path),
        "TMPDIR": str(tmp_path),
    }
    # Segments of a MiB: a volume that is larger becomes a manifest.
    options = [
        "--no-encryption", "--no-compression", "--mp-segment-size", "1",
        "--archive-dir", tmp_path / "archive", "--num-retries", "1",
    ]  # fmt: skip
    url = "swift://duplicity"
    run(["duplicity", "full", *options, tree, url], tmp_path, env)
    (tree / "one.bin").write_bytes(rng.randbytes(2_500_000))
    run(["duplicity", "incremental", *options, tree, url], tmp_path, env)

    back = tmp_path / "back"
    run(["duplicity", "restore", *options, url, back], tmp_path, env)
    for path in tree.iterdir():
        assert (back / path.name).read_bytes() == path.read_bytes()
    containers = client.get(client.base).lines
    assert {"duplicity", "duplicity_segments"} <= set(containers), containers
    manifests = [
        row["name"]
        for row in client.get(f"{client.base}/duplicity?format=json").json()
        if "x-object-manifest"
        in client.head(f"{client.base}/duplicity/{row['name']}").headers
    ]
    assert manifests
    for name in containers:
        if name.startswith("duplicity"):
            client.remove_container(f"{client.base}/{name}")


def backend_of_duplicity():
    """True when the Python that runs duplicity can talk to Swift."""
    path = Path(shutil.which("duplicity"))
    interpreter = path.read_text().splitlines()[0].removeprefix("#!").split()
    done = subprocess.run([*interpreter, "-c", "import swiftclient"], check=False)
    return done.returncode == 0
