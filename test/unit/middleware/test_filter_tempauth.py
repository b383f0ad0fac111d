# SPDX-License-Identifier: Apache-2.0
"""tempauth: tokens, who may do what, and what never reaches a log."""

from __future__ import annotations

import base64

import pytest
from cryptography.fernet import Fernet
from filter_pipeline import Bench, found

from swift.core.errors import ConfigError
from swift.core.headers import Headers
from swift.middleware.fernet_tokens import FernetTokens
from swift.middleware.tempauth import MEMORY_S
from swift.middleware.tempauth_users import prefixes
from swift.runtime import green
from swift.wire import environ as env
from swift.wire.infocache import InfoFetcher
from swift.wire.local_cache import LocalCache
from swift.wire.request import Response

USERS = {
    "user_test_tester": "testing .admin",
    "user_test_guest": "guests",
    "user_test2_tester2": "testing2 .admin http://else.where/v1/AUTH_second",
    "user_admin_admin": "admin .admin .reseller_admin",
    "user_audit_reader": "reading .reseller_reader",
}


class SharedCache(LocalCache):
    """Stands for memcached: values are shared, so tokens are kept in it."""

    keeps_objects = False


@pytest.fixture
def clock():
    clock = green.JumpingClock()
    green.install(clock)
    yield clock
    green.install(None)


class Auth(Bench):
    def __init__(self, cache=None, **options):
        super().__init__("tempauth", authorizes=True, **{**USERS, **options})
        self.cache = SharedCache() if cache is None else cache
        self.end.answers["*"] = lambda environ: found(b"fine")
        self.account_headers = Headers()

    def fetch(self, environ, name):
        return Response(204, self.account_headers, b"")

    def ask(self, method, path, headers=(), **extra):
        extra.setdefault(env.CACHE, self.cache)
        extra.setdefault(env.INFO_FETCHER, InfoFetcher(self.fetch))
        return super().ask(method, path, headers, **extra)

    def token(self, user="test:tester", key="testing"):
        headers = {"X-Auth-User": user, "X-Auth-Key": key}
        response = self.ask("GET", "/auth/v1.0", headers)
        assert response.status == 200
        return response.headers["X-Auth-Token"]

    def status(self, method, path, user=None, key="", **headers):
        named = dict(Headers(**headers))
        if user:
            named["X-Auth-Token"] = self.token(user, key)
        return self.ask(method, path, named).status


# --- Giving tokens --------------------------------------------------------------------


def test_a_user_gets_a_token_and_a_url(clock):
    auth = Auth()
    headers = {"X-Auth-User": "test:tester", "X-Auth-Key": "testing"}
    response = auth.ask("GET", "/auth/v1.0", headers)
    token = response.headers["X-Auth-Token"]
    assert response.status == 200
    assert token.startswith("AUTH_tk")
    assert len(token) == len("AUTH_tk") + 32
    assert response.headers["X-Storage-Token"] == token
    assert response.headers["X-Auth-Token-Expires"] == "86400"
    assert response.headers["X-Storage-Url"] == "http://localhost/v1/AUTH_test"
    assert auth.cache.get(f"AUTH_/token/{token}") == [
        clock.now() + 86400,
        "test,test:tester,AUTH_test",
    ]
    assert auth.cache.get("AUTH_/user/test:tester") == token


def test_a_token_is_reused_while_the_groups_are_the_same(clock):
    auth = Auth()
    first = auth.token()
    clock.sleep(100)
    assert auth.token() == first
    auth.cache.set(f"AUTH_/token/{first}", [clock.now() + 50, "test,test:tester"])
    assert auth.token() != first
    assert auth.cache.get(f"AUTH_/token/{first}") is None


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/auth/v1.0", {"X-Storage-User": "test:tester", "X-Storage-Pass": "testing"}),
        ("/auth/v1/test/auth", {"X-Storage-User": "tester", "X-Auth-Key": "testing"}),
        ("/auth/v1/test/auth", {"X-Auth-User": "test:tester", "X-Auth-Key": "testing"}),
    ],
)
def test_other_ways_to_name_the_user(path, headers):
    assert Auth().ask("GET", path, headers).status == 200


@pytest.mark.parametrize(
    ("path", "user", "key", "realm"),
    [
        ("/auth/v1.0", "test:tester", "wrong", "test"),
        ("/auth/v1.0", "test:tester", "", "unknown"),
        ("/auth/v1.0", "test:nobody", "testing", "unknown"),
        ("/auth/v1.0", "", "testing", "unknown"),
        ("/auth/v1.0", "\xff", "\xff", "unknown"),
        ("/auth/v1/test/auth", "test2:tester2", "testing2", "test"),
    ],
)
def test_bad_credentials(path, user, key, realm):
    headers = {"X-Auth-User": user, "X-Auth-Key": key}
    response = Auth().ask("GET", path, headers)
    assert response.status == 401
    assert response.headers["Www-Authenticate"] == f'Swift realm="{realm}"'


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/auth/v1.0", 405),
        ("HEAD", "/auth/v1.0", 405),
        ("GET", "/auth/v2.0", 400),
        ("GET", "/auth/", 400),
        ("GET", "/auth/v1//auth", 400),
    ],
)
def test_other_paths_and_methods(method, path, status):
    assert Auth().ask(method, path).status == status


def test_names_in_base64_and_a_configured_url():
    def coded(text):
        return base64.b64encode(text.encode()).decode().rstrip("=")

    option = f"user64_{coded('dé_f')}_{coded('u_x')}"
    auth = Auth(**{option: "pass .admin"})
    headers = {
        "X-Auth-User": "dé_f:u_x".encode().decode("latin-1"),
        "X-Auth-Key": "pass",
    }
    response = auth.ask("GET", "/auth/v1.0", headers)
    assert response.headers["X-Storage-Url"].endswith("/v1/AUTH_d%C3%A9_f")
    token = auth.token("test2:tester2", "testing2")
    headers = {"X-Auth-User": "test2:tester2", "X-Auth-Key": "testing2"}
    second = auth.ask("GET", "/auth/v1.0", headers)
    assert second.headers["X-Storage-Url"] == "http://else.where/v1/AUTH_second"
    assert auth.cache.get(f"AUTH_/token/{token}")[1].endswith("AUTH_test2,AUTH_second")


@pytest.mark.parametrize(
    ("scheme", "url"),
    [("https", "https://localhost/v1/AUTH_test"), ("default", "http://localhost/v1/AUTH_test")],
)  # fmt: skip
def test_the_scheme_of_the_url_can_be_set(scheme, url):
    auth = Auth(storage_url_scheme=scheme)
    headers = {"X-Auth-User": "test:tester", "X-Auth-Key": "testing"}
    assert auth.ask("GET", "/auth/v1.0", headers).headers["X-Storage-Url"] == url


def test_without_cache_and_fernet_no_token_is_given():
    auth = Auth()
    headers = {"X-Auth-User": "test:tester", "X-Auth-Key": "testing"}
    extra = {env.CACHE: None}
    assert auth.ask("GET", "/auth/v1.0", headers, **extra).status == 500


# --- Believing tokens -----------------------------------------------------------------


def test_a_good_token_signs_the_caller_in():
    auth = Auth()
    assert auth.status("GET", "/v1/AUTH_test/c/o", "test:tester", "testing") == 200
    last = auth.end.last
    assert last["REMOTE_USER"] == "test,test:tester,AUTH_test"
    assert last[env.AUTH_ACCESS_USER_ID] == "test:tester"
    assert last[env.OWNER] is True
    assert env.RESELLER_REQUEST not in last


@pytest.mark.parametrize(
    "token", ["AUTH_tkbad", "AUTH_ftkbad", "AUTH_zftk\xff", "AUTH_"]
)
def test_a_bad_token_is_refused_at_once(token):
    auth = Auth()
    assert auth.status("GET", "/v1/AUTH_test", X_Auth_Token=token) == 401
    assert auth.end.seen == []


def test_an_expired_token_is_refused(clock):
    auth = Auth(token_life="10")
    token = auth.token()
    clock.sleep(9)
    assert auth.status("GET", "/v1/AUTH_test", X_Auth_Token=token) == 200
    clock.sleep(1)
    assert auth.status("GET", "/v1/AUTH_test", X_Auth_Token=token) == 401


def test_a_revoked_token_is_believed_for_a_moment_only(clock):
    auth = Auth()
    token = auth.token()
    assert auth.status("GET", "/v1/AUTH_test", X_Storage_Token=token) == 200
    auth.cache.delete(f"AUTH_/token/{token}")
    clock.sleep(MEMORY_S)
    assert auth.status("GET", "/v1/AUTH_test", X_Storage_Token=token) == 401


def test_with_a_cache_of_its_own_any_worker_takes_the_token_of_another(clock):
    first, second = Auth(LocalCache()), Auth(LocalCache())
    token = first.token()
    assert first.token() == token
    assert second.status("GET", "/v1/AUTH_test/c", X_Auth_Token=token) == 200
    changed = Auth(LocalCache(), user_test_tester="other .admin")
    assert changed.status("GET", "/v1/AUTH_test/c", X_Auth_Token=token) == 401
    clock.sleep(86401)
    assert second.status("GET", "/v1/AUTH_test/c", X_Auth_Token=token) == 401


def test_fernet_tokens_need_no_cache(clock):
    keys = {f"fernet_key_{index}": Fernet.generate_key().decode() for index in "ab"}
    auth = Auth(**keys, active_fernet_key_id="a")
    token = auth.token()
    assert token.startswith(("AUTH_ftk", "AUTH_zftk"))
    other = Auth(**keys, active_fernet_key_id="b")
    extra = {env.CACHE: None}
    headers = {"X-Auth-Token": token}
    assert other.ask("GET", "/v1/AUTH_test", headers, **extra).status == 200
    clock.sleep(86401)
    assert other.ask("GET", "/v1/AUTH_test", headers, **extra).status == 401


def test_long_groups_are_deflated():
    tokens = FernetTokens("AUTH_", {"a": Fernet.generate_key()}, "a")
    groups = ",".join(["test:tester"] * 50)
    token = tokens.make(groups, 1000)
    assert token.startswith("AUTH_zftk")
    assert tokens.read(token, 10, 1005) == (groups, 1010)
    assert tokens.read(token, 10, 1011) is None


def test_a_service_token_adds_its_groups():
    auth = Auth()
    headers = {
        "X-Auth-Token": auth.token(),
        "X-Service-Token": auth.token("test:guest", "guests"),
    }
    auth.ask("GET", "/v1/AUTH_test", headers)
    assert auth.end.last["REMOTE_USER"].endswith("AUTH_test,test,test:guest")


# --- Deciding -------------------------------------------------------------------------

TESTER = ("test:tester", "testing")
GUEST = ("test:guest", "guests")
OTHER = ("test2:tester2", "testing2")
RESELLER = ("admin:admin", "admin")
READER = ("audit:reader", "reading")
NOBODY = (None, "")


@pytest.mark.parametrize(
    ("who", "method", "path", "status"),
    [
        pytest.param(TESTER, "PUT", "/v1/AUTH_test/c", 200, id="own account"),
        pytest.param(TESTER, "POST", "/v1/AUTH_test", 200, id="own metadata"),
        pytest.param(TESTER, "PUT", "/v1/AUTH_test", 403, id="no account PUT"),
        pytest.param(TESTER, "DELETE", "/v1/AUTH_test", 403, id="no account DELETE"),
        pytest.param(TESTER, "GET", "/v1/AUTH_test2", 403, id="another account"),
        pytest.param(TESTER, "GET", "/v1/OTHER_test", 403, id="another prefix"),
        pytest.param(GUEST, "GET", "/v1/AUTH_test/c", 403, id="user without .admin"),
        pytest.param(NOBODY, "GET", "/v1/AUTH_test/c/o", 401, id="anonymous"),
        pytest.param(NOBODY, "OPTIONS", "/v1/AUTH_test/c/o", 200, id="OPTIONS"),
        pytest.param(RESELLER, "DELETE", "/v1/AUTH_test", 200, id="reseller admin"),
        pytest.param(RESELLER, "GET", "/v1/AUTH_.hidden", 403, id="dot account"),
        pytest.param(RESELLER, "GET", "/v1/AUTH_", 403, id="bare prefix"),
        pytest.param(READER, "GET", "/v1/AUTH_test/c/o", 200, id="reseller reader"),
        pytest.param(READER, "PUT", "/v1/AUTH_test/c/o", 403, id="who only reads"),
    ],
)
def test_groups_decide(who, method, path, status):
    assert Auth().status(method, path, *who) == status


def test_a_reseller_admin_is_marked():
    auth = Auth()
    auth.status("GET", "/v1/AUTH_test", *RESELLER)
    assert auth.end.last[env.RESELLER_REQUEST] is True
    assert auth.end.last[env.OWNER] is True


@pytest.mark.parametrize(
    ("acl", "who", "path", "referer", "status"),
    [
        (".r:*", NOBODY, "/v1/AUTH_test/c/o", "", 200),
        (".r:*", NOBODY, "/v1/AUTH_test/c", "", 401),
        (".r:*,.rlistings", NOBODY, "/v1/AUTH_test/c", "", 200),
        (".r:.x.org", NOBODY, "/v1/AUTH_test/c/o", "http://www.x.org/", 200),
        (".r:.x.org", NOBODY, "/v1/AUTH_test/c/o", "http://www.y.org/", 401),
        ("test2", OTHER, "/v1/AUTH_test/c", "", 200),
        ("test2:tester2", OTHER, "/v1/AUTH_test/c/o", "", 200),
        ("test2:else", OTHER, "/v1/AUTH_test/c/o", "", 403),
        ("test:guest", GUEST, "/v1/AUTH_test/c/o", "", 200),
    ],
)
def test_container_lists_decide(acl, who, path, referer, status):
    auth = Auth()
    auth.end.acl = acl
    assert auth.status("GET", path, *who, Referer=referer) == status
    assert not auth.end.last.get(env.OWNER)


@pytest.mark.parametrize(
    ("acl", "method", "path", "status", "owner"),
    [
        ('{"admin":["test2"]}', "POST", "/v1/AUTH_test", 200, True),
        ('{"admin":["test2:tester2"]}', "DELETE", "/v1/AUTH_test/c", 200, True),
        ('{"read-write":["test2"]}', "PUT", "/v1/AUTH_test/c/o", 200, False),
        ('{"read-write":["test2"]}', "GET", "/v1/AUTH_test", 200, False),
        ('{"read-write":["test2"]}', "POST", "/v1/AUTH_test", 403, False),
        ('{"read-only":["test2"]}', "HEAD", "/v1/AUTH_test/c/o", 200, False),
        ('{"read-only":["test2"]}', "PUT", "/v1/AUTH_test/c/o", 403, False),
        ('{"read-only":["test3"]}', "GET", "/v1/AUTH_test/c/o", 403, False),
        ("broken", "GET", "/v1/AUTH_test/c/o", 403, False),
    ],
)
def test_account_lists_decide(acl, method, path, status, owner):
    auth = Auth()
    auth.account_headers["X-Account-Sysmeta-Core-Access-Control"] = acl
    assert auth.status(method, path, *OTHER) == status
    assert bool(auth.end.last.get(env.OWNER)) is owner


@pytest.mark.parametrize(
    ("value", "status", "stored"),
    [
        (' {"admin": ["x"], "read-only": []}', 200, '{"admin":["x"]}'),
        ("", 200, ""),
        ("{", 400, None),
        ('{"root": []}', 400, None),
    ],
)
def test_an_account_list_is_checked_and_kept_as_sysmeta(value, status, stored):
    auth = Auth()
    headers = {"X-Account-Access-Control": value}
    headers["X-Auth-Token"] = auth.token()
    assert auth.ask("POST", "/v1/AUTH_test", headers).status == status
    key = "HTTP_X_ACCOUNT_SYSMETA_CORE_ACCESS_CONTROL"
    assert auth.end.last.get(key) == stored


@pytest.mark.parametrize(("who", "shown"), [(TESTER, "{}"), (READER, None)])
def test_owners_see_the_account_list(who, shown):
    auth = Auth()
    auth.end.answers["*"] = lambda environ: found(
        status=204, X_Account_Sysmeta_Core_Access_Control="{}"
    )
    headers = {"X-Auth-Token": auth.token(*who)}
    response = auth.ask("HEAD", "/v1/AUTH_test", headers)
    assert response.headers.get("X-Account-Access-Control") == shown


@pytest.mark.parametrize(
    ("key", "timestamp", "status"), [("k", "1", 200), ("x", "1", 401), ("k", None, 401)]
)
def test_another_cluster_writes_with_the_containers_key(key, timestamp, status):
    auth = Auth()
    auth.account_headers["X-Container-Sync-Key"] = "k"
    headers = {"X-Container-Sync-Key": key}
    if timestamp:
        headers["X-Timestamp"] = timestamp
    assert auth.ask("PUT", "/v1/AUTH_test/c/o", headers).status == status


@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({"require_group": "ops"}, 403),
        ({"AUTH_require_group": "ops"}, 403),
        ({"AUTH_require_group": "test"}, 200),
        ({"SERVICE_require_group": "ops", "reseller_prefix": "AUTH, SERVICE"}, 200),
    ],
)
def test_a_group_can_be_required(options, status):
    assert Auth(**options).status("GET", "/v1/AUTH_test", *TESTER) == status


def test_several_prefixes():
    auth = Auth(reseller_prefix="AUTH, SERVICE_")
    assert auth.status("GET", "/v1/SERVICE_test/c", *TESTER) == 200
    assert auth.status("GET", "/v1/SERVICE_test2/c", *TESTER) == 403


def test_requests_that_are_authorised_already_are_left_alone():
    auth = Auth()
    extra = {env.AUTHORIZE_OVERRIDE: True}
    assert auth.ask("GET", "/v1/AUTH_test", **extra).status == 200
    assert env.AUTHORIZE not in auth.end.last
    strict = Auth(allow_overrides="no")
    assert strict.ask("GET", "/v1/AUTH_test", **extra).status == 401


def test_another_filters_decision_stands_for_foreign_accounts():
    auth = Auth()
    theirs = {env.AUTHORIZE: lambda request: None}
    assert auth.ask("GET", "/v1/KEY_x/c", **theirs).status == 200
    assert auth.ask("GET", "/v1/AUTH_x/c", **theirs).status == 401


def test_denials_name_the_realm():
    response = Auth().ask("GET", "/v1/AUTH_t%20%C3%A9/c")
    assert response.headers["Www-Authenticate"] == 'Swift realm="AUTH_t%20%C3%A9"'


def test_neither_tokens_nor_keys_are_logged():
    auth = Auth(LocalCache())
    token = auth.token()
    auth.status("GET", "/v1/AUTH_test", X_Auth_Token=token)
    auth.status("GET", "/v1/AUTH_test", X_Auth_Token=token + "x")
    auth.ask("GET", "/auth/v1.0", {"X-Auth-User": "test:tester", "X-Auth-Key": "wrong"})
    logged = "\n".join(auth.log_lines)
    assert token not in logged
    assert "testing" not in logged


# --- Configuration --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found_prefixes"),
    [
        ("AUTH", ("AUTH_",)),
        ("AUTH_, SERVICE", ("AUTH_", "SERVICE_")),
        ("'', AUTH", ("", "AUTH_")),
        ("", ("",)),
    ],
)
def test_prefixes_end_in_an_underscore(text, found_prefixes):
    assert prefixes(text) == found_prefixes


@pytest.mark.parametrize(
    "options",
    [
        {"user_test": "key"},
        {"user_test_tester": " "},
        {"user64_####_x": "key"},
        {"fernet_key_a": "short", "active_fernet_key_id": "a"},
        {"active_fernet_key_id": "missing"},
    ],
)
def test_a_bad_configuration_refuses_to_start(options):
    with pytest.raises(ConfigError):
        Auth(**options)


def test_info_tells_of_account_lists():
    assert Auth().process.info.features["tempauth"] == {"account_acls": True}
