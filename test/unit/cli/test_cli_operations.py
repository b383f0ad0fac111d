# SPDX-License-Identifier: Apache-2.0
"""swift-recon-cron, swift-config and swift-reconciler-enqueue."""

from __future__ import annotations

import fcntl
import json
import os
import random
from pathlib import Path

import pytest

from swift.cli import operations
from swift.cli.operations import config, recon_cron, reconciler_enqueue
from swift.cli.ring_files import write_ring_file
from swift.core.names import ContainerName
from swift.core.ring.builder import RingBuilder
from swift.runtime import green
from swift.storage.db.connection import Databases, db_path
from swift.storage.db.container import ContainerBroker
from test.support.node import LOCALHOST, Node

# --- swift-recon-cron -----------------------------------------------------------------


@pytest.fixture
def object_conf(tmp_path: Path) -> Path:
    for policy, prefix, name in (
        ("async_pending", "abc", "1"),
        ("async_pending", "abc", "2"),
        ("async_pending-1", "def", "3"),
    ):
        folder = tmp_path / "srv" / "sda" / policy / prefix
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    (tmp_path / "srv" / "sdb" / "objects").mkdir(parents=True)
    (tmp_path / "cache").mkdir()
    conf = tmp_path / "object-server.conf"
    conf.write_text(
        f"[DEFAULT]\ndevices = {tmp_path}/srv\n[filter:recon]\n"
        f"recon_cache_path = {tmp_path}/cache\nrecon_lock_path = {tmp_path}/lock\n"
    )
    return conf


def test_pending_updates_of_all_devices_and_policies_are_counted(
    object_conf, tmp_path, capsys
):
    (tmp_path / "cache/object.recon").write_text('{"other": 1}\n')
    assert recon_cron([str(object_conf)]) == 0
    assert capsys.readouterr().out == ""
    found = json.loads((tmp_path / "cache/object.recon").read_text())
    assert found["async_pending"] == 3
    assert found["other"] == 1
    assert abs(found["async_pending_last"] - green.now()) < 60


def test_only_one_counts_at_a_time(object_conf, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(operations, "LOCK_TIMEOUT_S", 0.05)
    folder = tmp_path / "lock" / "swift-recon-object-cron"
    folder.mkdir(parents=True)
    held = os.open(folder, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    assert recon_cron([str(object_conf)]) == 1
    assert str(folder) in capsys.readouterr().out
    os.close(held)
    assert recon_cron([str(object_conf)]) == 0


def test_a_cron_job_without_a_usable_file_fails(tmp_path, capsys):
    assert recon_cron([]) == 1
    assert capsys.readouterr().out.startswith("usage:")
    assert recon_cron([str(tmp_path / "absent.conf")]) == 1
    assert "absent.conf" in capsys.readouterr().out
    assert recon_cron(["--help"]) == 0


# --- swift-config ---------------------------------------------------------------------

PROXY = """\
[DEFAULT]
bind_port = 80
[pipeline:main]
pipeline = catcher proxy-server
[filter:catcher]
use = egg:swift#catch_errors
set bind_port = 81
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
"""


@pytest.fixture
def proxy_conf(tmp_path: Path) -> Path:
    path = tmp_path / "proxy-server.conf"
    path.write_text(PROXY)
    return path


def test_sections_are_shown_with_the_defaults(proxy_conf, tmp_path, capsys):
    assert (
        config(["proxy", "--swift-dir", str(tmp_path), "-s", "app:proxy-server"]) == 0
    )
    assert capsys.readouterr().out.splitlines() == [
        f"# {proxy_conf}",
        "[app:proxy-server]",
        "bind_port = 80",
        "use = egg:swift#proxy",
        "account_autocreate = true",
        "",
    ]


def test_the_pipeline_is_shown_by_its_entry_points(proxy_conf, capsys):
    assert config(["-w", str(proxy_conf)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"# {proxy_conf}",
        "[pipeline:main]",
        "pipeline = catch_errors proxy",
        "",
        "[filter:catch_errors]",
        "bind_port = 81",
        "",
        "[app:proxy]",
        "bind_port = 80",
        "account_autocreate = true",
        "",
    ]


def test_servers_without_a_file_are_no_failure(tmp_path, capsys):
    assert config(["dancer", "--swift-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "Unable to locate config for dancer\n"
    assert config([]) == 1
    assert capsys.readouterr().out == ""


# --- swift-reconciler-enqueue ---------------------------------------------------------


@pytest.fixture
def node(tmp_path: Path):
    made = Node(tmp_path)
    (tmp_path / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_prefix = prefix\n"
        "swift_hash_path_suffix = suffix\n"
        "[storage-policy:0]\nname = gold\ndefault = yes\n"
        "[storage-policy:1]\nname = silver\n"
    )
    builder = RingBuilder(4, 3, 1)
    for number in (1, 2, 3):
        name = f"sda{number}"
        (tmp_path / name).mkdir(exist_ok=True)
        builder.add_device(
            region=1, zone=number, ip=LOCALHOST, port=made.ports["container"],
            name=name, weight=1.0,
        )  # fmt: skip
    builder.rebalance(now=1_700_000_000, rng=random.Random(1))
    write_ring_file(tmp_path / "container.ring.gz", builder.ring())
    yield made
    made.close()


def queued(node: Node, container: str) -> list[dict[str, object]]:
    """The rows in the queue's container on each device."""
    name = ContainerName(".misplaced_objects", container)
    digest = node.cluster.salt.digest_of(name)
    databases = Databases(green.now)
    rows = []
    for number in (1, 2, 3):
        path = db_path(
            str(node.root), f"sda{number}", "containers", digest[0] >> 4, digest.hex()
        )
        broker = ContainerBroker(databases, path)
        broker.commit_pending()
        rows += broker.rows_since(-1, 10)
    databases.close()
    return rows


def test_an_object_is_put_into_the_queue_of_its_hour(node, capsys):
    words = ["1", "/AUTH_test/c/Bär o", "1700000000.12345"]
    swift_dir = ["--swift-dir", str(node.root)]

    assert reconciler_enqueue([*words, *swift_dir]) == 0

    assert capsys.readouterr().out == "1699999200\n"
    rows = queued(node, "1699999200")
    assert len(rows) == 3
    assert {row["name"] for row in rows} == {"1:/AUTH_test/c/Bär o"}
    assert rows[0]["etag"] == rows[0]["created_at"] == "1700000000.12345"
    assert rows[0]["content_type"] == "application/x-put"

    assert reconciler_enqueue([*words, *swift_dir, "-X", "DELETE", "-f"]) == 0
    row = queued(node, "1699999200")[0]
    assert row["content_type"] == "application/x-delete"
    assert row["etag"] == "1700000000.12345"
    assert str(row["created_at"]) > "1750000000"


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["7", "/a/c/o", "1700000000"], id="policy"),
        pytest.param(["1", "/a/c", "1700000000"], id="container"),
        pytest.param(["1", "a/c/o", "1700000000"], id="no leading slash"),
        pytest.param(["1", "/a/c/o", "yesterday"], id="time"),
    ],
)
def test_what_cannot_be_queued_is_said(node, capsys, words):
    assert reconciler_enqueue([*words, "--swift-dir", str(node.root)]) == 1
    found = capsys.readouterr()
    assert found.out == ""
    assert found.err.startswith("ERROR: ")


def test_no_majority_is_a_failure(node, capsys):
    for number in (2, 3):
        (node.root / f"sda{number}").rmdir()
    words = ["1", "/a/c/o", "1700000000", "--swift-dir", str(node.root)]
    assert reconciler_enqueue(words) == 1
    assert "1 of 3 nodes" in capsys.readouterr().err


def test_options_of_enqueue_may_stand_between_its_words(node, capsys):
    words = ["1", "-X", "DELETE", "/a/c/o", "--swift-dir", str(node.root), "1700000000"]
    assert reconciler_enqueue(words) == 0
    assert capsys.readouterr().out == "1699999200\n"


def test_usage_of_enqueue(capsys):
    assert reconciler_enqueue(["1", "/a/c/o"]) == 0
    assert capsys.readouterr().out.startswith("usage:")
    with pytest.raises(SystemExit) as stop:
        reconciler_enqueue(["1", "/a/c/o", "1", "-X", "POST"])
    assert stop.value.code == 2
