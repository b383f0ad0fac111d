# SPDX-License-Identifier: Apache-2.0
"""Commands that belong to filters, against a running cluster."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(name, *words):
    return subprocess.run(
        [sys.executable, str(ROOT / "bin" / name), *words],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_container_deleter_queues_what_a_container_holds(cluster, client, container):
    if cluster is None:
        pytest.skip("the rings are those of another cluster")
    for name in ("a", "b", "%C3%BC"):
        assert client.put(f"{container}/{name}", b"x").status == 201
    conf = cluster.folder / "internal-client.conf"
    conf.write_text(
        f"[DEFAULT]\nswift_dir = {cluster.folder / 'etc'}\n"
        "[pipeline:main]\npipeline = catch_errors cache proxy-server\n"
        "[app:proxy-server]\nuse = egg:swift#proxy\naccount_autocreate = true\n"
        "[filter:cache]\nuse = egg:swift#memcache\nmemcache_servers =\n"
        "[filter:catch_errors]\nuse = egg:swift#catch_errors\n"
    )
    account, short = container.split("/")[2:4]
    got = run("swift-container-deleter", "--config", str(conf), account, short)
    assert got.returncode == 0, got.stderr
    assert got.stdout == "Finished. Marked 3 objects for deletion.\n"


def test_form_signature_prints_a_form():
    got = run("swift-form-signature", "/v1/a/c", "", "100", "1", "60", "key")
    assert got.returncode == 0, got.stderr
    assert "Signature: " in got.stdout
