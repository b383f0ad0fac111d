# SPDX-License-Identifier: Apache-2.0
"""Both kinds of versions over a store in memory."""

from __future__ import annotations

import json
from hashlib import md5
from pathlib import Path

import pytest

from swift.core.errors import ConfigError
from swift.core.timestamp import Timestamp
from swift.middleware.object_versioning import Version, versions_container
from swift.runtime import green
from swift.wire import environ as env
from swift.wire.environ import PathParts
from swift.wire.infocache import InfoFetcher
from swift.wire.request import Response
from test.unit.middleware.filter_pipeline import Bench
from test.unit.middleware.store_app import StoreApp, listing_of

GOLDEN = Path(__file__).parents[2] / "interop" / "golden" / "hashing"
HIDDEN = "/v1/a/\x00versions\x00c"


def made(**options):
    bench = Bench("versioned_writes", "symlink")
    store = StoreApp()
    bench.app.app.app = bench.end = store
    bench.process.info_fetcher = InfoFetcher(store.fetch)
    bench.app._archives = options.get("archives", True)
    bench.app._versions = options.get("versions", True)
    return bench


@pytest.fixture
def clock():
    jumping = green.JumpingClock(1_800_000_000.0)
    green.install(jumping)
    yield jumping
    green.install(None)


@pytest.fixture
def versioned(clock):
    bench = made()
    assert bench.ask("PUT", "/v1/a/c", {"X-Versions-Enabled": "true"}).status == 201
    real = bench.ask

    def ask(*arguments, **more):
        clock.sleep(1)
        return real(*arguments, **more)

    bench.ask = ask
    return bench


def put(bench, body, path="/v1/a/c/o", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = bench.ask("PUT", path, named, body)
    assert answer.status == 201, answer
    return answer.headers.get("X-Object-Version-Id")


def test_names_of_versions_are_those_of_openstack_swift():
    golden = json.loads((GOLDEN / "versioning_names.json").read_text())
    expected = golden["versions_container_for_c"].replace("\\0", "\x00")
    assert versions_container("c") == expected
    near = PathParts("v1", "a", "c", "o")
    for item in golden["versions_object"]:
        version = Version("c", item["name"], Timestamp.parse(item["version_id"]))
        stored = item["stored_name_with_nul_as_backslash_0"].replace("\\0", "\x00")
        assert version.place(near).obj == stored
        assert Version.stored(versions_container("c"), stored) == version


# --- Object versioning ----------------------------------------------------------------


def test_each_put_is_a_version(versioned):
    first = put(versioned, b"one", Content_Type="a/b")
    second = put(versioned, b"second")
    answer = versioned.ask("GET", "/v1/a/c/o")
    assert (answer.body, answer.headers["X-Object-Version-Id"]) == (b"second", second)
    assert answer.headers["Content-Location"] == f"/v1/a/c/o?version-id={second}"
    old = versioned.ask("GET", f"/v1/a/c/o?version-id={first}")
    assert (old.body, old.headers["Content-Type"]) == (b"one", "a/b")
    assert old.headers["X-Object-Version-Id"] == first
    assert versioned.ask("HEAD", "/v1/a/c/o").headers["Content-Length"] == "6"


def test_what_was_there_before_becomes_a_version(clock):
    bench = made()
    bench.ask("PUT", "/v1/a/c")
    bench.ask("PUT", "/v1/a/c/o", {"X-Object-Meta-Colour": "red"}, b"old")
    plain = bench.ask("GET", "/v1/a/c/o")
    assert "X-Object-Version-Id" not in plain.headers
    bench.ask("POST", "/v1/a/c", {"X-Versions-Enabled": "true"})
    assert bench.ask("GET", "/v1/a/c/o").headers["X-Object-Version-Id"] == "null"
    assert bench.ask("GET", "/v1/a/c/o?version-id=null").body == b"old"
    stamp = bench.end.containers["/v1/a/c"].objects["o"].timestamp
    put(bench, b"new")
    old = bench.ask("GET", f"/v1/a/c/o?version-id={stamp.normal}")
    assert (old.body, old.headers["X-Object-Meta-Colour"]) == (b"old", "red")
    assert bench.ask("GET", "/v1/a/c/o?version-id=null").status == 404


def test_a_delete_leaves_a_marker(versioned):
    first = put(versioned, b"one")
    gone = versioned.ask("DELETE", "/v1/a/c/o")
    assert gone.status == 204
    marker = gone.headers["X-Object-Version-Id"]
    assert versioned.ask("GET", "/v1/a/c/o").status == 404
    shown = versioned.ask("GET", f"/v1/a/c/o?version-id={marker}")
    assert shown.status == 404
    kind = "application/x-deleted;swift_versions_deleted=1"
    assert shown.headers["Content-Type"] == kind
    rows = listing_of(versioned.ask("GET", "/v1/a/c?versions&format=json"))
    assert [(r["version_id"], r["is_latest"]) for r in rows] == [
        (marker, True), (first, False),
    ]  # fmt: skip
    back = versioned.ask("PUT", f"/v1/a/c/o?version-id={first}", body=b"")
    assert (back.status, back.headers["X-Object-Version-Id"]) == (201, first)
    assert versioned.ask("GET", "/v1/a/c/o").body == b"one"


def test_versions_are_deleted_one_by_one(versioned):
    first, second = put(versioned, b"one"), put(versioned, b"two")
    gone = versioned.ask("DELETE", f"/v1/a/c/o?version-id={first}")
    assert gone.status == 204
    assert gone.headers["X-Object-Version-Id"] == first
    assert gone.headers["X-Object-Current-Version-Id"] == second
    gone = versioned.ask("DELETE", f"/v1/a/c/o?version-id={second}")
    assert gone.status == 204
    assert "X-Object-Current-Version-Id" not in gone.headers
    assert not versioned.end.containers["/v1/a/c"].objects
    assert not versioned.end.containers[HIDDEN].objects
    assert versioned.ask("DELETE", f"/v1/a/c/o?version-id={first}").status == 404


def test_a_post_changes_the_version(versioned):
    version = put(versioned, b"one")
    answer = versioned.ask("POST", "/v1/a/c/o", {"X-Object-Meta-Colour": "red"})
    assert (answer.status, answer.headers["X-Object-Version-Id"]) == (202, version)
    shown = versioned.ask("HEAD", f"/v1/a/c/o?version-id={version}")
    assert shown.headers["X-Object-Meta-Colour"] == "red"


@pytest.mark.parametrize(
    ("method", "query", "status"),
    [
        ("GET", "version-id=x", 400), ("GET", "version-id=17.5", 404),
        ("POST", "version-id=1800000001.00000", 400),
        ("PUT", "version-id=1800000001.00000", 404),
        ("PUT", "version-id=null", 400), ("DELETE", "version-id=", 400),
    ],
)  # fmt: skip
def test_bad_version_ids(versioned, method, query, status):
    assert versioned.ask(method, f"/v1/a/c/o?{query}", body=b"").status == status


def test_version_ids_elsewhere(versioned):
    versioned.ask("PUT", "/v1/a/plain")
    versioned.ask("PUT", "/v1/a/plain/o", body=b"x")
    assert versioned.ask("GET", "/v1/a/plain/o?version-id=17.5").status == 400
    assert versioned.ask("GET", "/v1/a/plain/o?version-id=null").body == b"x"


def test_a_put_of_a_version_has_no_body(versioned):
    version = put(versioned, b"one")
    answer = versioned.ask("PUT", f"/v1/a/c/o?version-id={version}", body=b"x")
    assert answer.status == 400


def test_suspended_versions_stay(versioned):
    version = put(versioned, b"one")
    versioned.ask("POST", "/v1/a/c", {"X-Versions-Enabled": "false"})
    shown = versioned.ask("HEAD", "/v1/a/c")
    assert shown.headers["X-Versions-Enabled"] == "False"
    versioned.ask("PUT", "/v1/a/c/o", body=b"plain")
    assert versioned.ask("GET", "/v1/a/c/o").headers["X-Object-Version-Id"] == "null"
    assert versioned.ask("GET", f"/v1/a/c/o?version-id={version}").body == b"one"
    versioned.ask("DELETE", "/v1/a/c/o")
    assert versioned.ask("GET", f"/v1/a/c/o?version-id={version}").body == b"one"
    rows = listing_of(versioned.ask("GET", "/v1/a/c?versions"))
    assert [(r["version_id"], r["is_latest"]) for r in rows] == [(version, False)]


def test_if_none_match_looks_at_the_name(versioned):
    put(versioned, b"one")
    answer = versioned.ask("PUT", "/v1/a/c/o", {"If-None-Match": "*"}, b"two")
    assert answer.status == 412
    assert len(versioned.end.containers[HIDDEN].objects) == 1


def test_expiry_concerns_the_link_only(versioned):
    put(versioned, b"one", X_Delete_At="1900000000")
    assert "X-Delete-At" in versioned.end.containers["/v1/a/c"].objects["o"].headers
    (stored,) = versioned.end.containers[HIDDEN].objects.values()
    assert "X-Delete-At" not in stored.headers


def test_a_missing_hidden_container_is_an_error(versioned):
    del versioned.end.containers[HIDDEN]
    assert versioned.ask("PUT", "/v1/a/c/o", body=b"x").status == 500


def test_links_can_be_versions(versioned):
    put(versioned, b"target", "/v1/a/c/t")
    put(versioned, b"", X_Symlink_Target="c/t")
    assert versioned.ask("GET", "/v1/a/c/o").body == b"target"
    own = versioned.ask("GET", "/v1/a/c/o?symlink=get")
    assert own.headers["X-Symlink-Target"] == "c/t"
    put(versioned, b"", X_Symlink_Target="c/t",
        X_Symlink_Target_Etag=md5(b"target").hexdigest())  # fmt: skip
    assert versioned.ask("GET", "/v1/a/c/o").body == b"target"


def test_a_static_link_cannot_probe_what_the_client_may_not_read(versioned):
    versioned.ask("PUT", "/v1/b/c")
    versioned.ask("PUT", "/v1/b/c/secret", body=b"secret")

    def only_a(request):
        return (
            None
            if request.environ["PATH_INFO"].startswith("/v1/a/")
            else (Response(403))
        )

    headers = {
        "X-Symlink-Target": "c/secret",
        "X-Symlink-Target-Account": "b",
        "X-Symlink-Target-Etag": md5(b"secret").hexdigest(),
    }
    answer = versioned.ask("PUT", "/v1/a/c/o", headers, b"", **{env.AUTHORIZE: only_a})
    assert answer.status == 403


def test_the_read_list_of_the_container_opens_its_versions(versioned):
    version = put(versioned, b"one")
    versioned.ask("POST", "/v1/a/c", {"X-Container-Read": "friends"})

    def friend(request):
        return None if request.acl == "friends" else Response(403)

    rights = {env.AUTHORIZE: friend}
    for query in ("", f"?version-id={version}"):
        assert versioned.ask("GET", f"/v1/a/c/o{query}", **rights).body == b"one"
    assert versioned.ask("PUT", "/v1/a/c/o", body=b"x", **rights).status == 403
    assert versioned.ask("DELETE", "/v1/a/c/o", **rights).status == 403
    gone = versioned.ask("DELETE", f"/v1/a/c/o?version-id={version}", **rights)
    assert gone.status == 403


def test_listings_show_versions_as_objects(versioned):
    version = put(versioned, b"one", Content_Type="a/b")
    (row,) = listing_of(versioned.ask("GET", "/v1/a/c?format=json"))
    assert row["name"] == "o"
    assert (row["bytes"], row["hash"]) == (3, md5(b"one").hexdigest())
    assert row["symlink_path"] == f"/v1/a/c/o?version-id={version}"
    assert row["version_symlink"] is True
    assert "symlink_etag" not in row
    assert row["content_type"] == "a/b"


def test_listings_of_versions(versioned):
    a1 = put(versioned, b"1", "/v1/a/c/a")
    a2 = put(versioned, b"2", "/v1/a/c/a")
    ab = put(versioned, b"3", "/v1/a/c/a/b")
    b1 = put(versioned, b"4", "/v1/a/c/b")
    everything = [("a", a2, True), ("a", a1, False), ("a/b", ab, True), ("b", b1, True)]

    def listed(query=""):
        answer = versioned.ask("GET", f"/v1/a/c?versions&format=json{query}")
        assert answer.status == 200
        return [
            (r["name"], r["version_id"], r["is_latest"]) for r in listing_of(answer)
        ]

    assert listed() == everything
    assert listed("&limit=2") == everything[:2]
    assert listed("&marker=a") == everything[2:]
    assert listed(f"&marker=a&version_marker={a2}") == everything[1:]
    assert listed(f"&marker=a&version_marker={a1}") == everything[2:]
    assert listed("&prefix=a/") == everything[2:3]
    assert listed("&end_marker=b") == everything[:3]
    assert listed("&reverse=true") == everything[::-1]
    answer = versioned.ask("GET", "/v1/a/c?versions&delimiter=/")
    rows = listing_of(answer)
    assert [row.get("subdir") for row in rows] == [None, None, "a/", None]


@pytest.mark.parametrize(
    "query", ["delimiter=1", "delimiter=.", "version_marker=17.5",
              "marker=a&version_marker=x"],
)  # fmt: skip
def test_bad_listings_of_versions(versioned, query):
    assert versioned.ask("GET", f"/v1/a/c?versions&{query}").status == 400


def test_unversioned_objects_are_among_the_versions(clock):
    bench = made()
    bench.ask("PUT", "/v1/a/c")
    bench.ask("PUT", "/v1/a/c/o", body=b"old")
    bench.ask("POST", "/v1/a/c", {"X-Versions-Enabled": "true"})
    rows = listing_of(bench.ask("GET", "/v1/a/c?versions"))
    assert [(r["version_id"], r["is_latest"]) for r in rows] == [("null", True)]
    answer = bench.ask("GET", "/v1/a/c?versions&marker=o&version_marker=null")
    assert listing_of(answer) == []


def test_containers_count_their_versions(versioned):
    put(versioned, b"one")
    put(versioned, b"second")
    head = versioned.ask("HEAD", "/v1/a/c").headers
    assert head["X-Versions-Enabled"] == "True"
    assert head["X-Container-Bytes-Used"] == "9"
    assert head["X-Container-Object-Count"] == "1"


def test_a_container_with_versions_stays(versioned):
    version = put(versioned, b"one")
    versioned.ask("POST", "/v1/a/c", {"X-Versions-Enabled": "false"})
    versioned.ask("DELETE", "/v1/a/c/o")
    assert versioned.ask("DELETE", "/v1/a/c").status == 409
    versioned.ask("DELETE", f"/v1/a/c/o?version-id={version}")
    assert versioned.ask("DELETE", "/v1/a/c").status == 204
    assert HIDDEN not in versioned.end.containers


def test_one_kind_of_versions_at_a_time(versioned):
    answer = versioned.ask("POST", "/v1/a/c", {"X-Versions-Location": "x"})
    assert answer.status == 400
    versioned.ask("PUT", "/v1/a/d", {"X-Versions-Location": "x"})
    answer = versioned.ask("POST", "/v1/a/d", {"X-Versions-Enabled": "true"})
    assert answer.status == 400


def test_strangers_cannot_enable_versions(clock):
    bench = made()
    answer = bench.ask(
        "PUT", "/v1/a/c", {"X-Versions-Enabled": "true"},
        **{env.AUTHORIZE: lambda request: Response(403)},
    )  # fmt: skip
    assert answer.status == 403
    assert not bench.end.containers


# --- Archives -------------------------------------------------------------------------


def archived(header="X-Versions-Location"):
    bench = made()
    bench.ask("PUT", "/v1/a/old")
    assert bench.ask("PUT", "/v1/a/c", {header: "old"}).status == 201
    return bench


def names(bench):
    return sorted(bench.end.containers["/v1/a/old"].objects)


def test_a_put_keeps_what_it_overwrites():
    bench = archived()
    put(bench, b"one", X_Object_Meta_Colour="red")
    assert names(bench) == []
    stamp = bench.end.containers["/v1/a/c"].objects["o"].timestamp
    put(bench, b"two")
    assert names(bench) == [f"001o/{stamp.internal}"]
    kept = bench.end.containers["/v1/a/old"].objects[names(bench)[0]]
    assert (kept.body, kept.headers["X-Object-Meta-Colour"]) == (b"one", "red")
    assert bench.ask("HEAD", "/v1/a/c").headers["X-Versions-Location"] == "old"


def test_a_delete_of_a_stack_brings_the_last_version_back():
    bench = archived()
    for body in (b"one", b"two", b"three"):
        put(bench, body)
    for body in (b"two", b"one"):
        assert bench.ask("DELETE", "/v1/a/c/o").status == 204
        assert bench.ask("GET", "/v1/a/c/o").body == body
    assert bench.ask("DELETE", "/v1/a/c/o").status == 204
    assert bench.ask("GET", "/v1/a/c/o").status == 404
    assert names(bench) == []


def test_a_delete_with_history_leaves_a_marker():
    bench = archived("X-History-Location")
    put(bench, b"one")
    assert bench.ask("DELETE", "/v1/a/c/o").status == 204
    assert len(names(bench)) == 2
    kinds = [
        stored.headers["Content-Type"]
        for _name, stored in sorted(bench.end.containers["/v1/a/old"].objects.items())
    ]
    assert "application/x-deleted;swift_versions_deleted=1" in kinds
    assert bench.ask("HEAD", "/v1/a/c").headers["X-History-Location"] == "old"


def test_a_stack_takes_markers_of_a_history_away():
    bench = archived("X-History-Location")
    put(bench, b"one")
    bench.ask("DELETE", "/v1/a/c/o")
    bench.ask("POST", "/v1/a/c", {"X-Versions-Location": "old"})
    assert bench.ask("DELETE", "/v1/a/c/o").status == 204
    assert bench.ask("GET", "/v1/a/c/o").body == b"one"
    assert names(bench) == []


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"X-Versions-Location": "a", "X-History-Location": "b"}, 400),
        ({"X-Versions-Location": "a/b"}, 412),
        ({"X-Versions-Location": ""}, 202),
        ({"X-Remove-Versions-Location": "x"}, 202),
    ],
)
def test_settings(headers, status):
    bench = archived()
    assert bench.ask("PUT", "/v1/a/c", headers).status == status
    if status == 202:
        assert "X-Versions-Location" not in bench.ask("HEAD", "/v1/a/c").headers


def test_an_archive_that_is_missing_stops_the_write():
    bench = archived()
    put(bench, b"one")
    del bench.end.containers["/v1/a/old"]
    assert bench.ask("PUT", "/v1/a/c/o", body=b"two").status == 412
    assert bench.ask("GET", "/v1/a/c/o").body == b"one"
    bench.end.fails["GET /v1/a/c/o"] = 503
    assert bench.ask("PUT", "/v1/a/c/o", body=b"two").status == 503


def test_where_it_is_off_locations_are_refused():
    bench = made(archives=False, versions=False)
    assert bench.ask("PUT", "/v1/a/c", {"X-Versions-Location": "x"}).status == 412
    bench.ask("PUT", "/v1/a/c", {"X-Versions-Enabled": "true"})
    assert list(bench.end.containers) == ["/v1/a/c"]


def test_strangers_archive_nothing():
    bench = archived()
    put(bench, b"one")
    rights = {env.AUTHORIZE: lambda request: Response(403)}
    assert bench.ask("PUT", "/v1/a/c/o", body=b"x", **rights).status == 403
    assert bench.ask("DELETE", "/v1/a/c/o", **rights).status == 403
    assert names(bench) == []


def test_object_versioning_needs_links():
    with pytest.raises(ConfigError):
        Bench("versioned_writes", allow_object_versioning="true")
