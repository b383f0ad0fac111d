# SPDX-License-Identifier: Apache-2.0
"""tempurl: what an address opens, and that it opens nothing else."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from filter_facts import Facts
from filter_pipeline import Bench, found
from hypothesis import given, settings
from hypothesis import strategies as st

from swift.core.errors import ConfigError
from swift.core.signing import mac, temp_url_message
from swift.middleware.tempurl import SOURCE_HEADERS, disposition, expiry
from swift.wire import environ as env
from swift.wire.environ import sub_environ
from swift.wire.request import Request

PATH = "/v1/AUTH_a/c/o"
LATER = 4_000_000_000


def signed(
    method="GET", path=PATH, key="akey", expires=LATER, digest="sha256", **query
):
    """The query of a temporary URL."""
    prefix = query.get("temp_url_prefix")
    text = path
    if prefix is not None:
        text = "prefix:" + "/".join(path.split("/")[:4]) + "/" + prefix
    ip_range = query.get("temp_url_ip_range")
    message = temp_url_message(
        method, expires, text.encode(), ip_range.encode() if ip_range else None
    )
    query = {
        "temp_url_sig": mac(digest, key, message).hex(),
        "temp_url_expires": str(expires),
        **query,
    }
    return "?" + "&".join(f"{name}={quote(value)}" for name, value in query.items())


class Urls(Bench):
    def __init__(self, **options):
        super().__init__("tempurl", **options)
        self.facts = Facts().give_to(self)
        self.facts.set("/AUTH_a", X_Account_Meta_Temp_Url_Key="akey")
        self.facts.set("/AUTH_a/c", X_Container_Meta_Temp_Url_Key_2="ckey")
        self.end.answers["*"] = lambda environ: found(
            b"data", X_Object_Meta_Secret="s", X_Object_Meta_Public_Colour="red"
        )


def test_a_signed_get_passes_and_is_dressed_for_download():
    bench = Urls()
    got = bench.ask("GET", PATH + signed())
    assert (got.status, got.body) == (200, b"data")
    assert got.headers["Content-Disposition"] == (
        "attachment; filename=\"o\"; filename*=UTF-8''o"
    )
    assert got.headers["Expires"] == "Tue, 02 Oct 2096 07:06:40 GMT"
    assert "X-Object-Meta-Secret" not in got.headers
    assert got.headers["X-Object-Meta-Public-Colour"] == "red"
    assert bench.end.last[env.AUTHORIZE_OVERRIDE] is True
    assert not bench.end.last[env.OWNER]


def test_a_request_without_signature_is_not_touched():
    bench = Urls()
    bench.ask("GET", PATH + "?format=json")
    assert env.AUTHORIZE not in bench.end.last
    assert bench.facts.asked == []


def test_options_pass_for_the_browser_to_ask():
    bench = Urls()
    bench.ask("OPTIONS", PATH + "?temp_url_sig=x&temp_url_expires=1")
    assert env.AUTHORIZE not in bench.end.last


@pytest.mark.parametrize("digest", ["sha1", "sha256", "sha512"])
@pytest.mark.parametrize("key", ["akey", "ckey"])
def test_any_digest_and_either_key_will_do(key, digest):
    assert Urls().ask("GET", PATH + signed(key=key, digest=digest)).status == 200


@pytest.mark.parametrize(
    ("method", "query"),
    [
        pytest.param("GET", signed(key="other"), id="another key"),
        pytest.param("GET", signed(expires=1), id="expired"),
        pytest.param("GET", signed(path="/v1/AUTH_a/c/p"), id="another object"),
        pytest.param("GET", signed("PUT"), id="another method"),
        pytest.param("PUT", signed("HEAD"), id="HEAD does not write"),
        pytest.param("GET", "?temp_url_sig=00", id="no expiry"),
        pytest.param("GET", "?temp_url_expires=4000000000", id="no signature"),
        pytest.param("GET", signed() + "&temp_url_expires=soon", id="expiry no time"),
        pytest.param("GET", signed() + "&temp_url_prefix=", id="prefix not signed"),
        pytest.param("GET", signed() + "&temp_url_ip_range=0.0.0.0/0", id="ip added"),
        pytest.param("PATCH", signed("PATCH"), id="method not allowed"),
    ],
)
def test_what_is_not_signed_is_401(method, query):
    bench = Urls()
    got = bench.ask(method, PATH + query)
    assert got.status == 401
    assert b"Temp URL invalid" in got.body
    assert got.headers["Www-Authenticate"] == 'Swift realm="AUTH_a"'
    assert bench.end.seen == []


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/AUTH_a/c/o", 200),
        ("/v1.0/AUTH_a/c/o", 401),
        ("/v1/AUTH_a/c", 401),
        ("/v1/AUTH_a", 401),
        ("/v2/AUTH_a/c/o", 401),
        ("/v1/AUTH_a/c/%C3%BC%20n", 200),
    ],
)
def test_only_objects_of_v1_can_be_signed(path, status):
    decoded = path.replace("%C3%BC%20", "ü ")
    assert Urls().ask("GET", path + signed(path=decoded)).status == status


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "HEAD"])
def test_head_comes_with_signatures_of_others(method):
    assert Urls().ask("HEAD", PATH + signed(method)).status == 200


def test_head_does_not_come_with_a_signature_for_delete():
    assert Urls().ask("HEAD", PATH + signed("DELETE")).status == 401


def test_a_weak_digest_can_be_forbidden():
    bench = Urls(allowed_digests="sha256 sha512")
    assert bench.ask("GET", PATH + signed(digest="sha1")).status == 401
    assert bench.ask("GET", PATH + signed(digest="sha512")).status == 200
    with pytest.raises(ConfigError):
        Urls(allowed_digests="md5")


@pytest.mark.parametrize(
    ("path", "prefix", "status"),
    [
        ("/v1/AUTH_a/c/pre/x", "pre", 200),
        ("/v1/AUTH_a/c/prefix", "pre", 200),
        ("/v1/AUTH_a/c/pr", "pre", 401),
        ("/v1/AUTH_a/c/x/pre", "pre", 401),
        ("/v1/AUTH_a/c/any", "", 200),
        ("/v1/AUTH_a/c/", "", 200),
        ("/v1/AUTH_a/c", "", 200),
        ("/v1/AUTH_a/c/", "pre", 401),
        ("/v1/AUTH_a/d/pre", "pre", 200),
    ],
)
def test_a_prefix_opens_what_begins_so(path, prefix, status):
    bench = Urls()
    query = signed(path=path, temp_url_prefix=prefix)
    assert bench.ask("GET", path + query).status == status


def test_a_prefix_key_does_not_reach_another_container():
    bench = Urls()
    query = signed(path="/v1/AUTH_a/c/x", temp_url_prefix="")
    assert bench.ask("GET", "/v1/AUTH_a/d/x" + query).status == 401


@pytest.mark.parametrize(
    ("ip_range", "address", "status"),
    [
        ("127.0.0.1", "127.0.0.1", 200),
        ("127.0.0.0/8", "127.9.9.9", 200),
        ("127.0.0.0/8", "128.0.0.1", 401),
        ("2001:db8::/32", "2001:db8::1", 200),
        ("nonsense", "127.0.0.1", 401),
        ("127.0.0.1", "", 401),
    ],
)
def test_an_address_range_holds_for_the_peer(ip_range, address, status):
    query = signed(temp_url_ip_range=ip_range)
    assert Urls().ask("GET", PATH + query, REMOTE_ADDR=address).status == status


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"filename": "a b.txt"}, disposition("attachment", b"a b.txt")),
        ({"inline": ""}, "inline"),
        ({"inline": "", "filename": "x"}, disposition("inline", b"x")),
    ],
)
def test_the_address_says_how_to_save(query, expected):
    got = Urls().ask("GET", PATH + signed(**query))
    assert got.headers["Content-Disposition"] == expected


def test_a_name_cannot_end_the_header():
    value = disposition("attachment", b'a"\r\nX: "\xc3\xbc')
    assert value.count('"') == 2
    assert "\r" not in value
    assert value.isascii()


def test_the_owners_disposition_stays():
    bench = Urls()
    bench.end.answers["*"] = found(Content_Disposition="attachment; filename=own")
    got = bench.ask("GET", PATH + signed())
    assert got.headers["Content-Disposition"] == "attachment; filename=own"


def test_headers_are_taken_off_in_both_directions():
    bench = Urls(
        incoming_remove_headers="x-foo* x-timestamp", incoming_allow_headers="x-foo-ok"
    )
    headers = {"X-Foo-Bad": "1", "X-Foo-Ok": "1", "X-Timestamp": "1"}
    bench.ask("PUT", PATH + signed("PUT"), headers)
    sent = env.headers_of(bench.end.last)
    assert "X-Foo-Ok" in sent
    assert not {"X-Foo-Bad", "X-Timestamp"} & set(sent)


def test_a_token_beside_the_signature_counts_for_nothing():
    bench = Urls()
    bench.ask("GET", PATH + signed(), {"X-Auth-Token": "AUTH_tk1"})
    assert env.HTTP_X_AUTH_TOKEN not in bench.end.last
    assert bench.end.last[env.REMOTE_USER] == ".wsgi.tempurl"


@pytest.mark.parametrize("name", SOURCE_HEADERS)
@pytest.mark.parametrize("method", ["PUT", "POST", "DELETE"])
def test_no_header_names_another_object_as_source(method, name):
    bench = Urls()
    got = bench.ask(method, PATH + signed(method), {name: "c/secret"})
    assert got.status == 400
    assert bench.end.seen == []


@pytest.mark.parametrize(
    ("method", "signed_method", "query"),
    [
        ("PUT", "PUT", "multipart-manifest=put"),
        ("PUT", "PUT", "multipart-manifest=put&heartbeat=on"),
        ("PUT", "PUT", "version-id=1.0"),
        ("HEAD", "PUT", "version-id=1.0"),
        ("POST", "POST", "version-id=1.0"),
    ],
)
def test_no_query_names_another_object_as_source(method, signed_method, query):
    bench = Urls()
    got = bench.ask(method, PATH + signed(signed_method) + "&" + query)
    assert got.status == 400
    assert bench.end.seen == []


def _scope_of(key):
    bench = Urls()
    bench.ask("PUT", PATH + signed("PUT", key=key))
    return bench.end.last


@given(
    account=st.sampled_from(["AUTH_a", "AUTH_b", "AUTH_", ""]),
    container=st.sampled_from(["", "c", "d", "cc"]),
    obj=st.sampled_from(["", "o", "../../d/o", "/"]),
    method=st.sampled_from(["GET", "HEAD", "PUT", "POST", "DELETE", "COPY"]),
)
@settings(deadline=None, max_examples=60)
def test_derived_requests_are_held_to_the_scope_of_the_key(
    account, container, obj, method
):
    path = f"/v1/{account}/{container}/{obj}"
    for key, allowed in (
        ("akey", account == "AUTH_a" and container != ""),
        ("ckey", account == "AUTH_a" and container == "c"),
    ):
        derived = sub_environ(_scope_of(key), method, path)
        denial = derived[env.AUTHORIZE](Request(derived))
        assert (denial is None) == allowed
        assert not derived[env.OWNER]


def test_nothing_of_a_key_or_signature_is_logged():
    bench = Urls()
    for query in (signed(), signed(key="no"), "?temp_url_sig=secretsig"):
        bench.ask("GET", PATH + query)
    assert not [line for line in bench.log_lines if "key" in line or "sig" in line]


def test_info_tells_the_options():
    facts = Urls(methods="GET HEAD").process.info.features["tempurl"]
    assert facts["methods"] == ["GET", "HEAD"]
    assert facts["allowed_digests"] == ["sha1", "sha256", "sha512"]
    assert facts["deprecated_digests"] == ["sha1"]
    assert facts["outgoing_allow_headers"] == ["x-object-meta-public-*"]


def test_expiry_is_read_in_both_forms():
    assert expiry(b"1700000000") == 1700000000
    assert expiry(b"2023-11-14T22:13:20Z") == 1700000000


@given(st.text(max_size=80), st.text(max_size=40), st.text(max_size=40))
@settings(max_examples=150)
def test_any_query_gets_an_answer(signature, expires, other):
    bench = Urls()
    query = (
        f"?temp_url_sig={quote(signature)}&temp_url_expires={quote(expires)}"
        f"&temp_url_prefix={quote(other)}&temp_url_ip_range={quote(other)}"
    )
    assert bench.ask("GET", PATH + query).status == 401
