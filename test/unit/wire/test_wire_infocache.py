# SPDX-License-Identifier: Apache-2.0
"""Facts of accounts and containers: where they are looked for, how long they count."""

from __future__ import annotations

import json

import pytest

from swift.core.headers import Headers
from swift.core.names import AccountName, ContainerName
from swift.runtime import green
from swift.wire.environ import CACHE, INFO_FETCHER
from swift.wire.infocache import (
    AccountInfo,
    ContainerInfo,
    InfoFetcher,
    account_info,
    clear_account,
    clear_container,
    container_info,
    container_key,
    remember_container,
)
from swift.wire.local_cache import LocalCache
from swift.wire.request import Response

ACCOUNT = AccountName("AUTH_é")
CONTAINER = ContainerName("AUTH_é", "c")


class JsonCache(LocalCache):
    """Keeps what memcached would: JSON."""

    keeps_objects = False

    def get(self, key):
        value = super().get(key)
        return None if value is None else json.loads(value)

    def set(self, key, value, ttl_s=0):
        super().set(key, json.dumps(value), ttl_s)


class Backend:
    def __init__(self, status=204, **headers):
        self.status = status
        self.headers = Headers(**headers)
        self.asked = []

    def fetch(self, environ, name):
        self.asked.append(name)
        return Response(self.status, self.headers.copy(), b"")


@pytest.fixture
def clock():
    clock = green.JumpingClock()
    green.install(clock)
    yield clock
    green.install(None)


@pytest.fixture(params=[LocalCache, JsonCache], ids=["objects", "json"])
def cache(request):
    return request.param()


def environ_of(backend, cache):
    return {INFO_FETCHER: InfoFetcher(backend.fetch), CACHE: cache}


def test_a_container_is_read_from_headers():
    headers = Headers(
        X_Backend_Storage_Policy_Index="3",
        X_Container_Object_Count="7",
        X_Container_Bytes_Used="99",
        X_Container_Read=".r:*,t\u00c3\u00a9",
        X_Backend_Sharding_State="sharded",
        X_Container_Meta_Access_Control_Allow_Origin="*",
        X_Container_Sysmeta_Foo="bar",
    )
    info = ContainerInfo.from_headers(204, headers)
    assert (info.policy_index, info.object_count, info.bytes_used) == (3, 7, 99)
    assert info.read_acl == ".r:*,té"
    assert info.write_acl is None
    assert info.may_be_sharded
    assert info.meta["access-control-allow-origin"] == "*"
    assert info.sysmeta["foo"] == "bar"
    assert ContainerInfo.from_record(json.loads(json.dumps(info.record()))) == info


def test_an_account_is_read_from_headers():
    headers = Headers(X_Account_Container_Count="2", X_Account_Meta_Temp_URL_Key="k")
    info = AccountInfo.from_headers(204, headers)
    assert info.exists
    assert info.container_count == 2
    assert info.meta["temp-url-key"] == "k"
    assert AccountInfo.from_record(json.loads(json.dumps(info.record()))) == info


def test_one_request_asks_once_even_without_cache():
    backend = Backend()
    environ = {INFO_FETCHER: InfoFetcher(backend.fetch)}
    assert container_info(environ, CONTAINER) is container_info(environ, CONTAINER)
    assert backend.asked == [CONTAINER]


def test_the_next_request_finds_the_facts_in_the_cache(cache):
    backend = Backend(X_Container_Object_Count="5")
    first = container_info(environ_of(backend, cache), CONTAINER)
    second = container_info(environ_of(backend, cache), CONTAINER)
    assert first == second
    assert second.object_count == 5
    assert len(backend.asked) == 1


@pytest.mark.parametrize(
    ("status", "kept_s"),
    [(204, 60), (404, 6), (410, 6), (503, 0)],
    ids=["there", "missing", "gone", "unavailable"],
)
def test_presence_absence_and_failure_are_kept_differently(
    clock, cache, status, kept_s
):
    backend = Backend(status)
    assert account_info(environ_of(backend, cache), ACCOUNT).status == status
    if kept_s:
        clock.sleep(kept_s - 0.5)
        account_info(environ_of(backend, cache), ACCOUNT)
        assert len(backend.asked) == 1
        clock.sleep(0.6)
    account_info(environ_of(backend, cache), ACCOUNT)
    assert len(backend.asked) == 2


def test_a_cleared_entry_is_asked_for_again(cache):
    backend = Backend()
    environ = environ_of(backend, cache)
    account_info(environ, ACCOUNT)
    container_info(environ, CONTAINER)
    clear_account(environ, ACCOUNT)
    clear_container(environ, CONTAINER)
    other = environ_of(backend, cache)
    account_info(other, ACCOUNT)
    container_info(other, CONTAINER)
    assert len(backend.asked) == 4


def test_what_a_listing_said_is_remembered(cache):
    backend = Backend()
    environ = environ_of(backend, cache)
    remember_container(environ, CONTAINER, 200, Headers(X_Container_Object_Count="1"))
    assert container_info(environ, CONTAINER).object_count == 1
    assert container_info(environ_of(backend, cache), CONTAINER).object_count == 1
    assert backend.asked == []


@pytest.mark.parametrize("garbage", [{"status": 200}, [1], "x", 5])
def test_a_foreign_value_in_the_cache_is_asked_for_again(garbage):
    cache, backend = JsonCache(), Backend()
    cache.set(container_key("AUTH_é", "c"), garbage)
    assert container_info(environ_of(backend, cache), CONTAINER).exists
    assert backend.asked == [CONTAINER]


def test_a_cache_that_others_cannot_clear_keeps_no_facts():
    backend, cache = Backend(), LocalCache(keeps_facts=False)
    for _ in range(2):
        container_info(environ_of(backend, cache), CONTAINER)
    assert len(backend.asked) == 2


def test_no_caching_when_the_time_is_zero(cache):
    backend = Backend()
    for _ in range(2):
        environ = {INFO_FETCHER: InfoFetcher(backend.fetch, 0, 0), CACHE: cache}
        container_info(environ, CONTAINER)
    assert len(backend.asked) == 2


def test_a_skipped_cache_is_still_filled(cache):
    backend = Backend()
    fetcher = InfoFetcher(backend.fetch, container_skips=lambda: True)
    container_info({INFO_FETCHER: fetcher, CACHE: cache}, CONTAINER)
    container_info({INFO_FETCHER: fetcher, CACHE: cache}, CONTAINER)
    assert len(backend.asked) == 2
    container_info(environ_of(backend, cache), CONTAINER)
    assert len(backend.asked) == 2
