# SPDX-License-Identifier: Apache-2.0
"""Users in the .conf file, tokens in the cache: authentication for tests and small
clusters.

The filter answers the paths below `auth_prefix`, learns from a request's token who
asks, and puts a callable into the environ that decides, once the proxy knows what is
asked for. Tokens are opaque and kept in the cache, or carry their groups themselves,
encrypted (fernet). When the cache is within this process only, tokens are of the second
kind too, under a key made of the cluster's salt and the users' keys: so any worker
takes a token that another one gave.

Neither tokens nor keys go into any log. Contract: middleware 29, api 7.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from swift.core import headers as h
from swift.core.acl import (
    AccountAcl,
    AclError,
    clean_acl,
    format_account_acl,
    parse_account_acl,
    parse_acl,
)
from swift.core.errors import ConfigError, InvalidInput
from swift.core.headers import Headers
from swift.core.names import AccountName, ContainerName, quote_segment, text_of_wsgi
from swift.middleware.fernet_tokens import FernetTokens
from swift.middleware.tempauth_users import (
    HOST_MARK,
    TempauthConfig,
    User,
    Users,
    split_options,
)
from swift.runtime import green
from swift.wire import environ as env
from swift.wire.environ import Environ, key_of
from swift.wire.filter import Filter, PipelineContext
from swift.wire.infocache import account_info, container_info
from swift.wire.request import Request, Response, StartResponse, WsgiApp, host_url

RESELLER_ADMIN = ".reseller_admin"
RESELLER_READER = ".reseller_reader"
UNKNOWN_REALM = "unknown"

MEMORY_S = 1.0
"""How long a token is believed without asking the cache again."""
FERNET_MEMORY_S = 60.0
"""The same for a token that nobody can revoke before its time."""
MEMORY_MAX = 4096

ACCOUNT_ACL_SYSMETA = "core-access-control"

_HTTP_ACCOUNT_ACL = key_of(h.X_ACCOUNT_ACCESS_CONTROL)
_HTTP_ACCOUNT_ACL_SYSMETA = key_of(h.ACCOUNT_ACCESS_CONTROL_SYSMETA)
_HTTP_AUTH_USER = key_of(h.X_AUTH_USER)
_HTTP_AUTH_KEY = key_of(h.X_AUTH_KEY)
_HTTP_STORAGE_USER = key_of(h.X_STORAGE_USER)
_HTTP_STORAGE_PASS = key_of(h.X_STORAGE_PASS)
_HTTP_SYNC_KEY = key_of(h.X_CONTAINER_SYNC_KEY)
_READS = ("GET", "HEAD")


@dataclass(frozen=True, slots=True)
class Identity:
    """Who a token stands for. text: the groups by commas; until: clock reading."""

    text: str
    groups: tuple[str, ...]
    until: float

    @property
    def user(self) -> str:
        """`account:user`."""
        return self.groups[1] if len(self.groups) > 1 else self.text


class Tempauth(Filter):
    """The filter."""

    Config = TempauthConfig
    config: TempauthConfig

    def __init__(
        self,
        app: WsgiApp,
        config: TempauthConfig,
        context: PipelineContext,
        users: Users,
    ) -> None:
        super().__init__(app, config, context)
        self._users = users.by_identity
        self._prefixes = config.reseller_prefixes
        self._prefix = config.reseller_prefixes[0]
        self._require_group = users.require_group
        self._fernet = FernetTokens(
            self._prefix, users.fernet_keys, config.active_fernet_key_id
        )
        self._own_fernet: FernetTokens | None = None
        self._memory: dict[str, Identity] = {}
        self._metrics = context.metrics_of(f"tempauth.{self._prefix or 'NONE'}")
        context.info.register("tempauth", account_acls=True)

    # --- Every request ----------------------------------------------------------------

    def __call__(
        self, environ: Environ, start_response: StartResponse
    ) -> Iterable[bytes]:
        """Answer one request. Yields."""
        if self.config.allow_overrides and environ.get(env.AUTHORIZE_OVERRIDE):
            return self.app(environ, start_response)
        path = environ[env.PATH_INFO]
        if path.startswith(self.config.auth_prefix):
            return self._answer_auth(environ)(environ, start_response)
        if path.count("/") == 2 or path.endswith("/"):
            start_response = _showing_account_acl(environ, start_response)
        token = environ.get(env.HTTP_X_AUTH_TOKEN) or environ.get(
            env.HTTP_X_STORAGE_TOKEN
        )
        if token and token.startswith(self._prefix):
            identity = self._identity(environ, token)
            if identity is not None:
                self._sign_in(environ, identity)
                return self.app(environ, start_response)
            if self._prefix:
                self._metrics.increment("unauthorized")
                return self._denial(environ)(environ, start_response)
            # With an empty prefix any token looks like ours; another filter may know
            # it.
            if env.AUTHORIZE not in environ:
                environ[env.AUTHORIZE] = self.denied
            return self.app(environ, start_response)
        if self._owns_path(path):
            environ[env.AUTHORIZE] = self.authorize
            environ[env.CLEAN_ACL] = cleaned
        elif env.AUTHORIZE not in environ:
            environ[env.AUTHORIZE] = self.denied if self._prefix else self.authorize
            environ.setdefault(env.CLEAN_ACL, cleaned)
        return self.app(environ, start_response)

    def _sign_in(self, environ: Environ, identity: Identity) -> None:
        service_token = environ.get(env.HTTP_X_SERVICE_TOKEN)
        if service_token:
            service = self._identity(environ, service_token)
            if service is not None:
                identity = Identity(
                    f"{identity.text},{service.text}",
                    identity.groups + service.groups,
                    identity.until,
                )
        environ[env.REMOTE_USER] = identity.text
        environ[env.AUTH_ACCESS_USER_ID] = identity.user
        environ[env.AUTHORIZE] = self.authorize
        environ[env.CLEAN_ACL] = cleaned
        if RESELLER_ADMIN in identity.groups:
            environ[env.RESELLER_REQUEST] = True

    def _owns_path(self, path: str) -> bool:
        """True for a path whose account has one of our prefixes."""
        account = path.split("/", 3)[2:3]
        return bool(account) and any(
            prefix and account[0].startswith(prefix) for prefix in self._prefixes
        )

    # --- Tokens
    # -------------------------------------------------------------------------

    def _identity(self, environ: Environ, token: str) -> Identity | None:
        """Who a token stands for, None when it is not good. Yields."""
        now = green.now()
        known = self._memory.get(token)
        if known is not None and now < known.until:
            return known
        for fernet in (self._fernet, self._own_tokens(environ)):
            if fernet is not None and fernet.owns(token):
                found = fernet.read(token, self.config.token_life_s, now)
                if found is not None:
                    groups, expires = found
                    until = min(now + FERNET_MEMORY_S, expires)
                    return self._remember(token, groups, until)
        cache = environ.get(env.CACHE)
        if cache is None:
            return None
        entry = cache.get(f"{self._prefix}/token/{token}")
        try:
            expires, groups = entry
            if float(expires) <= now:
                return None
        except (TypeError, ValueError):
            return None
        return self._remember(token, groups, min(now + MEMORY_S, float(expires)))

    def _remember(self, token: str, groups: str, until: float) -> Identity:
        identity = Identity(groups, tuple(groups.split(",")), until)
        if len(self._memory) >= MEMORY_MAX:
            self._memory.clear()
        self._memory[token] = identity
        return identity

    def _own_tokens(self, environ: Environ) -> FernetTokens | None:
        """Tokens under a key of our own, None when workers share a cache."""
        cache = environ.get(env.CACHE)
        if cache is None or not cache.keeps_objects:
            return None
        if self._own_fernet is None:
            salt = self.context.cluster.salt
            secret = hmac.new(
                salt.prefix + b"\0" + salt.suffix, digestmod=hashlib.sha256
            )
            # A changed user makes all tokens void, as a changed key should its own.
            for identity in sorted(self._users):
                user = self._users[identity]
                secret.update(repr((identity, user.key, user.groups)).encode())
            key = base64.urlsafe_b64encode(secret.digest())
            self._own_fernet = FernetTokens(self._prefix, {"own": key}, "own")
        return self._own_fernet

    # --- Giving tokens
    # --------------------------------------------------------------------

    def _answer_auth(self, environ: Environ) -> Response:
        """The answer to a path below auth_prefix. Yields."""
        parts = environ[env.PATH_INFO][len(self.config.auth_prefix) :].split("/", 2)
        realm = UNKNOWN_REALM
        if parts == ["v1.0"] or parts == ["auth"] or parts == ["v1.0", ""]:
            account = None
        elif len(parts) == 3 and parts[0] == "v1" and parts[1] and parts[2] == "auth":
            account = realm = parts[1]
        else:
            return Response.error(400)
        if environ[env.REQUEST_METHOD] != "GET":
            return Response.error(405, headers={h.ALLOW: "GET"})
        user, key = self._credentials(environ, account)
        # A user that is not there is compared too, so as not to be told by the time.
        expected = key + "-" if user is None else user.key
        matches = hmac.compare_digest(
            key.encode("utf-8", "surrogateescape"),
            expected.encode("utf-8", "surrogateescape"),
        )
        if user is None or not matches:
            self._metrics.increment("token_denied")
            if account is None and user is not None:
                realm = user.account
            return _unauthorized(realm)
        return self._give_token(environ, user)

    def _credentials(
        self, environ: Environ, account: str | None
    ) -> tuple[User | None, str]:
        """The user that the headers name, and the key they give."""
        if account is None:
            name = environ.get(_HTTP_AUTH_USER) or environ.get(_HTTP_STORAGE_USER, "")
            key = environ.get(_HTTP_AUTH_KEY) or environ.get(_HTTP_STORAGE_PASS, "")
        else:
            name = environ.get(_HTTP_STORAGE_USER) or environ.get(_HTTP_AUTH_USER, "")
            key = environ.get(_HTTP_STORAGE_PASS) or environ.get(_HTTP_AUTH_KEY, "")
            if ":" not in name:
                name = f"{account}:{name}"
            elif name.partition(":")[0] != account:
                return None, ""
        try:
            name, key = text_of_wsgi(name), text_of_wsgi(key)
        except InvalidInput:
            return None, ""
        return self._users.get(name) if key else None, key

    def _give_token(self, environ: Environ, user: User) -> Response:
        cache = environ.get(env.CACHE)
        own = self._own_tokens(environ)
        if cache is None and not self._fernet.issues:
            self.log.error("tempauth: no cache to keep tokens in, and no fernet key")
            return Response.error(500)
        now = green.now()
        groups = user.groups_text(self._prefixes)
        expires = now + self.config.token_life_s
        if self._fernet.issues or cache is None:
            token = self._fernet.make(groups, now)
        else:
            user_key = f"{self._prefix}/user/{user.identity}"
            known = self._token_in_use(cache, user_key, groups, now)
            if known is not None:
                token, expires = known
            else:
                token = (
                    f"{self._prefix}tk{secrets.token_hex(16)}"
                    if own is None
                    else own.make(groups, now)
                )
                life_s = self.config.token_life_s
                cache.set(f"{self._prefix}/token/{token}", [expires, groups], life_s)
                cache.set(user_key, token, life_s)
        return Response(
            200,
            {
                h.X_AUTH_TOKEN: token,
                h.X_STORAGE_TOKEN: token,
                h.X_AUTH_TOKEN_EXPIRES: str(int(expires - now)),
                h.X_STORAGE_URL: self._storage_url(environ, user),
            },
            b"",
        )

    def _token_in_use(
        self, cache: Any, user_key: str, groups: str, now: float
    ) -> tuple[str, float] | None:
        """The user's present token and its expiry, while its groups are the same."""
        token = cache.get(user_key)
        if not isinstance(token, str):
            return None
        key = f"{self._prefix}/token/{token}"
        entry = cache.get(key)
        try:
            expires, token_groups = entry
            if float(expires) <= now:
                return None
        except (TypeError, ValueError):
            return None
        if set(token_groups.split(",")) == set(groups.split(",")):
            return token, float(expires)
        cache.delete(key)
        self._memory.pop(token, None)
        return None

    def _storage_url(self, environ: Environ, user: User) -> str:
        url = user.url.replace(HOST_MARK, host_url(environ))
        scheme = self.config.storage_url_scheme
        if scheme != "default":
            url = f"{scheme}:{url.partition(':')[2]}"
        return url

    # --- Deciding
    # ---------------------------------------------------------------------------

    def authorize(self, request: Request) -> Response | None:
        """None when the request is allowed, else the denial. May yield."""
        environ = request.environ
        environ[env.OWNER] = False
        parts = environ[env.PATH_INFO].split("/", 4)
        if len(parts) < 3 or not parts[1] or not parts[2]:
            return self._denial(environ)
        account = parts[2]
        prefix = self._prefix_of(account)
        if prefix is None:
            return self._denial(environ)
        container = parts[3] if len(parts) > 3 else ""
        obj = parts[4] if len(parts) > 4 else ""
        if _HTTP_ACCOUNT_ACL in environ and not container:
            fault = _account_acl_fault(environ)
            if fault is not None:
                return fault
        method = environ[env.REQUEST_METHOD]
        user = environ.get(env.REMOTE_USER)
        groups = user.split(",") if user else ()
        if groups and self._by_group(
            environ, method, account, prefix, container, groups
        ):
            return None
        if (
            _HTTP_SYNC_KEY in environ
            and container
            and self._by_sync_key(environ, account, container)
        ):
            return None
        if method == "OPTIONS":
            return None
        acl = parse_acl(getattr(request, "acl", None))
        if (
            acl.referrers
            and acl.admits_referrer(environ.get(env.HTTP_REFERER))
            and (obj or acl.lists_to_referrers)
        ):
            return None
        if groups:
            if acl.groups and acl.names_any(groups):
                return None
            if self._by_account_acl(environ, method, account, container, groups):
                return None
        return self._denial(environ)

    def denied(self, request: Request) -> Response:
        """The denial of what this filter knows nothing of."""
        return self._denial(request.environ)

    def _by_group(
        self,
        environ: Environ,
        method: str,
        account: str,
        prefix: str,
        container: str,
        groups: Iterable[str],
    ) -> bool:
        """True when the caller's groups alone decide; sets the owner mark."""
        is_clusters_own = account == prefix or account[len(prefix) :].startswith(".")
        if not is_clusters_own:
            if RESELLER_ADMIN in groups:
                environ[env.OWNER] = True
                return True
            if RESELLER_READER in groups and method in _READS:
                return True
        if account in groups and (container or method not in ("PUT", "DELETE")):
            required = self._require_group.get(prefix)
            if not required or required in groups:
                environ[env.OWNER] = True
                return True
        return False

    def _by_sync_key(self, environ: Environ, account: str, container: str) -> bool:
        """True for another cluster that knows the container's key. Yields."""
        if env.HTTP_X_TIMESTAMP not in environ or env.INFO_FETCHER not in environ:
            return False
        name = ContainerName(text_of_wsgi(account), text_of_wsgi(container))
        key = container_info(environ, name).sync_key
        return bool(key) and hmac.compare_digest(
            environ[_HTTP_SYNC_KEY].encode("latin-1", "replace"), str(key).encode()
        )

    def _by_account_acl(
        self,
        environ: Environ,
        method: str,
        account: str,
        container: str,
        groups: Iterable[str],
    ) -> bool:
        """True when the account's own list admits the caller. Yields."""
        if env.INFO_FETCHER not in environ:
            return False
        info = account_info(environ, AccountName(text_of_wsgi(account)))
        text = info.sysmeta.get(ACCOUNT_ACL_SYSMETA)
        if not text:
            return False
        try:
            acl = parse_account_acl(text)
        except AclError as error:
            self.log.warning("account %s: stored ACL is bad: %s", account, error)
            return False
        if any(member in groups for member in acl.admin):
            environ[env.OWNER] = True
            return True
        if any(member in groups for member in acl.read_write):
            return bool(container) or method in _READS
        return method in _READS and any(member in groups for member in acl.read_only)

    def _prefix_of(self, account: str) -> str | None:
        """The reseller prefix of an account; the empty one last. None if not ours."""
        for prefix in self._prefixes:
            if prefix and account.startswith(prefix):
                return prefix
        return "" if "" in self._prefixes else None

    def _denial(self, environ: Environ) -> Response:
        """403 to callers we know, 401 to others."""
        if environ.get(env.REMOTE_USER):
            self._metrics.increment("forbidden")
            return Response.error(403)
        self._metrics.increment("unauthorized")
        parts = environ[env.PATH_INFO].split("/", 3)
        realm = UNKNOWN_REALM
        if len(parts) > 2 and parts[2] and parts[2] not in ("v1.0", "auth"):
            realm = parts[2]
        return _unauthorized(realm)


def _showing_account_acl(
    environ: Environ, start_response: StartResponse
) -> StartResponse:
    """A start_response that shows an account's list to its owners."""

    def begin(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        if environ.get(env.OWNER):
            headers = headers + [
                (h.X_ACCOUNT_ACCESS_CONTROL, value)
                for name, value in headers
                if name == h.ACCOUNT_ACCESS_CONTROL_SYSMETA and value
            ]
        if exc_info is not None:
            return start_response(status, headers, exc_info)
        return start_response(status, headers)

    return begin


def cleaned(name: str, value: str) -> str:
    """The ACL of a header in canonical form; raises AclError, a ValueError."""
    return clean_acl(value, is_write="write" in name.lower())


def _unauthorized(realm: str) -> Response:
    """401 with the challenge; the realm is a WSGI string."""
    quoted = quote_segment(_text(realm))
    headers = Headers({h.WWW_AUTHENTICATE: f'Swift realm="{quoted}"'})
    return Response(401, headers)


def _text(value: str) -> str:
    try:
        return text_of_wsgi(value)
    except InvalidInput:
        return UNKNOWN_REALM


def _account_acl_fault(environ: Environ) -> Response | None:
    """Check a client's account ACL and make sysmeta of it; 400 when it is bad."""
    try:
        acl: AccountAcl = parse_account_acl(text_of_wsgi(environ[_HTTP_ACCOUNT_ACL]))
    except InvalidInput as error:
        return Response.text(400, f"{h.X_ACCOUNT_ACCESS_CONTROL} invalid: {error}")
    if environ[env.REQUEST_METHOD] in ("PUT", "POST"):
        environ[_HTTP_ACCOUNT_ACL_SYSMETA] = (
            "" if acl.is_empty else format_account_acl(acl)
        )
    return None


def filter_factory(
    global_conf: Mapping[str, str] | None, **local_conf: str
) -> Callable[[WsgiApp], WsgiApp]:
    """The paste.filter_factory; users and keys are options whose names vary."""
    context = PipelineContext.of(global_conf)
    values, varying = split_options(local_conf)
    config = context.bind(TempauthConfig, values)
    try:
        users = Users.of(config, varying)
    except ValueError as error:
        raise ConfigError(
            context.source, context.section, "user_*, fernet_key_*", str(error)
        ) from error

    def make(app: WsgiApp) -> WsgiApp:
        return Tempauth(app, config, context, users)

    return make
