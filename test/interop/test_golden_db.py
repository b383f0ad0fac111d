# SPDX-License-Identifier: Apache-2.0
"""Databases of OpenStack Swift are read and served alike, and ours are made alike."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest

from swift.core.listing import (
    ListingQuery,
    containers_json,
    containers_records,
    containers_xml,
    listing_format,
    objects_json,
    objects_records,
    objects_xml,
    plain,
)
from swift.core.names import AccountName, ContainerName
from swift.core.rows import ZERO_HASH, ContainerRow, ObjectRow, chexor
from swift.core.shards import ShardQuery, ShardRange, shard_name, shards_account
from swift.core.timestamp import Timestamp
from swift.storage.db.account import AccountBroker
from swift.storage.db.connection import Databases, db_path
from swift.storage.db.container import ContainerBroker

GOLDEN = Path(__file__).parent / "golden"
CONTENTS = json.loads((GOLDEN / "db/contents.json").read_text())
EXPECTED = json.loads((GOLDEN / "db/expected.json").read_text())
REQUESTS = json.loads((GOLDEN / "db/server-requests.json").read_text())
POLICY_NAMES = {0: "gold", 1: "ec42", 2: "ec42isa", 3: "silver"}
NOW = 1_700_000_500.0


@pytest.fixture
def databases():
    opened = Databases(lambda: NOW)
    yield opened
    opened.close()


def _placed(root: Path, kind: str, name_hash: str, **files: str) -> str:
    """Copy golden files into a hash directory; suffix of the name → golden file."""
    path = Path(db_path(str(root), "sda1", kind, 5, name_hash))
    path.parent.mkdir(parents=True, exist_ok=True)
    for suffix, golden in files.items():
        target = path.parent / f"{name_hash}{_SUFFIXES[suffix]}"
        shutil.copyfile(GOLDEN / "db" / golden, target)
    return str(path)


_SUFFIXES = {
    "plain": ".db",
    "pending": ".db.pending",
    "epoch": "_1700000100.00000.db",
}


@pytest.fixture
def account(tmp_path, databases):
    name_hash = EXPECTED["container_paths"]["account.db"][1]
    path = _placed(tmp_path, "accounts", name_hash, plain="account.db")
    return AccountBroker(databases, path)


@pytest.fixture
def container(tmp_path, databases):
    name_hash = EXPECTED["container_paths"]["container.db"][2]
    path = _placed(tmp_path, "containers", name_hash, plain="container.db")
    return ContainerBroker(databases, path)


def _root(tmp_path, databases, **files):
    name_hash = EXPECTED["container_paths"]["sharding/sharded-root"][2]
    path = _placed(tmp_path, "containers", name_hash, **files)
    return ContainerBroker(databases, path)


@pytest.fixture
def sharding(tmp_path, databases):
    return _root(
        tmp_path,
        databases,
        plain="sharding-root__HASH.db",
        epoch="sharding-root__HASH_1700000100.00000.db",
    )


@pytest.fixture
def sharded(tmp_path, databases):
    return _root(tmp_path, databases, epoch="sharded-root__HASH_1700000100.00000.db")


@pytest.fixture
def shard(tmp_path, databases):
    name_hash = EXPECTED["container_paths"]["shard.db"][2]
    path = _placed(tmp_path, "containers", name_hash, plain="shard.db")
    return ContainerBroker(databases, path)


# --- Schema ---------------------------------------------------------------------------


def _described(path: str) -> dict[str, object]:
    connection = sqlite3.connect(path)
    try:
        schema = sorted(
            connection.execute("SELECT type, name, tbl_name FROM sqlite_master")
        )
        columns = {
            name: [
                [row[1], row[2], row[4]]
                for row in connection.execute(f'PRAGMA table_info("{name}")')
            ]
            for kind, name, _ in schema
            if kind in ("table", "view")
        }
        pragmas = {
            name: connection.execute(f"PRAGMA {name}").fetchone()[0]
            for name in (
                "auto_vacuum",
                "encoding",
                "journal_mode",
                "page_size",
                "user_version",
            )
        }
    finally:
        connection.close()
    return {"schema": schema, "columns": columns, "pragmas": pragmas}


def _described_golden(name: str) -> dict[str, object]:
    golden = CONTENTS[name]
    schema = sorted((row["type"], row["name"], row["tbl"]) for row in golden["schema"])
    return {
        "schema": schema,
        "columns": golden["columns"],
        "pragmas": golden["pragmas"],
    }


def test_a_new_container_database_has_the_schema_of_swift(tmp_path, databases):
    path = db_path(str(tmp_path), "sda1", "containers", 1, "0" * 32)
    broker = ContainerBroker(databases, path, ContainerName("a", "c"))
    broker.create(Timestamp.at(NOW), 0)
    assert _described(path) == _described_golden("container.db")


def test_a_new_account_database_has_the_schema_of_swift(tmp_path, databases):
    path = db_path(str(tmp_path), "sda1", "accounts", 1, "0" * 32)
    broker = AccountBroker(databases, path, AccountName("a"))
    broker.create(Timestamp.at(NOW))
    assert _described(path) == _described_golden("account.db")


# --- Facts and rows -------------------------------------------------------------------


def test_replication_info_of_an_account(account):
    assert account.replication_info() == EXPECTED["account_replication_info"]


def test_replication_info_of_a_container(container):
    assert container.replication_info() == EXPECTED["container_replication_info"]


def test_policy_totals_of_an_account(account):
    stats = {
        str(stat.storage_policy_index): {
            "container_count": stat.container_count,
            "object_count": stat.object_count,
            "bytes_used": stat.bytes_used,
        }
        for stat in account.policy_stats()
    }
    assert stats == EXPECTED["account_policy_stats"]


def test_pending_rows_of_a_container_merge_as_in_swift(tmp_path, databases):
    path = _placed(
        tmp_path,
        "containers",
        EXPECTED["container_paths"]["container.db"][2],
        plain="container-with-pending.db",
        pending="container-with-pending.db.pending",
    )
    broker = ContainerBroker(databases, path)
    stat = broker.stat()
    # The golden rows hold one more, which came by a later UPDATE.
    last = EXPECTED["container_rows_after_merge"][-1]
    assert broker.rows_since(-1, 99) == EXPECTED["container_rows_after_merge"][:-1]
    assert (stat.object_count, stat.bytes_used) == (7, 215)
    broker.merge_rows([ObjectRow.from_record(last)])
    assert broker.rows_since(-1, 99) == EXPECTED["container_rows_after_merge"]
    assert broker.stat().hash == EXPECTED["container_replication_info"]["hash"]
    assert not databases.has_pending(path)


def test_pending_rows_of_an_account_merge_as_in_swift(tmp_path, databases):
    path = _placed(
        tmp_path,
        "accounts",
        EXPECTED["container_paths"]["account.db"][1],
        plain="account-with-pending.db",
        pending="account-with-pending.db.pending",
    )
    broker = AccountBroker(databases, path)
    before = EXPECTED["account_replication_info"]
    stat = broker.stat()
    assert stat.container_count == before["count"] + 1
    assert stat.bytes_used == before["bytes_used"] + 5
    [late] = broker.rows_since(before["max_row"], 9)
    assert late == {
        "ROWID": before["max_row"] + 1,
        "name": "late",
        "put_timestamp": "1700000020.00000",
        "delete_timestamp": "0",
        "object_count": 1,
        "bytes_used": 5,
        "deleted": 0,
        "storage_policy_index": 0,
    }


def test_our_pending_file_has_the_bytes_of_swift(tmp_path, databases):
    path = db_path(str(tmp_path), "sda1", "containers", 1, "0" * 32)
    broker = ContainerBroker(databases, path, ContainerName("AUTH_test", "c"))
    broker.create(Timestamp.at(1_700_000_000), 0)
    for fields in EXPECTED["container_pending_decoded"]:
        assert broker.put_now(ObjectRow(*fields))
    golden = (GOLDEN / "db/container-with-pending.db.pending").read_bytes()
    assert Path(path + ".pending").read_bytes() == golden


def test_our_pending_file_of_an_account_has_the_bytes_of_swift(tmp_path, databases):
    path = db_path(str(tmp_path), "sda1", "accounts", 1, "0" * 32)
    broker = AccountBroker(databases, path, AccountName("AUTH_test"))
    broker.create(Timestamp.at(1_700_000_000))
    for fields in EXPECTED["account_pending_decoded"]:
        assert broker.put_now(ContainerRow(*fields))
    golden = (GOLDEN / "db/account-with-pending.db.pending").read_bytes()
    assert Path(path + ".pending").read_bytes() == golden


def test_our_rows_have_the_hash_of_swift():
    running = ZERO_HASH
    second = False
    for step in json.loads((GOLDEN / "db/chexor.json").read_text()):
        if "kind" in step and not second:
            running, second = ZERO_HASH, True
        running = chexor(running, step["name"], step["value"])
        assert running == step["running_hash"]


def test_swift_could_write_to_our_database(tmp_path, databases):
    # Through the view and with the triggers, as an older writer does.
    path = db_path(str(tmp_path), "sda1", "containers", 1, "0" * 32)
    broker = ContainerBroker(databases, path, ContainerName("a", "c"))
    broker.create(Timestamp.at(NOW), 1)
    connection = sqlite3.connect(path)
    connection.create_function("chexor", 3, chexor)
    with connection:
        connection.execute("UPDATE container_stat SET put_timestamp = '1800000000'")
        connection.execute(
            "INSERT INTO object (name, created_at, size, content_type, etag, "
            "storage_policy_index) VALUES ('o', '1', 5, 'a/b', 'e', 1)"
        )
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute("UPDATE object SET size = 1")
    connection.close()
    stat = broker.stat()
    assert stat.put_timestamp == "1800000000"
    assert (stat.object_count, stat.bytes_used) == (1, 5)
    assert stat.hash == chexor(ZERO_HASH, "o", "1")


# --- Sharding -------------------------------------------------------------------------


def _snapshot(broker: ContainerBroker) -> dict[str, object]:
    stat = broker.stat()
    return {
        name: getattr(stat, name)
        for name in EXPECTED["sharding_snapshots"]["shard"]["info"]
    }


@pytest.mark.parametrize("state", ["sharding", "sharded", "shard"])
def test_facts_of_a_container_in_each_state(state, request):
    broker = request.getfixturevalue(state)
    golden = EXPECTED["sharding_snapshots"][state]
    assert _snapshot(broker) == golden["info"]
    assert broker.is_root() == golden.get("is_root", True)
    if "shard_ranges" in golden:
        ranges = [row.as_record() for row in broker.shard_ranges()]
        assert ranges == golden["shard_ranges"]
    else:
        own = broker.own_shard_range()
        assert own is not None
        assert own.as_record() == golden["own_shard_range"]


def test_an_unsharded_container_with_found_ranges(tmp_path, databases):
    broker = _root(tmp_path, databases, plain="sharding-root__HASH.db")
    golden = EXPECTED["sharding_snapshots"]["unsharded-with-found-ranges"]
    assert _snapshot(broker) == golden["info"]
    assert (
        broker.put_object(
            ObjectRow("obj05", "1700000200.00000", 1, "a/b", "e"), redirect=True
        )
        is None
    )


@pytest.mark.parametrize("state", ["sharding", "sharded"])
def test_an_update_is_redirected_to_its_shard(state, request):
    broker = request.getfixturevalue(state)
    row = ObjectRow("obj05", "1700000200.00000", 1, "a/b", "e")
    assert not broker.put_now(row, redirect=True)
    shard = broker.put_object(row, redirect=True)
    assert isinstance(shard, ShardRange)
    assert shard.name.endswith("-1700000101.00000-1")
    assert shard.timestamp == "1700000101.00000"
    assert broker.put_object(row) is None


def test_shard_names():
    for case in json.loads((GOLDEN / "hashing/shard_names.json").read_text()):
        account = case["shards_account"]
        assert account == shards_account("AUTH_test")
        assert case["name"] == shard_name(
            account, case["root"], case["parent"], case["timestamp"], case["index"]
        )


# --- Listings -------------------------------------------------------------------------


def _listing_cases(server: str, path: str, *, shards: bool = False, until: int = 99):
    for number, request in enumerate(REQUESTS[:until]):
        url = urlsplit(request["url"])
        is_shard = request["headers"].get("X-Backend-Record-Type") in ("shard", "auto")
        if (
            request["method"] == "GET"
            and request["status"] == 200
            and request["server"] == server
            and unquote(url.path).split("/", 3)[3] == path
            and is_shard is shards
        ):
            yield pytest.param(request, id=f"{number} {url.query}")


def _query(request) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(request["url"]).query, keep_blank_values=True))


@pytest.mark.parametrize(
    "request_", list(_listing_cases("account-server", "AUTH_test"))
)
def test_listings_of_an_account(request_, account):
    params = _query(request_)
    reserved = "X-Backend-Allow-Reserved-Names" in request_["headers"]
    entries = account.list_containers(
        ListingQuery.from_params(params), allow_reserved=reserved
    )
    kind = listing_format(params.get("format"), None)
    body = {
        "text/plain": plain(entries),
        "application/json": containers_json(entries, POLICY_NAMES),
        "application/xml": containers_xml(
            "AUTH_test", containers_records(entries, POLICY_NAMES)
        ),
    }[kind]
    assert body.decode() == request_["response_body"]


@pytest.mark.parametrize(
    "request_", list(_listing_cases("container-server", "AUTH_test/c", until=48))
)
def test_listings_of_a_container(request_, tmp_path, databases):
    broker = ContainerBroker(
        databases,
        _placed(
            tmp_path,
            "containers",
            EXPECTED["container_paths"]["container.db"][2],
            plain="container-with-pending.db",
            pending="container-with-pending.db.pending",
        ),
    )
    broker.stat()
    params = _query(request_)
    policy = request_["headers"].get("X-Backend-Storage-Policy-Index")
    entries = broker.list_objects(
        ListingQuery.from_params(params), None if policy is None else int(policy)
    )
    body = {
        "text/plain": plain(entries),
        "application/json": objects_json(entries),
        "application/xml": objects_xml("c", objects_records(entries)),
    }[listing_format(params.get("format"), None)]
    assert body.decode() == request_["response_body"]


def _shown(broker: ContainerBroker, request_) -> str:
    headers = request_["headers"]
    query = ShardQuery.from_params(
        _query(request_),
        unfiltered="X-Backend-Override-Shard-Name-Filter" in headers,
    )
    form = headers.get("X-Backend-Record-Shard-Format", "full")
    ranges = broker.list_shard_ranges(query)
    return json.dumps(
        [
            row.as_namespace() if form == "namespace" else row.as_listing()
            for row in ranges
        ]
    )


_ROOT_LISTINGS = list(_listing_cases("container-server", "AUTH_test/root", shards=True))
_IS_SHARDED = [
    param.values[0]["response_headers"]["X-Backend-Sharding-State"] == "sharded"
    for param in _ROOT_LISTINGS
]


@pytest.mark.parametrize(
    "request_",
    [p for p, done in zip(_ROOT_LISTINGS, _IS_SHARDED, strict=True) if not done],
)
def test_shard_listings_while_sharding(request_, sharding):
    assert _shown(sharding, request_) == request_["response_body"]


@pytest.mark.parametrize(
    "request_",
    [p for p, done in zip(_ROOT_LISTINGS, _IS_SHARDED, strict=True) if done],
)
def test_shard_listings_of_a_sharded_root(request_, sharded):
    assert _shown(sharded, request_) == request_["response_body"]


def test_shard_listing_of_a_shard_for_an_audit(shard):
    [request_] = [
        r
        for r in REQUESTS
        if r["method"] == "GET"
        and r["url"].endswith("states=auditing")
        and ".shards_" in r["url"]
    ]
    assert _shown(shard, request_) == request_["response_body"]


def test_objects_come_from_the_retiring_file_while_sharding(sharding):
    entries = sharding.list_objects(ListingQuery(3))
    assert [entry[0] for entry in entries] == ["obj00", "obj01", "obj02"]


def test_a_sharded_root_lists_only_misplaced_objects(sharded):
    assert [entry[0] for entry in sharded.list_objects(ListingQuery())] == ["obj05"]
    assert not sharded.empty()
