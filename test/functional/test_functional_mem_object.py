# SPDX-License-Identifier: Apache-2.0
"""egg:swift#mem_object: an existing object-server.conf, and objects in memory."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
from contextlib import contextmanager

import pytest

from swift.core.pickles import loads
from test.support.cluster import (
    LIMIT_S,
    ROOT,
    START_LIMIT_S,
    listens,
    wait_until,
)
from test.support.ports import free_port

LARGE = bytes(range(256)) * 12_000


@pytest.fixture
def conf(tmp_path):
    """The path of a .conf whose devices do not even exist."""
    (tmp_path / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = x\n")
    path = tmp_path / "object-server.conf"
    path.write_text(
        f"[DEFAULT]\nswift_dir = {tmp_path}\ndevices = {tmp_path}/none\n"
        f"bind_ip = 127.0.0.1\nbind_port = {free_port()}\nworkers = 4\nuser = root\n"
        f"log_address = {tmp_path}/no-log\n"
        "[pipeline:main]\npipeline = healthcheck object-server\n"
        "[app:object-server]\nuse = egg:swift#mem_object\n"
        "[filter:healthcheck]\nuse = egg:swift#healthcheck\n"
    )
    return path


@contextmanager
def serving(conf):
    """Run the server of a .conf; (its `ask`, the path of its log)."""
    port = int(conf.read_text().partition("bind_port = ")[2].split()[0])
    log_path = conf.with_suffix(".log")
    program = [sys.executable, str(ROOT / "bin" / "swift-object-server"), str(conf)]
    with log_path.open("ab") as log:
        server = subprocess.Popen(
            [*program, "--verbose"],
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def ask(method, name, body=None, at=1, **headers):
        sent = {"X-Timestamp": f"{1_700_000_000 + at:016.5f}"}
        sent |= {key.replace("_", "-"): value for key, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
        connection.request(method, f"/sda1/7/{name}", body, sent)
        answer = connection.getresponse()
        found = answer.status, answer.headers, answer.read()
        connection.close()
        return found

    try:
        wait_until(
            lambda: listens(port) or server.poll() is not None, START_LIMIT_S, "start"
        )
        yield ask, log_path
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(LIMIT_S)


def test_an_existing_conf_serves_from_memory_until_the_server_ends(conf):
    with serving(conf) as (ask, log_path):
        for at, (name, body) in enumerate([("a/c/o", b"hello"), ("a/c/large", LARGE)]):
            kind = {"Content_Type": "text/plain"}
            assert ask("PUT", name, body, at, **kind)[0] == 201
        # Enough requests, on new connections, for each worker if there were several.
        assert {ask("GET", "a/c/o")[2] for _ in range(20)} == {b"hello"}
        assert ask("GET", "a/c/large")[2] == LARGE
        part = ask("GET", "a/c/large", Range="bytes=1000000-2999999")
        assert (part[0], part[2]) == (206, LARGE[1_000_000:3_000_000])
        assert ask("POST", "a/c/o", at=2, X_Object_Meta_Color="blue")[0] == 202
        assert ask("HEAD", "a/c/o")[1]["X-Object-Meta-Color"] == "blue"
        hashes = loads(ask("REPLICATE", "")[2])
        assert len(hashes) == 2
        assert ask("DELETE", "a/c/o", at=3)[0] == 204
        assert ask("GET", "a/c/o")[0] == 404
        assert "1 of 4 workers serve" in log_path.read_text()
    assert not (conf.parent / "none").exists()

    with serving(conf) as (ask, _):
        assert ask("GET", "a/c/large")[0] == 404
