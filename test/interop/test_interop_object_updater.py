# SPDX-License-Identifier: Apache-2.0
"""Pending updates that OpenStack Swift wrote, and the requests its updater sent."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

from swift.core.pendings import Update, split_file_name
from swift.daemons.object_updater import DeviceSweep, UpdaterConfig
from swift.runtime.daemon import Frame
from swift.runtime.logs import NULL_LOG
from swift.runtime.metrics import NO_METRICS
from swift.storage.devices import Devices
from swift.storage.object.pending import dump
from swift.wire.client import ConnectionPool
from test.support.nodes import Nodes, make_cluster

GOLDEN = Path(__file__).parent / "golden"
PENDINGS = json.loads((GOLDEN / "object" / "async_pending.json").read_text())
CAPTURE = json.loads((GOLDEN / "wire" / "object-updater.json").read_text())


@pytest.mark.parametrize("path", PENDINGS)
def test_a_stock_pending_update_is_understood(path):
    golden = PENDINGS[path]
    expected = golden["decoded"]

    update = Update.read(golden["pickle_latin1"].encode("latin-1"))

    assert split_file_name(Path(path).name) is not None
    record = update.record()
    assert record.pop("successes") == []
    assert record == expected


def sent_heads():
    """(method, what follows the device, headers) of each captured request."""
    for connection in CAPTURE["connections"]:
        for event in connection["events"]:
            if event["from"] == "client":
                lines = event["bytes_latin1"].split("\r\n")
                method, target, _ = lines[0].split(" ")
                fields = dict(line.split(": ", 1) for line in lines[1:] if line)
                yield method, target.split("/", 3)[3], fields


def test_the_updater_sends_what_the_stock_one_sends(tmp_path):
    heads = list(sent_heads())
    method, path, captured = heads[0]
    assert len(heads) == 3
    account, container, obj = path.split("/", 2)
    added = ("User-Agent", "X-Backend-Accept-Redirect")
    own = ("Host", "Accept-Encoding", "X-Backend-Accept-Quoted-Location", *added)
    stored = {name: text for name, text in captured.items() if name not in own}
    record = {
        "op": method,
        "account": account,
        "container": container,
        "obj": obj,
        "headers": stored,
    }
    folder = tmp_path / "sda1" / "async_pending" / "abc"
    folder.mkdir(parents=True)
    name = f"{'0' * 29}abc-{captured['X-Timestamp']}"
    (folder / name).write_bytes(dump(record))
    nodes = Nodes()

    DeviceSweep(
        UpdaterConfig(devices=str(tmp_path), mount_check=False),
        Frame(make_cluster(), NULL_LOG, NO_METRICS),
        "sda1",
        Devices(str(tmp_path), mount_check=False),
        pool=ConnectionPool(nodes),
        rng=Random(1),
    ).run()

    assert len(nodes.requests) == 3
    for seen in nodes.requests:
        assert (seen.method, seen.path) == (method, f"/{path}")
        sent = {
            name: text
            for name, text in seen.headers.items()
            if name not in ("Host", "Content-Length", "User-Agent")
        }
        expected = {
            name: text
            for name, text in captured.items()
            if name not in ("Host", "Accept-Encoding", "User-Agent")
        }
        assert sent == expected
        assert seen.headers["User-Agent"].split(" ")[0] == "object-updater"
