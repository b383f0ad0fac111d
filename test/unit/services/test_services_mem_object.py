# SPDX-License-Identifier: Apache-2.0
"""The object server in memory, as a section of a .conf makes it."""

from __future__ import annotations

from pathlib import Path

import pytest

from swift.core.errors import ConfigError
from swift.runtime.logs import ListSink, Logger
from swift.services.mem_object import app_factory
from swift.wire.environ import blank
from swift.wire.filter import PipelineContext, Process
from swift.wire.request import call
from test.support.node import stamp
from test.support.nodes import make_cluster


class Memory:
    """An app of egg:swift#mem_object. lines: what it logs."""

    def __init__(self, **options):
        sink = ListSink()
        self.lines = sink.lines
        self.process = Process({}, cluster=make_cluster(), log=Logger("t", [sink]))
        context = PipelineContext({"devices": "/no/such/folder"}, self.process)
        self.app = app_factory(context, **options)

    def ask(self, method, name="a/c/o", body=None, **headers):
        sent = {"X-Timestamp": stamp(1), "Content-Type": "text/plain"}
        sent |= {key.replace("_", "-"): value for key, value in headers.items()}
        path = f"/sda1/7/{name}"
        found = call(self.app, blank(path, method=method, headers=sent, body=body))
        assert found.body is not None
        return found


def test_an_object_lives_in_memory_whatever_the_devices_are():
    memory = Memory()
    assert memory.ask("PUT", body=b"hello").status == 201
    assert memory.ask("GET").body == b"hello"
    assert Memory().ask("GET").status == 404
    assert not Path("/no/such/folder").exists()


def test_one_worker_is_all_that_can_serve():
    assert Memory().process.workers_max == 1


def test_what_does_not_fit_is_507_and_leaves_the_rest():
    memory = Memory(memory_size="1000000")
    assert memory.ask("PUT", body=b"hello").status == 201
    assert memory.ask("PUT", "a/c/fits", body=bytes(900_000)).status == 201
    for size in (95_000, 2_000_000):
        assert memory.ask("PUT", "a/c/large", body=bytes(size)).status == 507
    assert memory.ask("GET").body == b"hello"
    assert len(memory.ask("GET", "a/c/fits").body) == 900_000

    # The reserve of the disk's options leaves room for tombstones.
    deleted = memory.ask("DELETE", "a/c/fits", X_Timestamp=stamp(2))
    assert deleted.status == 204
    assert memory.ask("PUT", "a/c/large", body=bytes(95_000)).status == 201


def test_an_update_that_nobody_takes_is_lost_with_a_warning():
    memory = Memory()
    told = {
        "X_Container_Host": "127.0.0.1:1",
        "X_Container_Partition": "3",
        "X_Container_Device": "sda1",
    }
    assert memory.ask("PUT", body=b"hello", **told).status == 201
    assert any("update (PUT) of /a/c/o is lost" in line for _, line in memory.lines)


def test_a_size_that_is_none_is_refused():
    with pytest.raises(ConfigError, match="memory_size"):
        Memory(memory_size="0")
