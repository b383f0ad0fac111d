# SPDX-License-Identifier: Apache-2.0
"""Container and account servers over real connections and on a real disk."""

from __future__ import annotations

import json
import shutil
from urllib.parse import quote

import pytest

from swift.core.names import AccountName, ContainerName
from test.support.node import DEVICE, LOCALHOST, Node, stamp

ROW = {"X-Size": "5", "X-Content-Type": "text/plain", "X-Etag": "e"}


@pytest.fixture
def node(tmp_path):
    made = Node(tmp_path)
    yield made
    made.close()


def put_container(node, at=1.0, name="a/c", **headers):
    sent = {"X-Timestamp": stamp(at), **_dashed(headers)}
    return node.ask("container", "PUT", name, sent)


def put_row(node, name="a/c/o", at=2.0, **headers):
    sent = {"X-Timestamp": stamp(at), **ROW, **_dashed(headers)}
    return node.ask("container", "PUT", name, sent)


def put_account(node, at=1.0, name="a", **headers):
    sent = {"X-Timestamp": stamp(at), **_dashed(headers)}
    return node.ask("account", "PUT", name, sent)


def _dashed(headers):
    return {name.replace("_", "-"): value for name, value in headers.items()}


def listing(node, kind="container", path="a/c", query=""):
    status, _, body = node.ask(kind, "GET", f"{path}?format=json{query}")
    assert status == 200
    return json.loads(body)


# --- containers -----------------------------------------------------------------------


def test_a_container_is_made_touched_and_deleted(node):
    assert put_container(node, 1)[0] == 201
    assert put_container(node, 2)[0] == 202
    _, headers, _ = node.ask("container", "HEAD", "a/c")
    assert headers["X-Backend-Put-Timestamp"] == stamp(2)
    assert node.ask("container", "DELETE", "a/c", {"X-Timestamp": stamp(3)})[0] == 204
    assert node.ask("container", "DELETE", "a/c", {"X-Timestamp": stamp(4)})[0] == 404
    status, headers, _ = node.ask("container", "GET", "a/c")
    assert status == 404
    assert headers["X-Backend-Delete-Timestamp"] == stamp(4)
    assert put_container(node, 5)[0] == 201
    assert node.ask("container", "HEAD", "a/c")[0] == 204


def test_a_put_older_than_the_delete_is_409(node):
    put_container(node, 1)
    node.ask("container", "DELETE", "a/c", {"X-Timestamp": stamp(5)})
    assert put_container(node, 4)[0] == 409


def test_a_delete_older_than_the_put_is_409(node):
    put_container(node, 5)
    assert node.ask("container", "DELETE", "a/c", {"X-Timestamp": stamp(4)})[0] == 409
    assert node.ask("container", "HEAD", "a/c")[0] == 204


def test_the_policy_is_the_one_asked_for_or_the_proxys_default(node):
    index = "X-Backend-Storage-Policy-Index"
    _, headers, _ = put_container(node, name="a/c1", X_Backend_Storage_Policy_Index="1")
    assert headers[index] == "1"
    assert put_container(node, 2, "a/c1")[1][index] == "1"
    status, headers, _ = put_container(
        node, 3, "a/c1", X_Backend_Storage_Policy_Index="0"
    )
    assert (status, headers[index]) == (409, "1")
    _, headers, _ = put_container(
        node, name="a/c2", X_Backend_Storage_Policy_Default="1"
    )
    assert headers[index] == "1"
    assert (
        put_container(node, name="a/c3", X_Backend_Storage_Policy_Index="7")[0] == 400
    )


def test_metadata_is_stored_replaced_and_removed(node):
    put_container(node, 1, X_Container_Meta_Color="blue", X_Container_Read=".r:*")
    sent = {
        "X-Timestamp": stamp(2),
        "X-Container-Meta-Color": "",
        "X-Container-Sysmeta-S": "s",
        "X-Container-Meta-Sno": "☃".encode().decode("latin-1"),
        "X-Other": "x",
    }
    assert node.ask("container", "POST", "a/c", sent)[0] == 204
    _, headers, _ = node.ask("container", "HEAD", "a/c")
    assert "X-Container-Meta-Color" not in headers
    assert headers["X-Container-Read"] == ".r:*"
    assert headers["X-Container-Sysmeta-S"] == "s"
    assert headers["X-Container-Meta-Sno"].encode("latin-1").decode() == "☃"
    assert "X-Other" not in headers
    assert headers["X-Put-Timestamp"] == stamp(2)


def test_a_post_may_leave_the_put_timestamp(node):
    put_container(node, 1)
    sent = {"X-Timestamp": stamp(2), "X-Backend-No-Timestamp-Update": "true"}
    node.ask("container", "POST", "a/c", sent)
    assert node.ask("container", "HEAD", "a/c")[1]["X-Put-Timestamp"] == stamp(1)


def test_too_much_or_unreadable_metadata_is_400(node):
    put_container(node, 1)
    many = {f"X-Container-Meta-{i}": "v" for i in range(91)}
    sent = {"X-Timestamp": stamp(2), **many}
    assert node.ask("container", "POST", "a/c", sent)[0] == 400
    sent = {"X-Timestamp": stamp(2), "X-Container-Meta-A": "\xff"}
    assert node.ask("container", "POST", "a/c", sent)[0] == 400


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("", 201),
        ("http://127.0.0.1/v1/a/c", 201),
        ("http://example.com/v1/a/c", 400),
        ("ftp://127.0.0.1/v1/a/c", 400),
        ("http://127.0.0.1/v1", 400),
        ("http://127.0.0.1/v1/a/c?x=y", 400),
        ("//realm/cluster/a/c", 400),
    ],
)
def test_where_containers_may_be_synced_to(node, target, status):
    assert put_container(node, X_Container_Sync_To=target)[0] == status


# --- rows -----------------------------------------------------------------------------


def test_rows_are_listed_with_every_parameter(node):
    put_container(node)
    for name in ("a/1", "a/2", "b", "ü"):
        assert put_row(node, f"a/c/{quote(name)}")[0] == 201
    names = [row.get("name") or row["subdir"] for row in listing(node)]
    assert names == ["a/1", "a/2", "b", "ü"]
    found = listing(node, query="&delimiter=/&limit=2")
    assert found[0] == {"subdir": "a/"}
    assert [row["name"] for row in listing(node, query="&prefix=a/&marker=a/1")] == [
        "a/2"
    ]
    assert listing(node, query="&reverse=true")[0]["name"] == "ü"
    status, headers, body = node.ask("container", "GET", "a/c")
    assert (status, body) == (200, "a/1\na/2\nb\nü\n".encode())
    assert headers["X-Container-Object-Count"] == "4"
    assert headers["X-Container-Bytes-Used"] == "20"


def test_an_empty_listing_is_204_as_text_and_200_as_json(node):
    put_container(node)
    assert node.ask("container", "GET", "a/c")[0] == 204
    assert listing(node) == []


@pytest.mark.parametrize(
    ("query", "status"),
    [("limit=10001", 412), ("prefix=%ff", 400), ("limit=none", 204)],
)
def test_bad_parameters(node, query, status):
    put_container(node)
    assert node.ask("container", "GET", f"a/c?{query}")[0] == status


def test_an_accept_header_that_fits_nothing_is_406(node):
    put_container(node)
    answer = node.ask("container", "GET", "a/c", {"Accept": "image/png"})
    assert answer[0] == 406


def test_rows_of_deleted_objects_go(node):
    put_container(node)
    put_row(node, at=2)
    assert node.ask("container", "DELETE", "a/c/o", {"X-Timestamp": stamp(3)})[0] == 204
    assert listing(node) == []
    put_row(node, at=2.5)
    assert listing(node) == []


def test_a_row_of_a_missing_container_is_404_but_where_it_is_made(node):
    assert put_row(node)[0] == 404
    assert put_row(node, X_Backend_Auto_Create="true")[0] == 201
    assert put_row(node, ".expiring_objects/1/o")[0] == 201
    assert put_row(node, ".shards_a/c/o")[0] == 404
    gone = {"X-Timestamp": stamp(3)}
    assert node.ask("container", "DELETE", "a/missing/o", gone)[0] == 404


@pytest.mark.parametrize("lost", ["X-Size", "X-Etag", "X-Content-Type"])
def test_an_incomplete_row_is_a_failure_of_this_side(node, lost):
    put_container(node)
    sent = {"X-Timestamp": stamp(2), **ROW}
    del sent[lost]
    assert node.ask("container", "PUT", "a/c/o", sent)[0] == 500


def test_reserved_names_are_listed_for_those_who_may(node):
    put_container(node, name="a/%00c")
    assert put_row(node, "a/%00c/%00o")[0] == 201
    assert put_row(node, "a/%00c/o")[0] == 400
    assert listing(node, path="a/%00c") == []
    sent = {"X-Backend-Allow-Reserved-Names": "true"}
    _, _, body = node.ask("container", "GET", "a/%00c?format=json", sent)
    assert json.loads(body)[0]["name"] == "\0o"


def test_a_container_that_holds_rows_is_not_deleted(node):
    put_container(node)
    put_row(node)
    assert node.ask("container", "DELETE", "a/c", {"X-Timestamp": stamp(9)})[0] == 409


def test_many_rows_come_by_update(node):
    put_container(node)
    rows = [
        {
            "name": f"o{i}",
            "created_at": stamp(2),
            "size": 1,
            "content_type": "a/b",
            "etag": "e",
            "deleted": 0,
            "storage_policy_index": 0,
            "ctype_timestamp": None,
            "meta_timestamp": None,
        }
        for i in range(100)
    ]
    sent = {"X-Timestamp": stamp(2)}
    body = json.dumps(rows).encode()
    assert node.ask("container", "UPDATE", "a/c", sent, body)[0] == 202
    assert len(listing(node)) == 100
    assert node.ask("container", "UPDATE", "a/c", sent, b"{")[0] == 400
    assert node.ask("container", "UPDATE", "a/none", sent, body)[0] == 404


def test_rows_in_another_policy_are_listed_when_asked_for(node):
    put_container(node)
    put_row(node, X_Backend_Storage_Policy_Index="1")
    assert listing(node) == []
    sent = {"X-Backend-Storage-Policy-Index": "1"}
    _, headers, body = node.ask("container", "GET", "a/c?format=json", sent)
    assert json.loads(body)[0]["name"] == "o"
    assert headers["X-Backend-Record-Storage-Policy-Index"] == "1"


# --- the account is told --------------------------------------------------------------


def account_headers(node):
    return {
        "X_Account_Host": node.host("account"),
        "X_Account_Device": DEVICE,
        "X_Account_Partition": "7",
    }


def test_the_account_hears_of_containers(node):
    put_account(node)
    put_container(node, 2, **account_headers(node))
    assert [row["name"] for row in listing(node, "account", "a")] == ["c"]
    sent = {"X-Timestamp": stamp(3), **_dashed(account_headers(node))}
    assert node.ask("container", "DELETE", "a/c", sent)[0] == 204
    assert listing(node, "account", "a") == []


def test_a_container_whose_account_is_nowhere_is_404(node):
    assert put_container(node, 2, **account_headers(node))[0] == 404


def test_an_account_that_cannot_be_reached_does_not_hold_the_container(node):
    headers = {**account_headers(node), "X_Account_Host": f"{LOCALHOST}:1"}
    assert put_container(node, 2, **headers)[0] == 201


# --- accounts -------------------------------------------------------------------------


def test_an_account_is_made_changed_and_deleted_for_good(node):
    assert put_account(node, 1, X_Account_Meta_Color="blue")[0] == 201
    assert put_account(node, 2)[0] == 202
    sent = {"X-Timestamp": stamp(3), "X-Account-Sysmeta-S": "s"}
    assert node.ask("account", "POST", "a", sent)[0] == 204
    status, headers, _ = node.ask("account", "HEAD", "a")
    assert status == 204
    assert headers["X-Account-Meta-Color"] == "blue"
    assert headers["X-Account-Sysmeta-S"] == "s"
    assert node.ask("account", "DELETE", "a", {"X-Timestamp": stamp(4)})[0] == 204
    status, headers, _ = node.ask("account", "HEAD", "a")
    assert (status, headers["X-Account-Status"]) == (404, "Deleted")
    status, _, body = put_account(node, 5)
    assert (status, body) == (403, b"Recently deleted")
    assert node.ask("account", "DELETE", "a", {"X-Timestamp": stamp(6)})[0] == 404


def put_container_row(node, name="a/c", **headers):
    sent = {
        "X-Put-Timestamp": stamp(1),
        "X-Delete-Timestamp": "0",
        "X-Object-Count": "2",
        "X-Bytes-Used": "3",
        **_dashed(headers),
    }
    return node.ask("account", "PUT", name, sent)


def test_an_account_sums_what_its_containers_report(node):
    put_account(node)
    put_container_row(node, "a/c1")
    put_container_row(node, "a/c2", X_Backend_Storage_Policy_Index="1")
    _, headers, _ = node.ask("account", "HEAD", "a")
    assert headers["X-Account-Container-Count"] == "2"
    assert headers["X-Account-Object-Count"] == "4"
    assert headers["X-Account-Storage-Policy-Silver-Bytes-Used"] == "3"
    rows = listing(node, "account", "a")
    assert [(row["name"], row["count"], row["storage_policy"]) for row in rows] == [
        ("c1", 2, "gold"),
        ("c2", 2, "silver"),
    ]


def test_rows_need_an_account_that_stands_or_may_be_made(node):
    assert put_container_row(node)[0] == 404
    assert put_container_row(node, ".expiring_objects/c")[0] == 201
    put_account(node)
    node.ask("account", "DELETE", "a", {"X-Timestamp": stamp(2)})
    assert put_container_row(node)[0] == 404
    assert put_container_row(node, X_Account_Override_Deleted="yes")[0] == 201


@pytest.mark.parametrize("path", ["a/c/o", "a/c"])
def test_paths_that_are_no_account_are_400(node, path):
    assert node.ask("account", "GET", path)[0] == 400


def test_devices_that_are_not_there_are_507(node):
    for kind, path in (("account", "a"), ("container", "a/c"), ("container", "a/c/o")):
        for method in ("GET", "PUT", "POST", "DELETE"):
            if path == "a/c/o" and method == "POST":
                continue
            sent = {"X-Timestamp": stamp(1), **ROW}
            answer = node.ask(kind, method, f"/nodev/7/{path}", sent)
            assert answer[0] == 507, (kind, method)


# --- replication ----------------------------------------------------------------------


def replicate(node, kind, name, *call):
    path_hash = node.cluster.salt.hex_of(name)
    body = json.dumps(call).encode()
    sent = {"Content-Length": str(len(body))}
    target = f"/{DEVICE}/7/{path_hash}"
    status, _, answer = node.ask(kind, "REPLICATE", target, sent, body)
    return status, json.loads(answer) if status == 200 else None


def test_replicas_exchange_facts_and_rows(node):
    put_container(node)
    put_row(node)
    name = ContainerName("a", "c")
    arguments = [5, "0" * 32, "remote-id", stamp(1), stamp(3), "0", "{}"]
    status, info = replicate(node, "container", name, "sync", *arguments)
    assert status == 200
    assert (info["point"], info["max_row"], info["db_state"]) == (-1, 1, "unsharded")
    row = {
        "ROWID": 9,
        "name": "far",
        "created_at": stamp(2),
        "size": 1,
        "content_type": "a/b",
        "etag": "e",
        "deleted": 0,
    }
    assert (
        replicate(node, "container", name, "merge_items", [row], "remote-id")[0] == 202
    )
    assert [row["name"] for row in listing(node)] == ["far", "o"]
    _, info = replicate(node, "container", name, "sync", *arguments)
    assert info["point"] == 9
    assert replicate(node, "container", name, "get_shard_ranges") == (200, [])
    assert (node.device / "tmp").is_dir()


def test_a_replica_that_is_missing_is_copied_whole(node):
    put_account(node)
    name = AccountName("a")
    path_hash = node.cluster.salt.hex_of(name)
    (source,) = node.device.rglob(f"{path_hash}.db")
    (node.device / "tmp").mkdir(exist_ok=True)
    shutil.copy(source, node.device / "tmp" / "copy-id")
    assert replicate(node, "account", name, "complete_rsync", "copy-id")[0] == 404
    target = f"/{DEVICE}/8/{path_hash}"
    body = b'["complete_rsync", "copy-id"]'
    sent = {"Content-Length": str(len(body))}
    assert node.ask("account", "REPLICATE", target, sent, body)[0] == 204
    assert node.ask("account", "HEAD", f"/{DEVICE}/8/a")[0] == 204


@pytest.mark.parametrize("call", [["fly"], [], ["sync", 1], ["merge_items"]])
def test_calls_that_make_no_sense_are_400(node, call):
    put_account(node)
    assert replicate(node, "account", AccountName("a"), *call)[0] == 400


def test_a_database_that_is_missing_is_404(node):
    assert replicate(node, "account", AccountName("x"), "merge_syncs", [])[0] == 404
