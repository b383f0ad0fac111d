# SPDX-License-Identifier: Apache-2.0
"""swift-object-info, swift-account-info and swift-container-info."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from hashlib import md5
from pathlib import Path

import pytest

from swift.cli.info import account_info, container_info, object_info, policy_index_in
from swift.cli.ring_files import write_ring_file
from swift.core import metadata as records
from swift.core.hashing import HashSalt
from swift.core.names import AccountName, ContainerName
from swift.core.ring.builder import RingBuilder
from swift.core.rows import ContainerRow, ObjectRow
from swift.core.shards import ACTIVE, ShardRange
from swift.core.timestamp import Timestamp
from swift.storage.db.account import AccountBroker
from swift.storage.db.connection import Databases, db_path
from swift.storage.db.container import ContainerBroker

SALT = HashSalt(b"pre", b"post")
T1 = "1772359200.65617"


@pytest.fixture
def swift_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_prefix = pre\nswift_hash_path_suffix = post\n"
        "[storage-policy:0]\nname = gold\ndefault = yes\n"
        "[storage-policy:1]\nname = silver\n"
    )
    builder = RingBuilder(6, 3, 1)
    for zone in range(1, 5):
        builder.add_device(
            region=1, zone=zone, ip=f"10.0.0.{zone}", port=6200, name="sda", weight=1.0
        )
    builder.rebalance(now=1_700_000_000, rng=random.Random(1))
    for name in ("account", "container", "object", "object-1"):
        write_ring_file(folder / f"{name}.ring.gz", builder.ring())
    return folder


def stored(folder: Path, body: bytes, record: dict[str, str], name: str = "") -> Path:
    path = folder / (name or f"{T1}.data")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(body)
    for key, value in records.attributes(record):
        os.setxattr(path, key, value)
    return path


def record_of(body: bytes, **more: str) -> dict[str, str]:
    return {
        records.NAME: "/AUTH_acme/photos/Bär/1.jpg",
        "Content-Type": "image/jpeg",
        "X-Timestamp": T1,
        "Etag": md5(body).hexdigest(),
        "Content-Length": str(len(body)),
        **more,
    }


Show = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def show(swift_dir: Path, capsys: pytest.CaptureFixture[str]) -> Show:
    """Runs a command: its exit code and lines."""

    def call(main, *words: str) -> tuple[int, list[str]]:
        code = main([*map(str, words), "-d", str(swift_dir)])
        return code, capsys.readouterr().out.splitlines()

    return call


def test_an_object_is_explained(show, tmp_path):
    record = record_of(b"12345678", **{"X-Object-Meta-Color": "blue"})
    path = stored(tmp_path / "sda/objects-1/3/abc/def", b"12345678", record)

    code, lines = show(object_info, path)

    digest = SALT.digest("AUTH_acme", "photos", "Bär/1.jpg").hex()
    assert code == 0
    assert lines[:20] == [
        "Path: /AUTH_acme/photos/Bär/1.jpg",
        "  Account: AUTH_acme",
        "  Container: photos",
        "  Object: Bär/1.jpg",
        f"  Object hash: {digest}",
        "Content-Type: image/jpeg",
        "Timestamp: 2026-03-01T10:00:00.656170 (1772359200.65617)",
        "System Metadata:",
        "  No metadata found",
        "Transient System Metadata:",
        "  No metadata found",
        "User Metadata:",
        "  X-Object-Meta-Color: blue",
        "Other Metadata:",
        "  No metadata found",
        f"ETag: {md5(b'12345678').hexdigest()} (valid)",
        "Content-Length: 8 (valid)",
        "",
        f"Partition\t{int(digest[:8], 16) >> 26}",
        f"Hash     \t{digest}",
    ]
    curl = next(line for line in lines if line.startswith("curl"))
    assert "X-Backend-Storage-Policy-Index: 1" in curl
    assert f"objects-1/{int(digest[:8], 16) >> 26}/{digest[-3:]}/{digest}" in lines[-5]


def test_a_damaged_body_is_told_from_its_record(show, tmp_path):
    record = record_of(b"12345678")
    path = stored(tmp_path, b"1234567", record)
    _, lines = show(object_info, path)
    etag = md5(b"12345678").hexdigest()
    actual = md5(b"1234567").hexdigest()
    assert f"ETag: {etag} doesn't match file hash of {actual}!" in lines
    assert "Content-Length: 8 doesn't match file length of 7" in lines
    _, lines = show(object_info, path, "-n")
    assert f"ETag: {etag} (not checked)" in lines


def test_prefixes_are_dropped_and_crypto_is_shown(show, tmp_path):
    record = record_of(
        b"",
        **{
            "X-Object-Meta-Color": "blue",
            "X-Object-Sysmeta-Crypto-Body-Meta": "%7B%22cipher%22%3A+%22AES%22%7D",
            "X-Object-Transient-Sysmeta-A": "b",
            "X-Delete-At": "1772359300",
        },
    )
    _, lines = show(object_info, stored(tmp_path, b"", record), "--drop-prefixes")
    assert "  Color: blue" in lines
    assert "  A: b" in lines
    assert "  X-Delete-At: 1772359300" in lines
    at = lines.index("Data crypto details: {")
    assert lines[at + 1 : at + 3] == ['  "cipher": "AES"', "}"]


def test_a_tombstone_has_no_body_to_compare(show, tmp_path):
    record = {records.NAME: "/a/c/o", "X-Timestamp": T1}
    _, lines = show(object_info, stored(tmp_path, b"", record, f"{T1}.ts"))
    assert "ETag: Not found in metadata" in lines
    assert "Content-Length: Not found in metadata" in lines


def test_another_policy_than_the_paths_is_warned_of(show, tmp_path):
    path = stored(tmp_path / "objects/1/a/b", b"", record_of(b""))
    _, lines = show(object_info, path, "-P", "silver")
    assert [line[:8] for line in lines[:3]] == ["WARNING:", "WARNING:", "Path: /A"]
    _, lines = show(object_info, path, "-P", "unknown")
    assert lines[0].startswith("Path: ")


def test_files_that_are_no_objects(show, tmp_path):
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    assert show(object_info, plain)[0] == 1
    assert show(object_info, tmp_path / "absent")[0] == 1
    code, lines = show(object_info)
    assert code == 0
    assert lines[0].startswith("usage:")


@pytest.mark.parametrize(
    ("path", "index"),
    [
        ("/srv/node/sda/objects/1/a/b/c.data", 0),
        ("/srv/node/sda/objects-12/1/a/b/c.data", 12),
        ("/tmp/c.data", 0),
        ("/srv/objects-3/sda/objects-x/c.data", 3),
    ],
)
def test_the_policy_of_a_path(path, index):
    assert policy_index_in(path) == index


# --- Databases ------------------------------------------------------------------------


@pytest.fixture
def databases():
    opened = Databases(lambda: 1_772_358_000.0)
    yield opened
    opened.close()


@pytest.fixture
def container(tmp_path: Path, databases: Databases) -> ContainerBroker:
    path = db_path(str(tmp_path), "sda", "containers", 7, "5b" * 16)
    broker = ContainerBroker(databases, path, ContainerName("AUTH_acme", "photos"))
    broker.create(Timestamp.parse("1772357949.30210"), 0)
    broker.put_object(
        ObjectRow("cat.jpg", "1772357950.00000", 8, "image/jpeg", "e" * 32, 0, 0)
    )
    broker.update_metadata(
        {
            "X-Container-Meta-Color": ("blue", "1772357950.00000"),
            "X-Container-Read": (".r:*", "1772357950.00000"),
            "X-Container-Write": ("", "1772357950.00000"),
        }
    )
    return broker


def test_a_container_is_explained(show, container):
    code, lines = show(container_info, container.path)

    assert code == 0
    digest = SALT.digest("AUTH_acme", "photos").hex()
    stat = container.stat()
    assert lines[:33] == [
        "Path: /AUTH_acme/photos",
        "  Account: AUTH_acme",
        "  Container: photos",
        "  Deleted: False",
        f"  Container Hash: {digest}",
        "Metadata:",
        "  Created at: 2026-03-01T09:40:00.000000 (1772358000.00000)",
        "  Put Timestamp: 2026-03-01T09:39:09.302100 (1772357949.30210)",
        "  Delete Timestamp: 1970-01-01T00:00:00.000000 (0)",
        "  Status Timestamp: 2026-03-01T09:39:09.302100 (1772357949.30210)",
        "  Object Count: 1",
        "  Bytes Used: 8",
        "  Storage Policy: gold (0)",
        "  Reported Put Timestamp: 1970-01-01T00:00:00.000000 (0)",
        "  Reported Delete Timestamp: 1970-01-01T00:00:00.000000 (0)",
        "  Reported Object Count: 0",
        "  Reported Bytes Used: 0",
        f"  Chexor: {stat.hash}",
        f"  UUID: {stat.id}",
        "  X-Container-Sync-Point1: -1",
        "  X-Container-Sync-Point2: -1",
        "  X-Container-Read: .r:*",
        "No system metadata found in db file",
        "  User Metadata:",
        "    X-Container-Meta-Color: blue",
        "Sharding Metadata:",
        "  Type: root",
        "  State: unsharded",
        "",
        f"Partition\t{int(digest[:8], 16) >> 26}",
        f"Hash     \t{digest}",
        "",
        lines[32],
    ]
    assert lines[32].startswith("Server:Port Device\t10.0.0.")
    assert f"containers/{int(digest[:8], 16) >> 26}/" in lines[-5]


def test_shard_ranges_are_counted_and_listed(show, container):
    t = "1772358003.90832"
    container.merge_shard_ranges(
        [
            ShardRange(".shards_AUTH_acme/a", "", "m", t, 4, 31, t, 0, ACTIVE, t),
            ShardRange(".shards_AUTH_acme/b", "m", "", t, 2, 7, t, 0, ACTIVE, t),
        ]
    )
    _, lines = show(container_info, container.path)
    at = lines.index("Shard Ranges (2):")
    assert lines[at + 1 : at + 4] == [
        "  States:",
        "       active: 2",
        "(Use -v/--verbose to show more Shard Ranges details)",
    ]
    _, lines = show(container_info, "-v", container.path)
    at = lines.index("  Name: .shards_AUTH_acme/a")
    assert lines[at : at + 5] == [
        "  Name: .shards_AUTH_acme/a",
        "    lower: '', upper: 'm'",
        "    Object Count: 4, Bytes Used: 31, State: active (40)",
        "    Created at: 2026-03-01T09:40:03.908320 (1772358003.90832)",
        "    Meta Timestamp: 2026-03-01T09:40:03.908320 (1772358003.90832)",
    ]


def test_sync_points_are_columns(show, container):
    container.merge_syncs([("5f65417f-80e0-42ff-8943-d0d88bd0956a-sda", 12)])
    _, lines = show(container_info, "-s", container.path)
    at = lines.index("Incoming Syncs:")
    assert lines[at + 1].split("\t")[0] == "  Sync Point"
    assert lines[at + 2].startswith(
        "  12        \t5f65417f-80e0-42ff-8943-d0d88bd0956a-sda\t"
    )
    at = lines.index("Outgoing Syncs:")
    assert lines[at + 1] == "  Sync Point\tRemote ID\tUpdated At"


def test_an_account_is_explained(show, tmp_path, databases):
    path = db_path(str(tmp_path), "sda", "accounts", 7, "5c" * 16)
    broker = AccountBroker(databases, path, AccountName("AUTH_acme"))
    broker.create(Timestamp.parse("1772357949.30210"))
    broker.put_container(ContainerRow("photos", "1772357950.00000", "0", 3, 9, 0, 0))
    broker.update_metadata(
        {"X-Account-Sysmeta-Core-Access-Control": ("{}", "1772357950.00000")}
    )
    code, lines = show(account_info, path, "--drop-prefixes")
    assert code == 0
    assert lines[:5] == [
        "Path: /AUTH_acme",
        "  Account: AUTH_acme",
        "  Deleted: False",
        f"  Account Hash: {SALT.digest('AUTH_acme').hex()}",
        "Metadata:",
    ]
    assert lines[9:12] == [
        "  Container Count: 1",
        "  Object Count: 3",
        "  Bytes Used: 9",
    ]
    assert lines[14:17] == [
        "  System Metadata:",
        "    Core-Access-Control: {}",
        "No user metadata found in db file",
    ]


def test_a_locked_database_is_shown_with_a_warning(show, container, databases):
    with databases.lock(os.path.dirname(container.path)):
        code, lines = show(container_info, container.path)
    assert code == 2
    assert lines[0].startswith("WARNING: ")
    assert lines[1] == "Path: /AUTH_acme/photos"


def test_files_that_are_no_such_database_stay_where_they_are(show, container, tmp_path):
    other = tmp_path / "text.db"
    other.write_text("no database at all, but long enough to be one")
    assert show(container_info, other)[0] == 1
    assert show(account_info, container.path)[0] == 1
    assert show(container_info, f"{container.path}x")[0] == 1
    assert show(container_info, tmp_path / "absent.db")[0] == 1
    assert other.exists()
    assert Path(container.path).exists()
    assert show(container_info, "a", "b")[0] == 0
