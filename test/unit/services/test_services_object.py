# SPDX-License-Identifier: Apache-2.0
"""The object server over real connections and on a real disk."""

from __future__ import annotations

import json
import os
import socket
from hashlib import md5
from urllib.parse import quote

import pytest

from swift.core import expiry, mime
from swift.core.errors import PeerError
from swift.core.headers import Headers
from swift.core.names import ObjectName
from swift.core.pickles import loads
from swift.core.settings import Reserve
from swift.runtime import green
from swift.runtime.logs import NULL_LOG
from swift.services.object_get import GetConfig, keeps_cache
from swift.wire.environ import LEAVE_RELATIVE_LOCATION as LEAVE
from swift.wire.environ import blank
from swift.wire.request import Response, call
from swift.wire.server import Server, ServerOptions, listen
from test.support.node import DEVICE, LOCALHOST, Node, stamp, temporary_files

PLAIN = {"Content-Type": "text/plain"}
BOUNDARY = "b" * 64


@pytest.fixture
def node(tmp_path):
    made = Node(tmp_path)
    yield made
    made.close()


def put(node, body=b"hello", at=1.0, name="a/c/o", **headers):
    sent = {**PLAIN, "X-Timestamp": stamp(at), **_dashed(headers)}
    return node.ask("object", "PUT", name, sent, body)


def get(node, name="a/c/o", method="GET", **headers):
    return node.ask("object", method, name, _dashed(headers))


def _dashed(headers):
    return {name.replace("_", "-"): value for name, value in headers.items()}


def pending_updates(node, policy=""):
    return [
        loads(path.read_bytes())
        for path in sorted((node.device / f"async_pending{policy}").rglob("*-*"))
    ]


# --- storing and reading --------------------------------------------------------------


def test_what_is_put_is_got_with_its_metadata(node):
    status, headers, _ = put(node, X_Object_Meta_Color="blue", Cache_Control="no-store")
    assert (status, headers["Etag"]) == (201, f'"{md5(b"hello").hexdigest()}"')
    status, headers, body = get(node)
    assert (status, body) == (200, b"hello")
    assert headers["X-Object-Meta-Color"] == "blue"
    assert headers["Cache-Control"] == "no-store"
    assert headers["X-Backend-Data-Timestamp"] == stamp(1)
    assert "X-Backend-Fragments" not in headers


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 300_000, 3_000_000])
def test_bodies_of_every_size_come_back(node, size):
    body = bytes(range(256)) * (size // 256 + 1)
    body = body[:size]
    assert put(node, body)[0] == 201
    status, headers, found = get(node)
    assert (status, headers["Content-Length"]) == (200, str(size))
    assert found == body
    status, headers, found = get(node, method="HEAD")
    assert (status, headers["Content-Length"], found) == (200, str(size), b"")


def test_names_may_be_any_text(node):
    name = f"a/c/{quote('ü//☃ %2F')}"
    assert put(node, name=name)[0] == 201
    assert get(node, name=name)[2] == b"hello"


def test_a_chunked_body_is_stored(node):
    connection = node.connection("object")
    headers = {**PLAIN, "X-Timestamp": stamp(1), "Transfer-Encoding": "chunked"}
    connection.send_head("PUT", f"/{DEVICE}/7/a/c/o", headers.items())
    for piece in (b"hel", b"lo"):
        connection.send_chunk(piece)
    connection.end_chunks()
    assert connection.response(60).status == 201
    assert get(node)[2] == b"hello"


@pytest.mark.parametrize(
    ("header", "status", "content_range", "body"),
    [
        ("bytes=1-3", 206, "bytes 1-3/5", b"ell"),
        ("bytes=-2", 206, "bytes 3-4/5", b"lo"),
        ("bytes=9-", 416, "bytes */5", None),
        ("bytes=x", 200, None, b"hello"),
    ],
)
def test_a_range_of_an_object(node, header, status, content_range, body):
    put(node)
    found, headers, content = get(node, Range=header)
    assert (found, headers.get("Content-Range")) == (status, content_range)
    if body is not None:
        assert content == body
    else:
        assert headers["Content-Type"].startswith("text/html")
        assert len(content) == int(headers["Content-Length"])


def test_several_ranges_are_parts_in_the_order_asked(node):
    body = bytes(200_000)
    put(node, body)
    status, headers, content = get(node, Range="bytes=150000-199999,0-9")
    assert status == 206
    assert len(content) == int(headers["Content-Length"])
    boundary = headers["Content-Type"].partition("boundary=")[2].encode()
    parser = mime.MimeParser(boundary)
    parts = []
    for event in parser.feed(content):
        if isinstance(event, mime.PartStart):
            parts.append([event.headers["Content-Range"], 0])
        elif isinstance(event, bytes):
            parts[-1][1] += len(event)
    assert parts == [
        ["bytes 150000-199999/200000", 50000],
        ["bytes 0-9/200000", 10],
    ]
    assert parser.finished
    assert content.endswith(b"--")


def test_a_range_is_ignored_when_named_metadata_is_there(node):
    put(node, X_Object_Sysmeta_Slo_Etag="e")
    name = "X-Object-Sysmeta-Slo-Etag"
    status, _, body = get(
        node, Range="bytes=0-1", X_Backend_Ignore_Range_If_Metadata_Present=f"x, {name}"
    )
    assert (status, body) == (200, b"hello")


def test_conditions_use_the_etag_that_the_proxy_points_to(node):
    put(node, X_Object_Sysmeta_Crypto_Etag="other")
    at = {"X_Backend_Etag_Is_At": "X-Object-Sysmeta-None,X-Object-Sysmeta-Crypto-Etag"}
    assert get(node, If_Match="other", **at)[0] == 200
    assert get(node, If_Match=md5(b"hello").hexdigest(), **at)[0] == 412
    assert get(node, If_None_Match="other", **at)[0] == 304


def test_a_missing_object_that_must_exist_is_412(node):
    assert get(node, If_Match="*")[0] == 412
    assert get(node, If_Match="x")[0] == 404


# --- what is refused ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"X-Timestamp": None}, 400, id="no timestamp"),
        pytest.param({"X-Timestamp": "soon"}, 400, id="bad timestamp"),
        pytest.param({"Content-Type": None}, 400, id="no content type"),
        pytest.param({"X-Delete-At": "tomorrow"}, 400, id="delete time no number"),
        pytest.param({"X-Delete-At": "1600000000"}, 400, id="delete time in the past"),
        pytest.param({"ETag": "0" * 32}, 422, id="other bytes expected"),
        pytest.param({"X-Backend-Storage-Policy-Index": "9"}, 503, id="no such policy"),
        pytest.param({"Transfer-Encoding": "gzip"}, 400, id="unknown coding"),
        pytest.param(
            {"X-Backend-Obj-Metadata-Footer": "yes"}, 400, id="footers, no boundary"
        ),
    ],
)
def test_a_put_that_is_refused_leaves_nothing(node, headers, status):
    sent = {**PLAIN, "X-Timestamp": stamp(1), "Content-Length": "5", **headers}
    sent = {name: value for name, value in sent.items() if value is not None}
    connection = node.connection("object")
    connection.send_head("PUT", f"/{DEVICE}/7/a/c/o", sent.items(), b"hello")
    assert connection.response(60).status == status
    assert get(node)[0] == 404
    assert not temporary_files(node)


def test_a_put_without_length_is_411(node):
    headers = {**PLAIN, "X-Timestamp": stamp(1)}
    environ = blank(f"/{DEVICE}/7/a/c/o", method="PUT", headers=headers)
    assert call(node.apps["object"], environ).status == 411


def test_names_and_sizes_have_limits(node):
    limits = node.cluster.limits
    longest = "n" * limits.max_object_name_length
    assert put(node, name=f"a/c/{longest}")[0] == 201
    assert put(node, name=f"a/c/{longest}n")[0] == 400
    connection = node.connection("object")
    headers = {
        **PLAIN,
        "X-Timestamp": stamp(1),
        "Content-Length": str(limits.max_file_size + 1),
    }
    connection.send_head("PUT", f"/{DEVICE}/7/a/c/big", headers.items())
    assert connection.response(60).status == 413


@pytest.mark.parametrize("name", ["a/c/%00o", "a/%00c/o", "a/c/o%00"])
def test_reserved_names_hold_to_their_rules(node, name):
    assert put(node, name=name)[0] == 400


def test_a_path_that_is_not_utf8_is_412(node):
    assert put(node, name="a/c/%ff")[0] == 412


def test_an_older_or_equal_put_is_409(node):
    put(node, at=5)
    for at in (4, 5):
        status, headers, _ = put(node, b"older", at=at)
        assert (status, headers["X-Backend-Timestamp"]) == (409, stamp(5))
    node.ask("object", "DELETE", "a/c/o", {"X-Timestamp": stamp(6)})
    assert put(node, at=6)[0] == 409
    assert put(node, at=7)[0] == 201


def test_a_put_that_must_be_new_is_412_when_it_is_not(node):
    put(node, at=1)
    assert put(node, at=2, If_None_Match="*")[0] == 412
    assert put(node, at=2, name="a/c/other", If_None_Match="*")[0] == 201


def test_unknown_methods_and_paths(node):
    assert node.ask("object", "BOGUS", "a/c/o")[0] == 405
    assert node.ask("object", "GET", "a/c")[0] == 400
    status, headers, _ = node.ask("object", "OPTIONS", "/")
    assert status == 200
    assert headers["Server"].startswith("object-server/")
    assert "REPLICATE" in headers["Allow"]


def test_a_device_that_is_not_there_is_507(node):
    for method in ("GET", "PUT", "POST", "DELETE"):
        sent = {**PLAIN, "X-Timestamp": stamp(1)}
        answer = node.ask("object", method, "/nodev/7/a/c/o", sent)
        assert answer[0] == 507
        assert b"Drive: nodev" in answer[2]


# --- bodies that break off ------------------------------------------------------------


def test_a_body_that_breaks_off_leaves_nothing(node):
    sock = socket.create_connection((LOCALHOST, node.ports["object"]))
    head = (
        f"PUT /{DEVICE}/7/a/c/o HTTP/1.1\r\nX-Timestamp: {stamp(1)}\r\n"
        "Content-Type: a/b\r\nContent-Length: 1000000\r\n\r\n"
    )
    sock.sendall(head.encode() + bytes(1000))
    green.sleep(0.05)
    sock.shutdown(socket.SHUT_WR)
    sock.setblocking(False)
    assert green.wait_readable(sock, 60)
    assert sock.recv(1000).startswith(b"HTTP/1.1 499 ")
    sock.close()
    assert get(node)[0] == 404
    assert not temporary_files(node)


def test_a_body_that_stalls_is_408(tmp_path):
    node = Node(tmp_path, client_timeout_s=0.1)
    connection = node.connection("object")
    headers = {**PLAIN, "X-Timestamp": stamp(1), "Content-Length": "10"}
    connection.send_head("PUT", f"/{DEVICE}/7/a/c/o", headers.items(), b"some")
    assert connection.response(60).status == 408
    node.close()


def test_fewer_bytes_than_hinted_is_499(node):
    connection = node.connection("object")
    headers = {
        **PLAIN,
        "X-Timestamp": stamp(1),
        "Transfer-Encoding": "chunked",
        "X-Backend-Obj-Content-Length": "6",
    }
    connection.send_head("PUT", f"/{DEVICE}/7/a/c/o", headers.items())
    connection.send_chunk(b"hello")
    connection.end_chunks()
    assert connection.response(60).status == 499
    assert get(node)[0] == 404


def test_clients_that_go_away_leave_no_descriptor_open(node):
    put(node, bytes(5_000_000))
    get(node)
    green.sleep(0.05)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        sock = socket.create_connection((LOCALHOST, node.ports["object"]))
        sock.sendall(f"GET /{DEVICE}/7/a/c/o HTTP/1.1\r\n\r\n".encode())
        green.sleep(0.02)
        sock.close()
        sock = socket.create_connection((LOCALHOST, node.ports["object"]))
        head = f"PUT /{DEVICE}/7/a/c/p HTTP/1.1\r\nX-Timestamp: {stamp(1)}\r\n"
        head += "Content-Type: a/b\r\nContent-Length: 900000\r\n\r\n"
        sock.sendall(head.encode() + bytes(500_000))
        green.sleep(0.02)
        sock.close()
    deadline = green.monotonic() + 60
    while len(os.listdir("/proc/self/fd")) > before:
        assert green.monotonic() < deadline, "descriptors leak"
        green.sleep(0.02)
    assert get(node, name="a/c/p")[0] == 404


# --- footers and commit ---------------------------------------------------------------


def begin_mime(node, *, commit=False, **headers):
    connection = node.connection("object")
    sent = {
        **PLAIN,
        "X-Timestamp": stamp(1),
        "Transfer-Encoding": "chunked",
        "Expect": "100-continue",
        "X-Backend-Obj-Multipart-Mime-Boundary": BOUNDARY,
        "X-Backend-Obj-Metadata-Footer": "yes",
        **_dashed(headers),
    }
    if commit:
        sent["X-Backend-Obj-Multiphase-Commit"] = "yes"
    connection.send_head("PUT", f"/{DEVICE}/7/a/c/o", sent.items())
    answer = connection.wait_continue(5)
    return connection, answer


def test_footers_complete_and_override_the_headers(node):
    connection, answer = begin_mime(
        node, X_Object_Meta_Color="header", X_Object_Meta_Keep="kept"
    )
    assert (answer.status, answer.headers["X-Obj-Metadata-Footer"]) == (100, "yes")
    connection.send_chunk(mime.body_opening(BOUNDARY))
    connection.send_chunk(b"he")
    connection.send_chunk(b"llo")
    footers = {
        "Etag": md5(b"hello").hexdigest(),
        "X-Object-Meta-Color": "footer",
        "X-Object-Sysmeta-S": "s",
        "X-Timestamp": "9",
    }
    connection.send_chunk(mime.footer_document(BOUNDARY, footers, last=True))
    connection.end_chunks()
    assert connection.response(60).status == 201
    _, headers, body = get(node)
    assert body == b"hello"
    assert headers["X-Object-Meta-Color"] == "footer"
    assert headers["X-Object-Meta-Keep"] == "kept"
    assert headers["X-Object-Sysmeta-S"] == "s"
    assert headers["X-Timestamp"] == stamp(1)


def broken_footers():
    good = mime.footer_document(BOUNDARY, {"X-Object-Meta-A": "b"}, last=True)
    wrong_etag = mime.footer_document(BOUNDARY, {"Etag": "0" * 32}, last=True)
    no_json = mime.footer_document(BOUNDARY, {}, last=True)
    digest = md5(b"{}").hexdigest().encode()
    bad_digest = md5(b"{)").hexdigest().encode()
    return [
        pytest.param(mime.body_closing(BOUNDARY, last=True), 400, id="none"),
        pytest.param(good.replace(b"Content-MD5", b"X-Other"), 400, id="no MD5"),
        pytest.param(good.replace(b'"b"', b'"c"'), 422, id="other MD5"),
        pytest.param(wrong_etag, 422, id="other etag"),
        pytest.param(
            no_json.replace(b"{}", b"{)").replace(digest, bad_digest), 400, id="no JSON"
        ),
        pytest.param(b"", 499, id="no end of the object"),
    ]


@pytest.mark.parametrize(("footer", "status"), broken_footers())
def test_broken_footers_leave_nothing(node, footer, status):
    connection, _ = begin_mime(node)
    connection.send_chunk(mime.body_opening(BOUNDARY) + b"hello" + footer)
    connection.end_chunks()
    assert connection.response(60).status == status
    assert get(node)[0] == 404


def test_a_commit_is_asked_for_by_a_second_100(node):
    connection, answer = begin_mime(node, commit=True)
    assert answer.headers["X-Obj-Multiphase-Commit"] == "yes"
    connection.send_chunk(mime.body_opening(BOUNDARY) + b"hello")
    connection.send_chunk(mime.footer_document(BOUNDARY, {}, last=False))
    connection.end_chunks()
    again = connection.wait_continue(5)
    assert (again.status, again.headers["X-Obj-Multiphase-Commit"]) == (100, "yes")
    connection.send_chunk(mime.commit_document(BOUNDARY))
    connection.end_chunks()
    assert connection.response(60).status == 201
    assert get(node)[2] == b"hello"


@pytest.mark.parametrize(
    ("document", "status"),
    [
        pytest.param(b"", 400, id="nothing"),
        pytest.param(
            mime.commit_document(BOUNDARY).replace(b"put commit", b"put other"),
            500,
            id="another document",
        ),
    ],
)
def test_what_comes_in_the_place_of_a_commit(node, document, status):
    connection, _ = begin_mime(node, commit=True)
    connection.send_chunk(mime.body_opening(BOUNDARY) + b"hello")
    connection.send_chunk(mime.footer_document(BOUNDARY, {}, last=False))
    connection.end_chunks()
    connection.wait_continue(5)
    connection.send_chunk(document)
    connection.end_chunks()
    assert connection.response(60).status == status


# --- POST and DELETE ------------------------------------------------------------------


def post(node, at, **headers):
    sent = {"X-Timestamp": stamp(at), **_dashed(headers)}
    return node.ask("object", "POST", "a/c/o", sent)


def test_a_post_replaces_metadata_but_not_sysmeta(node):
    put(node, X_Object_Meta_Old="o", X_Object_Sysmeta_S="s", Content_Encoding="gzip")
    status, headers, _ = post(node, 2, X_Object_Meta_New="n")
    assert status == 202
    assert headers["X-Object-Sysmeta-S"] == "s"
    assert headers["X-Backend-Content-Type"] == "text/plain"
    _, headers, body = get(node)
    assert body == b"hello"
    assert headers["X-Object-Meta-New"] == "n"
    assert headers["X-Object-Sysmeta-S"] == "s"
    assert headers["X-Timestamp"] == stamp(2)
    assert "X-Object-Meta-Old" not in headers
    assert "Content-Encoding" not in headers


def test_a_content_type_that_a_post_set_outlives_the_next_post(node):
    put(node)
    post(node, 2, Content_Type="image/png")
    post(node, 3, X_Object_Meta_A="a")
    _, headers, _ = get(node)
    assert headers["Content-Type"] == "image/png"
    assert headers["X-Object-Meta-A"] == "a"


def test_posts_that_are_refused(node):
    assert post(node, 1)[0] == 404
    put(node, at=5)
    assert post(node, 5)[0] == 409
    assert post(node, 4)[0] == 409
    assert post(node, 6, X_Delete_At="1")[0] == 400


def test_expired_objects_are_gone_unless_asked_for(node):
    put(node, at=1, X_Delete_At="1700000010", X_Object_Meta_A="a")
    late = {"X_Timestamp": stamp(20)}
    assert get(node, X_Timestamp=stamp(5))[0] == 200
    status, headers, _ = get(node, **late)
    assert (status, headers["X-Backend-Timestamp"]) == (404, stamp(1))
    assert get(node, X_Backend_Open_Expired="true", **late)[0] == 200
    assert post(node, 20, X_Object_Meta_B="b")[0] == 404
    assert post(node, 20, X_Backend_Open_Expired="true")[0] == 202


def delete(node, at, name="a/c/o", **headers):
    sent = {"X-Timestamp": stamp(at), **_dashed(headers)}
    return node.ask("object", "DELETE", name, sent)


def test_a_delete_leaves_a_tombstone_even_of_nothing(node):
    put(node, at=1)
    status, headers, _ = delete(node, 2)
    assert status == 204
    assert headers["X-Backend-Timestamp"] == stamp(2)
    assert headers["X-Backend-Content-Type"] == "text/plain"
    status, headers, _ = get(node)
    assert (status, headers["X-Backend-Timestamp"]) == (404, stamp(2))
    assert delete(node, 3)[0] == 404
    assert get(node)[1]["X-Backend-Timestamp"] == stamp(3)
    assert delete(node, 1, name="a/c/never")[0] == 404
    assert get(node, name="a/c/never")[1]["X-Backend-Timestamp"] == stamp(1)


def test_a_delete_older_than_the_data_is_409(node):
    put(node, at=5)
    status, headers, _ = delete(node, 4)
    assert (status, headers["X-Backend-Timestamp"]) == (409, stamp(5))
    assert get(node)[0] == 200


@pytest.mark.parametrize(
    ("at", "delete_at", "status"),
    [
        pytest.param(20, "1700000010", 204, id="match, though expired"),
        pytest.param(20, "1700000011", 412, id="other time"),
        pytest.param(20, "soon", 400, id="no number"),
        pytest.param(1, "1700000010", 409, id="newer object"),
    ],
)
def test_a_delete_on_condition_of_the_delete_time(node, at, delete_at, status):
    put(node, at=2, X_Delete_At="1700000010")
    assert delete(node, at, X_If_Delete_At=delete_at)[0] == status
    still_there = get(node, X_Timestamp=stamp(5))[0] == 200
    assert still_there is (status != 204)


# --- telling the container ------------------------------------------------------------


def container_headers(node):
    return {
        "X_Container_Host": node.host("container"),
        "X_Container_Device": DEVICE,
        "X_Container_Partition": "9",
    }


def make_container(node):
    sent = {"X-Timestamp": stamp(0)}
    path = f"/{DEVICE}/9/a/c"
    assert node.ask("container", "PUT", path, sent)[0] == 201


def listing(node, path=f"/{DEVICE}/9/a/c"):
    return json.loads(node.ask("container", "GET", f"{path}?format=json")[2])


def test_the_container_hears_of_put_post_and_delete(node):
    make_container(node)
    put(node, **container_headers(node))
    row = listing(node)[0]
    assert (row["name"], row["bytes"], row["content_type"]) == ("o", 5, "text/plain")
    assert row["hash"] == md5(b"hello").hexdigest()
    post(node, 2, Content_Type="image/png", **container_headers(node))
    assert listing(node)[0]["content_type"] == "image/png"
    delete(node, 3, **container_headers(node))
    assert listing(node) == []
    assert pending_updates(node) == []


def test_a_post_lists_an_object_whose_container_never_heard_of_it(node):
    make_container(node)
    put(node)
    assert listing(node) == []

    post(node, 2, X_Object_Meta_Color="blue", **container_headers(node))

    (row,) = listing(node)
    found = (row["name"], row["bytes"], row["hash"], row["content_type"])
    assert found == ("o", 5, md5(b"hello").hexdigest(), "text/plain")


def test_updates_use_one_kept_connection(node):
    make_container(node)
    for at in range(1, 6):
        put(node, at=at, **container_headers(node))
    pool = node.apps["object"]._updates._sender._pool
    assert pool.idle_count() == 1


def test_an_update_that_fails_is_kept(node):
    hosts = f"{node.host('container')},{LOCALHOST}:1"
    headers = {
        "X_Container_Host": hosts,
        "X_Container_Device": f"{DEVICE},{DEVICE}",
        "X_Container_Partition": "9",
    }
    make_container(node)
    assert put(node, **headers)[0] == 201
    assert len(listing(node)) == 1
    (update,) = pending_updates(node)
    assert (update["op"], update["container"], update["obj"]) == ("PUT", "c", "o")


def test_a_missing_container_keeps_the_update_too(node):
    put(node, X_Backend_Storage_Policy_Index="1", **container_headers(node))
    (update,) = pending_updates(node, "-1")
    assert update["headers"]["X-Backend-Storage-Policy-Index"] == "1"


def test_hosts_without_devices_are_not_told(node):
    headers = container_headers(node)
    headers["X_Container_Device"] = "d1,d2"
    assert put(node, **headers)[0] == 201
    assert pending_updates(node) == []


def test_a_silent_container_server_does_not_hold_the_answer(tmp_path):
    node = Node(tmp_path, container_update_timeout_s=0.1)
    silent = socket.create_server((LOCALHOST, 0))
    host = f"{LOCALHOST}:{silent.getsockname()[1]}"
    headers = {**container_headers(node), "X_Container_Host": host}
    assert put(node, **headers)[0] == 201
    assert len(pending_updates(node)) == 1
    silent.close()
    node.close()


def test_a_row_takes_what_middleware_overrides(node):
    make_container(node)
    put(
        node,
        X_Backend_Container_Update_Override_Etag="weak",
        X_Object_Sysmeta_Container_Update_Override_Etag="strong",
        X_Backend_Container_Update_Override_Size="99",
        X_Backend_Container_Update_Override_Content_Type="a/b",
        **container_headers(node),
    )
    row = listing(node)[0]
    assert (row["hash"], row["bytes"], row["content_type"]) == ("strong", 99, "a/b")


def test_a_shard_is_told_in_the_place_of_the_root(node):
    headers = {
        **container_headers(node),
        "X_Backend_Quoted_Container_Path": quote(".shards_a/c-ü"),
    }
    put(node, **headers)
    (update,) = pending_updates(node)
    assert update["container_path"] == ".shards_a/c-ü"
    assert (update["account"], update["container"]) == ("a", "c")


@pytest.mark.parametrize(
    ("headers", "target"),
    [
        pytest.param(
            {
                "Location": "/.shards_a/c%20x/o",
                "X-Backend-Location-Is-Quoted": "true",
                "X-Backend-Redirect-Timestamp": stamp(3),
            },
            ".shards_a/c x",
            id="quoted",
        ),
        pytest.param(
            {
                "Location": "/.shards_a/c/o",
                "X-Backend-Redirect-Timestamp": stamp(3),
            },
            ".shards_a/c",
            id="plain",
        ),
        pytest.param({"Location": "/.shards_a/c/o"}, None, id="no time"),
        pytest.param(
            {"Location": "/a", "X-Backend-Redirect-Timestamp": stamp(3)},
            None,
            id="no container",
        ),
    ],
)
def test_a_redirect_is_kept_with_its_target(node, headers, target):
    def app(environ, start_response):
        return Response(301, headers)({**environ, LEAVE: True}, start_response)

    options = ServerOptions(bind_ip=LOCALHOST)
    server = Server(app, listen(options), options, NULL_LOG)
    server.start()
    host = f"{LOCALHOST}:{server.port}"
    assert put(node, **{**container_headers(node), "X_Container_Host": host})[0] == 201
    (update,) = pending_updates(node)
    assert update.get("container_path") == target
    server.close()


# --- telling the expirer's queue ------------------------------------------------------


def queue_headers(node):
    return {
        "X_Delete_At_Host": node.host("container"),
        "X_Delete_At_Device": DEVICE,
        "X_Delete_At_Partition": "11",
    }


def queue(node, delete_at):
    name = ObjectName("a", "c", "o")
    container = expiry.queue_container(delete_at, name, node.cluster.salt)
    path = f"/{DEVICE}/11/{expiry.QUEUE_ACCOUNT}/{container}"
    status, _, body = node.ask("container", "GET", f"{path}?format=json")
    return json.loads(body) if status == 200 else []


def test_an_expiring_object_is_queued_and_its_old_row_removed(node):
    put(node, X_Delete_At="1800000000", **queue_headers(node))
    (row,) = queue(node, 1800000000)
    assert row["name"] == "1800000000-a/c/o"
    assert row["content_type"] == "text/plain;swift_expirer_bytes=5"
    assert pending_updates(node) == []
    put(node, at=2, X_Delete_At="1900000000", **queue_headers(node))
    assert len(queue(node, 1900000000)) == 1
    (removal,) = pending_updates(node)
    assert (removal["op"], removal["obj"]) == ("DELETE", "1800000000-a/c/o")


def test_another_node_may_have_been_told_to_clean_the_queue(node):
    put(node, X_Delete_At="1800000000", **queue_headers(node))
    delete(node, 2, X_Backend_Clean_Expiring_Object_Queue="f")
    assert pending_updates(node) == []


def test_replication_does_not_queue(node):
    put(
        node,
        X_Delete_At="1800000000",
        X_Backend_Replication="true",
        **queue_headers(node),
    )
    assert queue(node, 1800000000) == []
    assert pending_updates(node) == []


def test_replication_names_further_headers_to_store(node):
    put(
        node,
        X_Backend_Replication="true",
        X_Backend_Replication_Headers="X-Odd Content-Type",
        X_Odd="kept",
    )
    (path,) = node.device.rglob("*.data")
    assert b"X-Odd" in os.getxattr(path, "user.swift.metadata")


# --- disks that fail ------------------------------------------------------------------


@pytest.mark.parametrize("size", [5, 100_000, 1_000_000])
def test_a_corrupt_object_of_one_window_is_never_sent(node, size):
    put(node, bytes(size))
    (path,) = node.device.rglob("*.data")
    path.write_bytes(bytes(size - 1) + b"x")
    assert get(node)[0] == 404
    assert (node.device / "quarantined" / "objects").is_dir()


def test_a_corrupt_large_object_breaks_off(node):
    put(node, bytes(3_000_000))
    (path,) = node.device.rglob("*.data")
    path.write_bytes(bytes(2_999_999) + b"x")
    with pytest.raises(PeerError):
        get(node)
    assert get(node)[0] == 404


def test_a_full_disk_is_507_and_keeps_what_is_there(tmp_path):
    node = Node(tmp_path)
    put(node, at=1)
    node.close()
    full = Node(tmp_path, disks={"fallocate_reserve": Reserve(percent=100.0)})
    assert put(full, bytes(100_000), at=2)[0] == 507
    assert get(full)[2] == b"hello"
    assert not temporary_files(full)
    full.close()


@pytest.mark.parametrize("header", [None, "bytes=100000-299999"])
def test_large_bodies_may_be_sent_by_the_kernel(tmp_path, header):
    node = Node(tmp_path, disks={"splice": True})
    body = bytes(range(256)) * 4000
    put(node, body)
    asked = {} if header is None else {"Range": header}
    _, headers, content = get(node, **asked)
    expected = body if header is None else body[100000:300000]
    assert content == expected
    assert headers["Content-Length"] == str(len(expected))
    node.close()


def test_suffix_hashes_are_pickled(node):
    put(node)
    status, _, body = node.ask("object", "REPLICATE", f"/{DEVICE}/7")
    hashes = loads(body)
    assert status == 200
    assert len(hashes) == 1
    (suffix,) = hashes
    status, _, body = node.ask("object", "REPLICATE", f"/{DEVICE}/7/{suffix}")
    assert loads(body) is None
    assert loads(node.ask("object", "REPLICATE", f"/{DEVICE}/99")[2]) == {}


# --- options --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "headers", "metadata", "length", "kept"),
    [
        pytest.param({}, {}, {}, 5, True, id="read by anybody"),
        pytest.param({}, {}, {}, 11, False, id="too large"),
        pytest.param({}, {"X-Auth-Token": "t"}, {}, 5, False, id="with a token"),
        pytest.param(
            {"keep_cache_private": True}, {"X-Auth-Token": "t"}, {}, 5, True,
            id="with a token, and that is fine",
        ),
        pytest.param(
            {"keep_cache_slo_manifest": True}, {"X-Auth-Token": "t"},
            {"X-Static-Large-Object": "True"}, 5, True, id="a manifest",
        ),
        pytest.param(
            {"keep_cache_slo_manifest": True}, {"X-Auth-Token": "t"}, {}, 5, False,
            id="no manifest",
        ),
    ],
)  # fmt: skip
def test_what_stays_in_the_page_cache(options, headers, metadata, length, kept):
    config = GetConfig(keep_cache_size=10, **options)
    assert keeps_cache(config, Headers(headers), metadata, length) is kept


def test_changes_take_as_long_as_a_slow_device_would(tmp_path):
    node = Node(tmp_path, slow_s=0.05)
    try:
        start = green.monotonic()
        assert put(node)[0] == 201
        assert green.monotonic() - start >= 0.05
    finally:
        node.close()


def test_a_delete_that_took_long_is_logged(tmp_path):
    lines = []

    class Log:
        def __getattr__(self, name):
            return getattr(NULL_LOG, name)

        def warning(self, message, *args):
            lines.append(message % args)

    node = Node(tmp_path, slow_delete_log_threshold_s=0.0)
    try:
        node.apps["object"].log = Log()
        assert put(node)[0] == 201
        headers = {"X-Timestamp": stamp(2)}
        assert node.ask("object", "DELETE", "a/c/o", headers)[0] == 204
    finally:
        node.close()
    assert len(lines) == 1
    assert lines[0].startswith(f"{DEVICE}: DELETE of /a/c/o took ")
