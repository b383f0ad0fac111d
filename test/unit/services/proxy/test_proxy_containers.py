# SPDX-License-Identifier: Apache-2.0
"""Accounts and containers through the proxy, cross-origin requests and /info."""

from __future__ import annotations

import hmac
import json

import pytest

from swift.core import headers as h
from swift.core.headers import Headers
from swift.runtime import green
from swift.wire import environ as env
from swift.wire.request import Response
from test.support.nodes import Setup, make_cluster

OWNER = {env.OWNER: True}


@pytest.fixture
def setup():
    return Setup()


# --- Paths ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 404),
        ("/v1", 412),
        ("/v1/", 412),
        ("/v2/a", 400),
        ("/v1//c/o", 404),
        ("/v1/a//o", 404),
        ("/v1/a%00b", 412),
        ("/v1/%ff", 412),
        ("/v1/a/", 200),
    ],
)
def test_paths_that_name_nothing(setup, path, status):
    assert setup.ask("GET", path).status == status


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/a", {"GET", "HEAD", "POST", "OPTIONS"}),
        ("PATCH", "/v1/a/c", {"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"}),
        ("UPDATE", "/v1/a/c", {"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"}),
        ("FETCH", "/v1/a/c/o", {"GET", "HEAD", "PUT", "POST", "DELETE", "OPTIONS"}),
    ],
)
def test_other_verbs_are_refused_with_those_that_are_not(setup, method, path, allowed):
    answer = setup.ask(method, path)
    assert answer.status == 405
    assert set(answer.headers[h.ALLOW].split(", ")) == allowed


def test_a_denied_host_is_403():
    setup = Setup(deny_host_headers="bad.example, other")
    answer = setup.ask("GET", "/v1/a", headers={"Host": "BAD.example:80"})
    assert answer.status == 403
    assert setup.ask("GET", "/v1/a", headers={"Host": "good"}).status == 200


def test_an_insiders_timestamp_is_used_and_a_bad_one_refused(setup):
    setup.container()
    headers = {"X-Timestamp": "1700000000.00001", "Content-Type": "a/b"}
    assert setup.ask("PUT", "/v1/a/c/o", b"x", headers).status == 201
    seen = setup.nodes.of("object")[0]
    assert seen.headers[h.X_TIMESTAMP] == "1700000000.00001"
    answer = setup.ask("PUT", "/v1/a/c/o", b"x", {"X-Timestamp": "yesterday"})
    assert answer.status == 400


# --- Accounts -------------------------------------------------------------------------


def test_an_account_that_is_not_there_looks_empty_until_it_is_used(setup):
    answer = setup.ask("GET", "/v1/new")
    assert (answer.status, answer.body) == (200, b"[]")
    assert answer.headers[h.X_ACCOUNT_CONTAINER_COUNT] == "0"
    assert h.ACCEPT_RANGES not in answer.headers
    assert setup.ask("HEAD", "/v1/new").status == 200
    assert setup.nodes.stored("/new", "account") == {}
    assert setup.ask("PUT", "/v1/new/c").status == 201
    assert len(setup.nodes.stored("/new", "account")) == 3
    assert setup.ask("HEAD", "/v1/new").status == 204


def test_without_autocreate_nothing_comes_into_being():
    setup = Setup(account_autocreate="false")
    assert setup.ask("GET", "/v1/new").status == 404
    assert setup.ask("POST", "/v1/new").status == 404
    assert setup.ask("PUT", "/v1/new/c").status == 404


def test_a_deleted_account_is_410(setup):
    for number in range(1, 7):
        setup.nodes.faults[f"10.0.0.{number}"] = lambda seen: Response(
            404, {h.X_ACCOUNT_STATUS: "Deleted"}
        )
    assert setup.ask("GET", "/v1/gone").status == 410


def test_metadata_of_an_account_is_posted_and_removed(setup):
    answer = setup.ask("POST", "/v1/a", headers={"X-Account-Meta-Color": "blue"})
    assert answer.status == 204
    assert setup.ask("HEAD", "/v1/a").headers["X-Account-Meta-Color"] == "blue"
    setup.ask("POST", "/v1/a", headers={"X-Remove-Account-Meta-Color": "x"})
    assert "X-Account-Meta-Color" not in setup.ask("HEAD", "/v1/a").headers
    bad = setup.ask("POST", "/v1/a", headers={"X-Account-Meta-" + "n" * 129: "v"})
    assert bad.status == 400


def test_accounts_are_managed_where_that_is_allowed():
    setup = Setup(allow_account_management="true")
    assert setup.ask("PUT", "/v1/a").status == 201
    assert setup.ask("PUT", "/v1/a").status == 202
    assert setup.ask("DELETE", "/v1/a?bulk-delete").status == 400
    assert setup.ask("DELETE", "/v1/a").status == 204


def test_keys_of_an_account_are_shown_to_owners_only(setup):
    setup.ask("POST", "/v1/a", headers={"X-Account-Meta-Temp-Url-Key": "secret"})
    name = "X-Account-Meta-Temp-Url-Key"
    assert name not in setup.ask("HEAD", "/v1/a").headers
    assert setup.ask("HEAD", "/v1/a", environ=OWNER).headers[name] == "secret"


# --- Containers -----------------------------------------------------------------------


def test_a_container_is_made_shown_changed_and_deleted(setup):
    headers = {"X-Container-Meta-A": "b", "X-Storage-Policy": "SILVER"}
    assert setup.ask("PUT", "/v1/a/c", headers=headers).status == 201
    assert setup.ask("PUT", "/v1/a/c").status == 202
    shown = setup.ask("HEAD", "/v1/a/c")
    assert shown.status == 204
    assert shown.headers[h.X_STORAGE_POLICY] == "silver"
    assert shown.headers["X-Container-Meta-A"] == "b"
    assert h.X_PUT_TIMESTAMP not in shown.headers
    answer = setup.ask("POST", "/v1/a/c", headers={"X-Container-Meta-A": "c"})
    assert answer.status == 204
    assert setup.ask("HEAD", "/v1/a/c").headers["X-Container-Meta-A"] == "c"
    assert setup.ask("DELETE", "/v1/a/c").status == 204
    assert setup.ask("HEAD", "/v1/a/c").status == 404
    assert setup.ask("POST", "/v1/a/c").status == 404


def test_each_replica_of_a_container_tells_one_account_database(setup):
    setup.ask("PUT", "/v1/a/c")
    seen = setup.nodes.of("container", "PUT")
    assert len({one.headers[h.X_ACCOUNT_HOST] for one in seen}) == 3
    assert {one.headers[h.X_BACKEND_STORAGE_POLICY_DEFAULT] for one in seen} == {"0"}


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Storage-Policy": "none"},
        {"X-Storage-Policy": "old"},
        {"X-Container-Meta-A": "v" * 257},
        {"X-Container-Read": "bad"},
    ],
)
def test_a_bad_container_is_400(setup, headers):
    def clean(name, value):
        raise ValueError("bad list")

    environ = {env.CLEAN_ACL: clean, **OWNER}
    answer = setup.ask("PUT", "/v1/a/c", headers=headers, environ=environ)
    assert answer.status == 400
    assert setup.nodes.of("container") == []


def test_names_of_containers_have_a_longest(setup):
    assert setup.ask("PUT", "/v1/a/" + "c" * 256).status == 201
    assert setup.ask("PUT", "/v1/a/" + "c" * 257).status == 400


def test_an_account_may_be_full():
    setup = Setup(max_containers_per_account="1", max_containers_whitelist="vip")
    assert setup.ask("PUT", "/v1/a/one").status == 201
    setup.nodes.listings["/a"] = [{"name": "one"}]
    setup.cache.delete("account-info/a")
    assert setup.ask("PUT", "/v1/a/two").status == 403
    assert setup.ask("PUT", "/v1/a/one").status == 202
    assert setup.ask("PUT", "/v1/vip/one").status == 201


def test_access_lists_are_set_and_shown_by_owners_only(setup):
    headers = {"X-Container-Read": ".r:*"}
    setup.ask("PUT", "/v1/a/c", headers=headers)
    assert h.X_CONTAINER_READ not in setup.nodes.of("container", "PUT")[0].headers
    setup.ask("POST", "/v1/a/c", headers=headers, environ=OWNER)
    assert h.X_CONTAINER_READ not in setup.ask("HEAD", "/v1/a/c").headers
    shown = setup.ask("HEAD", "/v1/a/c", environ=OWNER)
    assert shown.headers[h.X_CONTAINER_READ] == ".r:*"
    setup.ask(
        "POST", "/v1/a/c", headers={"X-Remove-Container-Read": "x"}, environ=OWNER
    )
    shown = setup.ask("HEAD", "/v1/a/c", environ=OWNER)
    assert h.X_CONTAINER_READ not in shown.headers


def test_the_list_decides_about_reading_and_ownership_about_the_rest(setup):
    setup.ask("PUT", "/v1/a/c", headers={"X-Container-Read": "us"}, environ=OWNER)
    asked = []

    def authorize(request):
        asked.append((request.method, request.acl))
        return None if request.acl == "us" else Response(403)

    environ = {env.AUTHORIZE: authorize}
    assert setup.ask("GET", "/v1/a/c", environ=environ).status == 200
    assert setup.ask("HEAD", "/v1/a/c", environ=environ).status == 204
    assert setup.ask("PUT", "/v1/a/c", environ=environ).status == 403
    assert setup.ask("DELETE", "/v1/a/c", environ=environ).status == 403
    assert setup.ask("GET", "/v1/a/none", environ=environ).status == 403
    assert asked[0] == ("GET", "us")


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("limit=10000", 200),
        ("limit=10001", 412),
        ("limit=x", 200),
        ("prefix=%ff", 400),
    ],
)
def test_parameters_of_a_listing_are_checked_before_the_caller(setup, query, status):
    setup.container()
    environ = {env.AUTHORIZE: lambda request: Response(401)}
    answer = setup.ask("GET", f"/v1/a/c?{query}", environ=environ)
    assert answer.status == (401 if status == 200 else status)


def test_a_listing_goes_on_at_another_replica(setup):
    setup.container()
    setup.nodes.listings["/a/c"] = [{"name": "x", "bytes": 1}]
    ring = setup.cluster.container_ring()
    part = ring.partition(setup.cluster.salt.digest_of_path("/a/c"))
    for node in ring.primaries(part)[:2]:
        setup.nodes.refusing.add(node.ip)
    setup.pool.close()
    for _ in range(3):
        answer = setup.ask("GET", "/v1/a/c?format=json")
        assert json.loads(answer.body) == [{"name": "x", "bytes": 1}]


def test_no_replica_of_a_container_is_503(setup):
    setup.container()
    setup.nodes.refusing |= {f"10.0.0.{n}" for n in range(1, 7)}
    setup.pool.close()
    assert setup.ask("GET", "/v1/a/c").status == 503
    assert setup.ask("PUT", "/v1/a/c").status == 503
    assert setup.ask("GET", "/v1/a/c2/o").status == 503


def sharded(setup):
    setup.container()
    setup.nodes.listings["/a/c"] = [
        {"name": ".shards_a/one", "lower": "", "upper": "m"},
        {"name": ".shards_a/two", "lower": "m", "upper": ""},
    ]
    for shard, names in (("one", "ab"), ("two", "xyz")):
        path = f"/.shards_a/{shard}"
        for number in range(1, 7):
            setup.nodes.store[(f"10.0.0.{number}", 6201, path)] = next(
                iter(setup.nodes.stored("/a/c", "container").values())
            )
        setup.nodes.listings[path] = [{"name": name, "bytes": 1} for name in names]


def test_a_sharded_listing_is_joined_from_its_shards(setup):
    sharded(setup)
    answer = setup.ask("GET", "/v1/a/c?format=json")
    assert [row["name"] for row in json.loads(answer.body)] == list("abxyz")
    assert answer.headers[h.X_CONTAINER_OBJECT_COUNT] == "5"
    assert answer.headers[h.X_CONTAINER_BYTES_USED] == "5"
    asked = [seen.query for seen in setup.nodes.of("container", "GET")]
    assert asked == [
        "format=json&states=listing",
        "format=json&limit=10000&marker=&end_marker=m%00&states=listing",
        "format=json&limit=9998&marker=b&end_marker=&states=listing",
    ]


def test_one_lost_shard_spoils_the_listing(setup):
    sharded(setup)
    for key in [key for key in setup.nodes.store if key[2] == "/.shards_a/two"]:
        del setup.nodes.store[key]
    assert setup.ask("GET", "/v1/a/c?format=json").status == 503


def wholly_sharded(setup):
    """A container whose root says that it is sharded, as the proxy knows already."""
    sharded(setup)
    for stored in setup.nodes.stored("/a/c", "container").values():
        stored.headers[h.X_BACKEND_SHARDING_STATE] = "sharded"
    setup.cache.delete("container-info/a/c")
    assert setup.ask("GET", "/v1/a/c?format=json").status == 200
    setup.nodes.requests.clear()


def asked_of_containers(setup):
    return [
        (seen.method, seen.path, seen.query) for seen in setup.nodes.of("container")
    ]


def test_the_shards_of_a_listing_are_remembered(setup):
    wholly_sharded(setup)

    answer = setup.ask("GET", "/v1/a/c?format=json")

    assert [row["name"] for row in json.loads(answer.body)] == list("abxyz")
    assert answer.headers[h.X_CONTAINER_OBJECT_COUNT] == "5"
    assert [one[:2] for one in asked_of_containers(setup)] == [
        ("HEAD", "/a/c"),
        ("GET", "/.shards_a/one"),
        ("GET", "/.shards_a/two"),
    ]


@pytest.mark.parametrize(
    ("query", "shard"),
    [
        pytest.param("marker=n", "two", id="what is after the marker"),
        pytest.param("end_marker=c", "one", id="what is before the end"),
        pytest.param("marker=c&reverse=on", "one", id="backwards from the marker"),
    ],
)
def test_only_the_shards_between_the_markers_are_asked(setup, query, shard):
    wholly_sharded(setup)

    assert setup.ask("GET", f"/v1/a/c?format=json&{query}").status == 200

    asked = [path for method, path, _ in asked_of_containers(setup) if method == "GET"]
    assert asked == [f"/.shards_a/{shard}"]


def test_a_remembered_shard_that_is_gone_makes_the_proxy_ask_the_root(setup):
    wholly_sharded(setup)
    for key in [key for key in setup.nodes.store if key[2] == "/.shards_a/two"]:
        del setup.nodes.store[key]
    setup.nodes.listings["/a/c"] = [
        {"name": ".shards_a/one", "lower": "", "upper": ""},
    ]

    answer = setup.ask("GET", "/v1/a/c?format=json")

    assert [row["name"] for row in json.loads(answer.body)] == list("ab")


def test_the_shards_of_a_container_that_is_being_sharded_are_not_remembered(setup):
    wholly_sharded(setup)
    for stored in setup.nodes.stored("/a/c", "container").values():
        stored.headers[h.X_BACKEND_SHARDING_STATE] = "sharding"

    setup.ask("GET", "/v1/a/c?format=json")
    setup.nodes.requests.clear()
    setup.ask("GET", "/v1/a/c?format=json")

    assert asked_of_containers(setup)[0] == (
        "GET", "/a/c", "format=json&states=listing",
    )  # fmt: skip


def test_a_page_does_not_pass_for_all_shards(setup):
    wholly_sharded(setup)
    setup.cache.delete("listing-shards/a/c")

    setup.ask("GET", "/v1/a/c?format=json&marker=n")

    assert setup.cache.get("listing-shards/a/c") is None


def test_an_object_of_a_sharded_container_is_told_to_its_shard(setup):
    sharded(setup)
    for stored in setup.nodes.stored("/a/c", "container").values():
        stored.headers[h.X_BACKEND_SHARDING_STATE] = "sharded"
    setup.cache.delete("container-info/a/c")
    assert setup.ask("PUT", "/v1/a/c/zebra", b"x").status == 201
    for seen in setup.nodes.of("object", "PUT"):
        assert seen.headers[h.X_BACKEND_QUOTED_CONTAINER_PATH] == ".shards_a/two"
        assert seen.headers[h.X_CONTAINER_ROOT_DB_STATE] == "sharded"


def test_daemons_may_update_a_container(setup):
    setup.container()
    headers = {"X-Backend-Allow-Private-Methods": "true"}
    answer = setup.ask("UPDATE", "/v1/a/c", b"[]", headers)
    assert answer.status == 204
    assert {seen.body for seen in setup.nodes.of("container")} == {b"[]"}


# --- Cross-origin requests ------------------------------------------------------------

CORS = {
    "X-Container-Meta-Access-Control-Allow-Origin": "http://a http://b",
    "X-Container-Meta-Access-Control-Max-Age": "5",
    "X-Container-Meta-Access-Control-Expose-Headers": "X-Own",
}


def test_options_without_origin_say_what_is_allowed(setup):
    for path in ("/v1/a", "/v1/a/c", "/v1/a/c/o"):
        answer = setup.ask("OPTIONS", path)
        assert answer.status == 200
        assert "GET" in answer.headers[h.ALLOW]


@pytest.mark.parametrize(
    ("origin", "method", "status"),
    [
        ("http://a", "GET", 200),
        ("http://c", "GET", 401),
        ("http://a", "PATCH", 401),
        ("http://a", "", 401),
    ],
)
def test_a_preflight_is_granted_to_origins_that_are_listed(
    setup, origin, method, status
):
    setup.ask("PUT", "/v1/a/c", headers=CORS)
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "X-A, x-b, X-A",
    }
    answer = setup.ask("OPTIONS", "/v1/a/c/o", headers=headers)
    assert answer.status == status
    if status == 200:
        assert answer.headers[h.ACCESS_CONTROL_ALLOW_ORIGIN] == origin
        assert answer.headers[h.ACCESS_CONTROL_MAX_AGE] == "5"
        assert answer.headers[h.ACCESS_CONTROL_ALLOW_HEADERS] == "X-A, x-b"
        assert answer.headers[h.VARY] == "Origin, Access-Control-Request-Headers"
    else:
        assert h.WWW_AUTHENTICATE not in answer.headers


def test_an_answer_is_exposed_to_origins_that_are_listed(setup):
    setup.ask("PUT", "/v1/a/c", headers=CORS)
    setup.ask("PUT", "/v1/a/c/o", b"x", {"X-Object-Meta-Color": "blue"})
    answer = setup.ask("GET", "/v1/a/c/o", headers={"Origin": "http://b"})
    assert answer.headers[h.ACCESS_CONTROL_ALLOW_ORIGIN] == "http://b"
    exposed = answer.headers[h.ACCESS_CONTROL_EXPOSE_HEADERS].split(", ")
    assert {"etag", "x-own", "x-object-meta-color", "x-trans-id"} <= set(exposed)
    strange = setup.ask("GET", "/v1/a/c/o", headers={"Origin": "http://c"})
    assert strange.status == 200
    assert h.ACCESS_CONTROL_ALLOW_ORIGIN not in strange.headers


# --- /info ----------------------------------------------------------------------------


def signed(key, method, expires):
    message = f"{method}\n{expires}\n/info".encode()
    digest = hmac.new(key.encode(), message, "sha1").hexdigest()
    return f"/info?swiftinfo_sig={digest}&swiftinfo_expires={expires}"


def test_info_shows_what_it_should(setup):
    answer = setup.ask("GET", "/info")
    shown = json.loads(answer.body)["swift"]
    assert [policy["name"] for policy in shown["policies"]] == ["gold", "silver"]
    assert shown["max_file_size"] == 5368709122
    assert "valid_api_versions" not in shown
    assert setup.ask("POST", "/info").status == 405
    assert setup.ask("OPTIONS", "/info").headers[h.ALLOW] == "HEAD, GET, OPTIONS"
    assert Setup(expose_info="no").ask("GET", "/info").status == 403


def test_the_admin_view_needs_a_signature_that_holds():
    setup = Setup(admin_key="key")
    later = int(green.now()) + 100
    assert "admin" not in json.loads(setup.ask("GET", "/info").body)
    answer = setup.ask("GET", signed("key", "GET", later))
    admin = json.loads(answer.body)["admin"]
    assert "swift.valid_api_versions" in admin["disallowed_sections"]
    assert setup.ask("HEAD", signed("key", "GET", later)).status == 200
    assert setup.ask("GET", signed("bad", "GET", later)).status == 401
    assert setup.ask("GET", signed("key", "GET", 1000)).status == 401
    assert Setup().ask("GET", signed("key", "GET", later)).status == 403


def test_headers_of_the_client_reach_databases_only_if_they_belong_there(setup):
    headers = Headers({"X-Auth-Token": "t", "X-Object-Meta-A": "b", "Cookie": "c"})
    setup.ask("PUT", "/v1/a/c", headers=headers)
    for seen in setup.nodes.of("container"):
        assert not {"X-Auth-Token", "X-Object-Meta-A", "Cookie"} & set(seen.headers)


# --- Networks -------------------------------------------------------------------------


def test_internal_clients_reach_nodes_over_the_replication_network():
    setup = Setup(make_cluster(replication_net="10.1"))
    setup.container()
    assert setup.ask("HEAD", "/v1/a/c").status == 204  # known from here on
    setup.nodes.requests.clear()
    internal = {h.X_BACKEND_USE_REPLICATION_NETWORK: "true"}

    assert setup.ask("PUT", "/v1/a/c/o", b"x", internal).status == 201
    setup.cache.delete("container-info/a/c")
    # The nodes of both networks are apart in this test, so that nothing is found here.
    setup.ask("GET", "/v1/a/c/o", headers=internal)

    assert setup.nodes.requests
    for seen in setup.nodes.requests:
        assert seen.ip.startswith("10.1."), seen
    for seen in setup.nodes.of("object", "PUT"):
        assert seen.headers[h.X_BACKEND_USE_REPLICATION_NETWORK] == "true"
        assert seen.headers[h.X_CONTAINER_HOST].startswith("10.0.")


def test_others_do_not():
    setup = Setup(make_cluster(replication_net="10.1"))
    setup.container()

    assert setup.ask("PUT", "/v1/a/c/o", b"x").status == 201

    for seen in setup.nodes.requests:
        assert seen.ip.startswith("10.0."), seen
        assert h.X_BACKEND_USE_REPLICATION_NETWORK not in seen.headers
