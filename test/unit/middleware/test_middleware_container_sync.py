# SPDX-License-Identifier: Apache-2.0
"""container_sync: who is let in, under which time, and which targets are taken."""

from __future__ import annotations

import pytest
from filter_facts import Facts
from filter_pipeline import Bench, found

from swift.core.signing import sync_message, sync_signature
from swift.runtime.sync_realms import SyncRealms, realm_fault
from swift.wire import environ as env
from swift.wire.request import Request

STAMP = "1795334174.77594"
CONF = """\
[DEFAULT]
mtime_check_interval = 0
[Realm]
key = realmkey
key2 = oldkey
cluster_one = https://one.example/v1/
cluster_Two = https://two.example/v1
"""


class Syncs(Bench):
    def __init__(self, tmp_path, **options):
        (tmp_path / "container-sync-realms.conf").write_text(CONF)
        self.conf = tmp_path / "container-sync-realms.conf"
        super().__init__("gatekeeper", conf={})
        self.context["swift_dir"] = self.process.swift_dir = str(tmp_path)
        from swift.middleware import container_sync, gatekeeper

        inner = container_sync.filter_factory(self.context, **options)(self.end)
        self.app = gatekeeper.filter_factory(self.context)(inner)
        self.facts = Facts().give_to(self)
        self.facts.set("/a/c", X_Container_Sync_Key="userkey")
        self.end.answers["*"] = lambda environ: found(status=201)

    def sync(self, key="realmkey", path="/v1/a/c/o", auth=None, user_key="userkey"):
        message = sync_message("PUT", path, STAMP, "nonce", user_key)
        auth = auth or f"Realm nonce {sync_signature(key, message)}"
        headers = {"X-Container-Sync-Auth": auth, "X-Timestamp": STAMP}
        return self.ask("PUT", path, headers, b"")

    @property
    def tags(self):
        return self.environ.get(env.LOG_INFO)


@pytest.mark.parametrize("key", ["realmkey", "oldkey"])
@pytest.mark.parametrize("path", ["/v1/a/c/o", "/v1/a/c/%C3%BC%20x"])
def test_a_good_signature_lets_in_under_its_time(tmp_path, key, path):
    bench = Syncs(tmp_path)
    assert bench.sync(key, path).status == 201
    sent = bench.end.last
    assert sent[env.HTTP_X_TIMESTAMP] == STAMP
    assert sent[env.AUTHORIZE_OVERRIDE] is True
    assert sent[env.SLO_OVERRIDE] is True
    assert bench.tags == ["cs:valid"]


@pytest.mark.parametrize(
    ("change", "tag"),
    [
        ({"key": "wrong"}, "cs:invalid-sig"),
        ({"user_key": "wrong"}, "cs:invalid-sig"),
        ({"auth": "Realm nonce"}, "cs:not-3-args"),
        ({"auth": "other nonce 00"}, "cs:no-local-realm-key"),
        ({"path": "/v1/a/nokey/o"}, "cs:no-local-user-key"),
    ],
)
def test_others_are_401_and_noted(tmp_path, change, tag):
    bench = Syncs(tmp_path)
    got = bench.sync(**change)
    assert got.status == 401
    assert got.headers["Www-Authenticate"].startswith("SwiftContainerSync realm=")
    assert bench.tags == [tag]
    assert bench.end.seen == []
    assert not [line for line in bench.log_lines if "key" in line]


def test_a_signature_for_another_path_is_no_good(tmp_path):
    bench = Syncs(tmp_path)
    message = sync_message("PUT", "/v1/a/c/o", STAMP, "nonce", "userkey")
    auth = f"Realm nonce {sync_signature('realmkey', message)}"
    assert bench.sync(path="/v1/a/c/p", auth=auth).status == 401


def test_derived_requests_stay_in_the_container(tmp_path):
    bench = Syncs(tmp_path)
    bench.sync()
    for path, allowed in (
        ("/v1/a/c/x", True),
        ("/v1/a/d/x", False),
        ("/v1/b/c/x", False),
    ):
        derived = env.sub_environ(bench.end.last, "GET", path)
        assert (derived[env.AUTHORIZE](Request(derived)) is None) == allowed


def test_other_requests_keep_no_timestamp(tmp_path):
    bench = Syncs(tmp_path)
    bench.ask("PUT", "/v1/a/c/o", {"X-Timestamp": STAMP}, b"")
    assert env.HTTP_X_TIMESTAMP not in bench.end.last
    assert env.AUTHORIZE not in bench.end.last


@pytest.mark.parametrize(
    ("options", "target", "status"),
    [
        ({}, "http://h/v1/a/c", 201),
        ({"allow_full_urls": "no"}, "http://h/v1/a/c", 400),
        ({"allow_full_urls": "no"}, "//realm/one/a/c", 201),
        ({"allow_full_urls": "no"}, "", 201),
    ],
)
def test_targets_may_have_to_be_realms(tmp_path, options, target, status):
    bench = Syncs(tmp_path, **options)
    headers = {"X-Container-Sync-To": target}
    assert bench.ask("PUT", "/v1/a/c", headers).status == status


def test_a_container_with_versions_is_not_synced(tmp_path):
    bench = Syncs(tmp_path)
    bench.facts.set("/a/c", X_Container_Sysmeta_Versions_Enabled="true")
    headers = {"X-Container-Sync-To": "//realm/one/a/c"}
    assert bench.ask("POST", "/v1/a/c", headers).status == 400


def test_info_follows_the_file(tmp_path):
    bench = Syncs(tmp_path, current="//realm/two")

    def facts():
        bench.ask("GET", "/info")
        return bench.process.info.features["container_sync"]

    assert facts() == {
        "realms": {"REALM": {"clusters": {"ONE": {}, "TWO": {"current": True}}}}
    }
    bench.conf.unlink()
    assert facts() == {"realms": {}}


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("//realm/one/a/c", None),
        ("//REALM/TWO/a/c", None),
        ("//realm/three/a/c", "No cluster endpoint"),
        ("//other/one/a/c", "No realm key"),
        ("//realm/one/a", "must be of the form"),
        ("//realm/one/a/c/d", "must be of the form"),
    ],
)
def test_targets_by_realm(tmp_path, target, fault):
    (tmp_path / "container-sync-realms.conf").write_text(CONF)
    realms = SyncRealms(str(tmp_path))
    found = realm_fault(realms, target)
    assert found is None if fault is None else fault in found
    assert realms.endpoint("realm", "two") == "https://two.example/v1/"
