# SPDX-License-Identifier: Apache-2.0
"""Temporary URLs and forms over HTTP: contract middleware.md 14 and 30."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import time
from urllib.parse import quote

import pytest

KEY = "a key of the account"
SECRET = b"nobody else may read this"


@pytest.fixture(scope="module")
def owner(client):
    got = client.post(client.base, {"X-Account-Meta-Temp-Url-Key": KEY})
    assert got.status == 204
    return client


@pytest.fixture
def stranger(owner):
    return owner.anonymous()


def sign(method, path, *, key=KEY, expires=None, digest="sha256", prefix=None):
    """The query of a temporary URL for a decoded path."""
    expires = int(time.time()) + 60 if expires is None else expires
    text = path
    if prefix is not None:
        text = "prefix:" + "/".join(path.split("/")[:4]) + "/" + prefix
    message = f"{method}\n{expires}\n{text}".encode()
    signature = hmac.new(key.encode(), message, digest).hexdigest()
    query = f"temp_url_sig={signature}&temp_url_expires={expires}"
    return query if prefix is None else f"{query}&temp_url_prefix={quote(prefix)}"


def test_an_address_reads_one_object(owner, stranger, container):
    path = f"{container}/dir/o.txt"
    headers = {"X-Object-Meta-Colour": "red"}
    assert owner.put(path, b"hello", headers).status == 201
    assert stranger.get(path).status == 401
    got = stranger.get(f"{path}?{sign('GET', path)}")
    assert (got.status, got.body) == (200, b"hello")
    assert got.headers["content-disposition"].startswith('attachment; filename="o.txt"')
    assert "expires" in got.headers
    assert "x-object-meta-colour" not in got.headers
    part = stranger.get(f"{path}?{sign('GET', path)}", {"Range": "bytes=1-2"})
    assert (part.status, part.body) == (206, b"el")
    assert stranger.head(f"{path}?{sign('GET', path)}").status == 200
    for wrong in (
        sign("PUT", path),
        sign("GET", path + "x"),
        sign("GET", path, key="other"),
        sign("GET", path, expires=1),
    ):
        assert stranger.get(f"{path}?{wrong}").status == 401


@pytest.mark.parametrize("digest", ["sha1", "sha256", "sha512"])
def test_an_address_writes_and_deletes_one_object(stranger, container, digest):
    path = f"{container}/up"
    put = stranger.put(f"{path}?{sign('PUT', path, digest=digest)}", b"data")
    assert put.status == 201
    got = stranger.get(f"{path}?{sign('GET', path)}&inline&filename=x")
    assert got.body == b"data"
    assert got.headers["content-disposition"].startswith('inline; filename="x"')
    assert stranger.delete(f"{path}?{sign('DELETE', path)}").status == 204


def test_a_prefix_opens_what_begins_so(owner, stranger, container):
    for name in ("pre/1", "pre/2", "other"):
        assert owner.put(f"{container}/{name}", b"x").status == 201
    query = sign("GET", f"{container}/", prefix="pre/")
    answers = [
        stranger.get(f"{container}/{name}?{query}").status
        for name in ("pre/1", "pre/2", "other")
    ]
    assert answers == [200, 200, 401]


def test_the_key_of_a_container_opens_that_container(owner, stranger, container):
    headers = {"X-Container-Meta-Temp-Url-Key": "ckey"}
    assert owner.post(container, headers).status == 204
    path = f"{container}/o"
    query = sign("PUT", path, key="ckey")
    assert stranger.put(f"{path}?{query}", b"x").status == 201
    assert (
        stranger.get(f"{container}?{sign('GET', container, key='ckey')}").status == 401
    )
    assert stranger.get(f"{path}2?{sign('GET', path + '2', key='ckey')}").status == 404


# --- What an address must not open ----------------------------------------------------

SOURCES = {
    "X-Copy-From": "{container}/secret",
    "X-Object-Manifest": "{container}/sec",
    "X-Symlink-Target": "{container}/secret",
}
QUERIES = ("", "multipart-manifest=put", "symlink=get", "version-id=null", "format=raw")
SLO = b'[{"path": "/%s/secret"}]'


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_no_sequence_of_writes_makes_another_object_readable(
    owner, stranger, container, method
):
    short = container.rpartition("/")[2]
    account = container.split("/")[2]
    etag = hashlib.md5(SECRET).hexdigest()
    assert (
        owner.put(
            f"{container}/secret", SECRET, {"X-Object-Meta-Hidden": "hiddenvalue"}
        ).status
        == 201
    )
    path = f"{container}/mine"
    assert owner.put(path, b"").status == 201
    attempts = 0
    for (name, value), query, is_manifest in itertools.product(
        SOURCES.items(), QUERIES, (False, True)
    ):
        headers = {
            name: value.format(container=short),
            f"{name}-Account": account,
            "Content-Type": "text/plain",
        }
        body = SLO % short.encode() if is_manifest and method == "PUT" else b""
        if is_manifest:
            headers = {}
        got = stranger.request(
            method, f"{path}?{sign(method, path)}&{query}", headers, body
        )
        attempts += 1
        seen = [got]
        for read in ("GET", "HEAD"):
            for show in ("", "&multipart-manifest=get", "&symlink=get"):
                target = f"{path}?{sign(method, path)}{show}"
                seen.append(stranger.request(read, target))
        # What the owner's readers get of the object that was written.
        seen += [owner.get(path), owner.head(path)]
        for answer in seen:
            assert SECRET not in answer.body
            text = repr(answer.headers)
            assert etag not in text
            assert "hiddenvalue" not in text
    assert attempts == 30


def test_an_address_for_reading_changes_nothing(owner, stranger, container):
    path = f"{container}/o"
    assert owner.put(path, b"old").status == 201
    for read in ("GET", "HEAD"):
        query = sign(read, path)
        for method in ("PUT", "POST", "DELETE", "COPY"):
            headers = {"Destination": f"{container.rpartition('/')[2]}/p"}
            got = stranger.request(method, f"{path}?{query}", headers)
            assert got.status in (401, 405)
    assert owner.get(path).body == b"old"
    assert stranger.get(f"{container}?{sign('GET', path)}").status == 401


# --- Forms ----------------------------------------------------------------------------


def form(path, files, *, key=KEY, redirect="", count=10, size=1000, extra=()):
    """(headers, body) of a browser's POST."""
    expires = int(time.time()) + 60
    text = f"{path}\n{redirect}\n{size}\n{count}\n{expires}"
    fields = {
        "redirect": redirect,
        "max_file_size": size,
        "max_file_count": count,
        "expires": expires,
        "signature": hmac.new(key.encode(), text.encode(), "sha256").hexdigest(),
        **dict(extra),
    }
    mark = "----formboundary"
    lines = [
        f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    body = "".join(lines).encode()
    for name, data in files.items():
        body += (
            f'--{mark}\r\nContent-Disposition: form-data; name="f"; filename="{name}"'
            "\r\nContent-Type: image/png\r\n\r\n"
        ).encode()
        body += data + b"\r\n"
    body += f"--{mark}--\r\n".encode()
    return {"Content-Type": f"multipart/form-data; boundary={mark}"}, body


def test_a_form_uploads_files(owner, stranger, container):
    path = f"{container}/p_"
    big = b"z" * 900_000
    headers, body = form(path, {"a.png": b"one", "b.png": big}, size=1_000_000)
    got = stranger.post(path, headers, body)
    assert got.status == 201, got.body
    assert owner.get(f"{container}/p_a.png").body == b"one"
    found = owner.get(f"{container}/p_b.png")
    assert found.body == big
    assert found.headers["content-type"] == "image/png"


def test_a_form_goes_on_to_its_page(stranger, container):
    path = f"{container}/"
    headers, body = form(path, {"x": b"1"}, redirect="https://example.com/done")
    got = stranger.post(path, headers, body)
    assert got.status == 303
    assert got.headers["location"] == "https://example.com/done?status=201&message="


def test_a_form_is_held_to_what_was_signed(owner, stranger, container):
    path = f"{container}/"
    for expected, kwargs in (
        (401, {"key": "other"}),
        (400, {"count": 0}),
        (400, {"size": 2}),
        (401, {"extra": {"max_file_size": "99999"}}),
    ):
        headers, body = form(path, {"big": b"12345"}, **kwargs)
        assert stranger.post(path, headers, body).status == expected
    assert owner.get(f"{container}/big").status == 404


def test_a_form_reaches_no_other_object(owner, stranger, container):
    short = container.rpartition("/")[2]
    assert owner.put(f"{container}/secret", SECRET).status == 201
    path = f"{container}/up/"
    sources = {name: value.format(container=short) for name, value in SOURCES.items()}
    headers, body = form(path, {"n": b""}, extra=sources)
    got = stranger.post(f"{path}?multipart-manifest=put", {**sources, **headers}, body)
    assert got.status == 201
    assert owner.get(f"{container}/up/n").body == b""


def test_no_log_line_holds_a_key_or_signature(cluster, owner, stranger, container):
    if cluster is None:
        pytest.skip("the logs are those of another cluster")
    path = f"{container}/o"
    query = sign("PUT", path)
    stranger.put(f"{path}?{query}", b"x")
    owner.post(owner.base, {"X-Account-Meta-Temp-Url-Key": KEY})
    headers, body = form(f"{container}/", {"x": b"1"})
    stranger.post(f"{container}/", headers, body)
    signature = query.partition("=")[2].partition("&")[0]
    form_signature = body.partition(b'name="signature"\r\n\r\n')[2][:64].decode()
    secrets = (KEY, signature, form_signature, owner.token)
    for log in (cluster.folder / "log").iterdir():
        text = log.read_text(errors="replace")
        assert not [secret for secret in secrets if secret and secret in text], log


def test_info_tells_of_both(client):
    facts = client.get("/info").json()
    assert facts["tempurl"]["methods"] == ["GET", "HEAD", "PUT", "POST", "DELETE"]
    assert facts["formpost"]["allowed_digests"] == ["sha1", "sha256", "sha512"]
