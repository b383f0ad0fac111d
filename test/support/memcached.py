# SPDX-License-Identifier: Apache-2.0
"""A real memcached for a test; the test is skipped on a machine without one."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from swift.core.errors import PeerError
from swift.runtime import green
from swift.wire.client import open_channel
from swift.wire.memcache import MemcacheClient
from swift.wire.memcache_server import MemcacheOptions
from test.support.ports import free_port

LIMIT_S = 60.0


class Memcached:
    """A server on loopback. name: its `ip:port`. Stop it."""

    def __init__(self) -> None:
        if shutil.which("memcached") is None:
            pytest.skip("no memcached on this machine")
        self.port = free_port()
        self.name = f"127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start it (again) on its port, and wait until it listens."""
        command = ["memcached", "-p", str(self.port), "-l", "127.0.0.1", "-U", "0"]
        self.process = subprocess.Popen([*command, "-u", "root", "-m", "8"])
        deadline = green.monotonic() + LIMIT_S
        while green.monotonic() < deadline:
            try:
                open_channel("127.0.0.1", self.port, 0.2).close()
            except PeerError:
                green.sleep(0.01)
            else:
                return
        self.stop()
        raise AssertionError("memcached does not listen")

    def stop(self) -> None:
        """Kill it."""
        self.process.kill()
        self.process.wait()


def client_of(*servers: Memcached) -> MemcacheClient:
    """A client with default options; close it."""
    return MemcacheClient(
        [server.name for server in servers], open_channel, MemcacheOptions()
    )
