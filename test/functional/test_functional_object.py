# SPDX-License-Identifier: Apache-2.0
"""Objects as a client sees them: contract api.md sections 4, 5, 8 and 13."""

from __future__ import annotations

import hashlib
import os
import time
from email.utils import parsedate_to_datetime
from urllib.parse import quote

import pytest

from test.support.cluster import LIMIT_S, wait_until

DATA = b"The quick brown fox jumps over the lazy dog"
ETAG = hashlib.md5(DATA).hexdigest()


@pytest.fixture
def fox(client, container):
    """The path of a small object."""
    path = f"{container}/fox.txt"
    got = client.put(path, DATA, {"X-Object-Meta-Colour": "red"})
    assert got.status == 201
    return path


def test_put_answers_with_the_etag_and_a_date(client, container):
    got = client.put(f"{container}/o", DATA)
    assert got.status == 201
    assert got.headers["etag"] == ETAG
    assert got.headers["content-length"] == "0"
    assert parsedate_to_datetime(got.headers["last-modified"])
    assert got.headers["x-trans-id"] == got.headers["x-openstack-request-id"]


def test_get_gives_back_the_bytes_and_the_metadata(client, fox):
    got = client.get(fox)
    assert (got.status, got.body) == (200, DATA)
    assert got.headers["etag"] == ETAG
    assert got.headers["content-type"] == "text/plain"
    assert got.headers["content-length"] == str(len(DATA))
    assert got.headers["x-object-meta-colour"] == "red"
    assert got.headers["accept-ranges"] == "bytes"
    assert float(got.headers["x-timestamp"]) > 1e9
    assert "vary" not in got.headers


def test_head_is_get_without_the_body(client, fox):
    got, head = client.get(fox), client.head(fox)
    assert (head.status, head.body) == (200, b"")
    drop = {"date", "x-trans-id", "x-openstack-request-id"}
    assert {k: v for k, v in head.headers.items() if k not in drop} == {
        k: v for k, v in got.headers.items() if k not in drop
    }


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 3_000_000])
def test_any_size_comes_back_whole(client, container, size):
    data = os.urandom(size)
    path = f"{container}/sized"
    assert client.put(path, data).status == 201
    got = client.get(path)
    assert got.body == data
    assert got.headers["etag"] == hashlib.md5(data).hexdigest()


@pytest.mark.parametrize("size", [0, 5, 200_000])
def test_a_chunked_upload_is_stored_whole(client, container, size):
    data = os.urandom(size)
    pieces = [data[at : at + 7000] for at in range(0, size, 7000)]
    got = client.request(
        "PUT",
        f"{container}/chunked",
        {"Transfer-Encoding": "chunked"},
        iter(pieces),
        chunked=True,
    )
    assert got.status == 201
    assert client.get(f"{container}/chunked").body == data


@pytest.mark.parametrize(
    "name",
    ["a b", "ünïcødé/☃", "x/../y", ".", "a//b", "/lead", "100%", "q?x", "a&b=c#d", "+"],
)
def test_odd_names_are_ordinary(client, container, name):
    path = f"{container}/{quote(name)}"
    assert client.put(path, name.encode()).status == 201
    assert client.get(path).body == name.encode()
    listed = client.get(f"{container}?format=json").json()
    assert [row["name"] for row in listed] == [name]
    assert client.delete(path).status == 204


def test_an_encoded_slash_is_a_slash(client, container):
    name = container.rpartition("/")[2]
    assert client.put(f"{client.base}/{name}%2Fz", b"1").status == 201
    assert client.get(f"{container}/z").body == b"1"


def test_overwriting_replaces_data_and_metadata(client, fox):
    assert client.put(fox, b"new", {"X-Object-Meta-Size": "big"}).status == 201
    got = client.get(fox)
    assert got.body == b"new"
    assert "x-object-meta-colour" not in got.headers
    assert got.headers["x-object-meta-size"] == "big"


def test_post_replaces_metadata_and_keeps_the_data(client, fox):
    before = client.get(fox)
    got = client.post(fox, {"X-Object-Meta-Shape": "round", "X-Delete-At": ""})
    assert got.status == 400
    got = client.post(fox, {"X-Object-Meta-Shape": "round"})
    assert got.status == 202
    after = client.get(fox)
    assert after.body == DATA
    assert after.headers["content-type"] == before.headers["content-type"]
    assert "x-object-meta-colour" not in after.headers
    assert after.headers["x-object-meta-shape"] == "round"
    assert float(after.headers["x-timestamp"]) > float(before.headers["x-timestamp"])


def test_post_changes_the_content_type_when_sent(client, fox):
    assert client.post(fox, {"Content-Type": "text/x-fox"}).status == 202
    assert client.get(fox).headers["content-type"] == "text/x-fox"
    listed = client.get(f"{fox.rpartition('/')[0]}?format=json").json()
    assert listed[0]["content_type"] == "text/x-fox"


def test_delete_removes_it_from_everywhere(client, fox):
    assert client.delete(fox).status == 204
    assert client.get(fox).status == 404
    assert client.delete(fox).status == 404
    assert client.get(fox.rpartition("/")[0]).status == 204


def test_headers_of_the_object_are_stored(client, container):
    sent = {
        "Content-Disposition": 'attachment; filename="x"',
        "Content-Encoding": "gzip",
        "Cache-Control": "max-age=5",
        "Content-Language": "en",
        "Expires": "Wed, 21 Oct 2015 07:28:00 GMT",
        "X-Robots-Tag": "noindex",
    }
    assert client.put(f"{container}/h", b"x", sent).status == 201
    got = client.get(f"{container}/h").headers
    assert {name: got[name.lower()] for name in sent} == sent
    assert client.post(f"{container}/h", {"X-Object-Meta-A": "b"}).status == 202
    assert "content-encoding" not in client.get(f"{container}/h").headers


def test_the_content_type_is_guessed_from_the_name(client, container):
    def stored(name, headers=None):
        client.put(f"{container}/{name}", b"", headers)
        return client.head(f"{container}/{name}").headers["content-type"]

    assert stored("a.html").startswith("text/html")
    assert stored("a.no-such-ending") == "application/octet-stream"
    assert stored("b.html", {"Content-Type": "x/y"}) == "x/y"
    detect = {"Content-Type": "x/y", "X-Detect-Content-Type": "true"}
    assert stored("c.html", detect).startswith("text/html")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Range": "bytes=4-8"}, 206),
        ({"Range": "bytes=4-"}, 206),
        ({"Range": "bytes=-3"}, 206),
        ({"Range": "bytes=-1000"}, 206),
        ({"Range": "BYTES = 4-8"}, 206),
        ({"Range": "bytes=43-"}, 416),
        ({"Range": "bytes=-0"}, 416),
        ({"Range": "bytes=8-4"}, 200),
        ({"Range": "bytes=x"}, 200),
        ({"Range": "lines=1-2"}, 200),
        ({"If-Match": ETAG}, 200),
        ({"If-Match": f'"{ETAG}"'}, 200),
        ({"If-Match": "other"}, 412),
        ({"If-None-Match": ETAG}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": "other"}, 200),
        ({"If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}, 304),
        ({"If-Modified-Since": "Fri, 01 Jan 2010 00:00:00 GMT"}, 200),
        ({"If-Unmodified-Since": "Fri, 01 Jan 2010 00:00:00 GMT"}, 412),
        ({"If-Unmodified-Since": "rubbish"}, 200),
    ],
)
def test_ranges_and_conditions(client, fox, headers, status):
    got = client.get(fox, headers)
    assert got.status == status
    if status in (304, 412):
        assert got.body == b""
        assert got.headers["etag"] == ETAG
    if status == 416:
        assert got.headers["content-range"] == f"bytes */{len(DATA)}"
    if status == 206:
        unit, _, span = got.headers["content-range"].partition(" ")
        first, _, rest = span.partition("-")
        last, _, total = rest.partition("/")
        assert (unit, total) == ("bytes", str(len(DATA)))
        assert got.body == DATA[int(first) : int(last) + 1]
        assert got.headers["content-length"] == str(len(got.body))


def test_several_ranges_come_as_a_mime_document(client, fox):
    got = client.get(fox, {"Range": "bytes=0-2,10-14,-3"})
    assert got.status == 206
    kind, _, boundary = got.headers["content-type"].partition(";boundary=")
    assert kind == "multipart/byteranges"
    expected = b""
    for first, last in ((0, 2), (10, 14), (40, 42)):
        expected += (
            (
                f"--{boundary}\r\nContent-Type: text/plain\r\n"
                f"Content-Range: bytes {first}-{last}/{len(DATA)}\r\n\r\n"
            ).encode()
            + DATA[first : last + 1]
            + b"\r\n"
        )
    expected += f"--{boundary}--".encode()
    assert got.body == expected
    assert got.headers["content-length"] == str(len(expected))


@pytest.mark.parametrize(
    "value",
    [
        ",".join(f"{n}-{n}" for n in range(51)),
        "0-5,1-6,2-7",
        "9-9,8-8,7-7,6-6,5-5,4-4,3-3,2-2",
    ],
    ids=["too many", "overlapping", "descending"],
)
def test_abusive_ranges_are_refused(client, container, value):
    client.put(f"{container}/o", b"x" * 100)
    assert client.get(f"{container}/o", {"Range": f"bytes={value}"}).status == 416


def test_head_ignores_ranges(client, fox):
    got = client.head(fox, {"Range": "bytes=0-1"})
    assert (got.status, got.headers["content-length"]) == (200, str(len(DATA)))


def test_an_upload_may_demand_to_be_the_first(client, fox):
    assert client.put(fox, b"x", {"If-None-Match": "*"}).status == 412
    assert client.put(fox, b"x", {"If-None-Match": "abc"}).status == 400
    assert client.put(f"{fox}2", b"x", {"If-None-Match": "*"}).status == 201


def test_a_wrong_etag_stores_nothing(client, container):
    got = client.put(f"{container}/o", DATA, {"ETag": "0" * 32})
    assert got.status == 422
    assert client.get(f"{container}/o").status == 404
    assert client.put(f"{container}/o", DATA, {"ETag": f'"{ETAG}"'}).status == 201


def test_an_object_expires(client, container):
    path = f"{container}/soon"
    assert client.put(path, b"x", {"X-Delete-After": "1"}).status == 201
    wait_until(lambda: client.get(path).status == 404, LIMIT_S, "expiry")
    assert client.head(path).status == 404
    assert client.post(path, {"X-Object-Meta-A": "b"}).status == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Delete-At": "x"},
        {"X-Delete-At": "1"},
        {"X-Delete-After": "x"},
        {"X-Delete-After": "-5"},
    ],
)
def test_an_expiry_in_the_past_or_not_a_number_is_refused(client, container, headers):
    assert client.put(f"{container}/o", b"x", headers).status == 400


def test_a_post_without_expiry_removes_it(client, container):
    path = f"{container}/o"
    later = str(int(time.time()) + 1000)
    client.put(path, b"x", {"X-Delete-At": later})
    assert client.head(path).headers["x-delete-at"] == later
    client.post(path, {})
    assert "x-delete-at" not in client.head(path).headers


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-Object-Meta-" + "a" * 128: "v"}, 201),
        ({"X-Object-Meta-" + "a" * 129: "v"}, 400),
        ({"X-Object-Meta-A": "v" * 256}, 201),
        ({"X-Object-Meta-A": "v" * 257}, 400),
        ({f"X-Object-Meta-{n}": "v" for n in range(90)}, 201),
        ({f"X-Object-Meta-{n}": "v" for n in range(91)}, 400),
        ({f"X-Object-Meta-{n}": "v" * 255 for n in range(15)}, 201),
        ({f"X-Object-Meta-{n}": "v" * 256 for n in range(17)}, 400),
        ({"X-Object-Meta-": "v"}, 400),
        ({"Content-Type": "text/plain; swift_bytes=4"}, 400),
    ],
)
def test_metadata_has_limits_on_both_sides(client, container, headers, status):
    got = client.put(f"{container}/o", b"x", headers)
    if status == 201 and got.status == 400:
        # ext4 keeps no more than one block of attributes for a file. What the API
        # allows and the disk cannot hold is refused; it is not lost, and it is not
        # taken for a full disk.
        assert b"do not fit" in got.body, got.body
        # What a record adds to each name, and what an erasure code adds, count too.
        text = sum(len(name) + len(value) for name, value in headers.items())
        assert text + 20 * len(headers) > 2500
        assert client.get(f"{container}/o").status == 404
        return
    assert got.status == status


@pytest.mark.parametrize(("length", "status"), [(1024, 201), (1025, 400)])
def test_object_names_have_a_limit(client, container, length, status):
    assert client.put(f"{container}/{'n' * length}", b"x").status == status


def test_a_missing_container_is_404(client):
    assert client.put(f"{client.base}/no-such-container/o", b"x").status == 404
    assert client.get(f"{client.base}/no-such-container/o").status == 404


def test_headers_of_the_cluster_have_no_effect(client, container):
    path = f"{container}/o"
    sent = {
        "X-Backend-Storage-Policy-Index": "7",
        "X-Object-Sysmeta-Evil": "1",
        "X-Object-Transient-Sysmeta-Evil": "1",
        "X-Container-Host": "127.0.0.1:1",
        "X-Backend-Container-Update-Override-Size": "999",
        "X-Timestamp": "1.0",
    }
    assert client.put(path, b"x", sent).status == 201
    got = client.get(path)
    assert got.status == 200
    assert not [name for name in got.headers if "evil" in name or "backend" in name]
    row = client.get(f"{container}?format=json").json()[0]
    assert row["bytes"] == 1
    assert float(got.headers["x-timestamp"]) > 1e9


def test_copy_by_both_ways(client, container, fox):
    name = container.rpartition("/")[2]
    got = client.request("COPY", fox, {"Destination": f"{name}/one"})
    assert got.status == 201
    assert got.headers["x-copied-from"] == f"{name}/fox.txt"
    got = client.put(
        f"{container}/two",
        None,
        {"X-Copy-From": f"/{name}/fox.txt", "X-Object-Meta-A": "b"},
    )
    assert got.status == 201
    for copied in ("one", "two"):
        answer = client.get(f"{container}/{copied}")
        assert answer.body == DATA
        assert answer.headers["x-object-meta-colour"] == "red"
    assert client.head(f"{container}/two").headers["x-object-meta-a"] == "b"
    fresh = {"X-Copy-From": f"/{name}/fox.txt", "X-Fresh-Metadata": "true"}
    assert client.put(f"{container}/three", None, fresh).status == 201
    assert "x-object-meta-colour" not in client.head(f"{container}/three").headers


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("COPY", {}, 412),
        ("COPY", {"Destination": "only-a-container"}, 412),
        ("PUT", {"X-Copy-From": "nothing"}, 412),
        ("PUT", {"X-Copy-From": "/no-such/o"}, 404),
    ],
)
def test_a_copy_that_makes_no_sense_is_refused(client, fox, method, headers, status):
    assert client.request(method, fox, headers).status == status


def test_x_newest_is_answered(client, fox):
    assert client.get(fox, {"X-Newest": "true"}).body == DATA
