# SPDX-License-Identifier: Apache-2.0
"""The one registry of WSGI environ keys, and how requests are made of other requests.

Header values in an environ are WSGI strings (bytes seen as Latin-1), as in
`core.headers.Headers`. Names of keys that filters of third parties read keep OpenStack
Swift's spelling.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote as _quote
from urllib.parse import unquote_to_bytes

from swift.core.headers import Headers, title

Environ = dict[str, Any]

# --- CGI and WSGI (PEP 3333) ---------------------------------------------------------
REQUEST_METHOD = "REQUEST_METHOD"
SCRIPT_NAME = "SCRIPT_NAME"
PATH_INFO = "PATH_INFO"
RAW_PATH_INFO = "RAW_PATH_INFO"
QUERY_STRING = "QUERY_STRING"
CONTENT_TYPE = "CONTENT_TYPE"
CONTENT_LENGTH = "CONTENT_LENGTH"
SERVER_NAME = "SERVER_NAME"
SERVER_PORT = "SERVER_PORT"
SERVER_PROTOCOL = "SERVER_PROTOCOL"
REMOTE_ADDR = "REMOTE_ADDR"
REMOTE_PORT = "REMOTE_PORT"
REMOTE_USER = "REMOTE_USER"
WSGI_INPUT = "wsgi.input"
WSGI_ERRORS = "wsgi.errors"
WSGI_URL_SCHEME = "wsgi.url_scheme"

# --- Headers that are read as environ keys on every request --------------------------
HTTP_HOST = "HTTP_HOST"
HTTP_ORIGIN = "HTTP_ORIGIN"
HTTP_REFERER = "HTTP_REFERER"
HTTP_RANGE = "HTTP_RANGE"
HTTP_USER_AGENT = "HTTP_USER_AGENT"
HTTP_TRANSFER_ENCODING = "HTTP_TRANSFER_ENCODING"
HTTP_X_AUTH_TOKEN = "HTTP_X_AUTH_TOKEN"  # noqa: S105 (an environ key)
HTTP_X_STORAGE_TOKEN = "HTTP_X_STORAGE_TOKEN"  # noqa: S105
HTTP_X_SERVICE_TOKEN = "HTTP_X_SERVICE_TOKEN"  # noqa: S105
HTTP_X_TRANS_ID = "HTTP_X_TRANS_ID"
HTTP_X_TRANS_ID_EXTRA = "HTTP_X_TRANS_ID_EXTRA"
HTTP_X_TIMESTAMP = "HTTP_X_TIMESTAMP"
HTTP_X_BACKEND_INBOUND_X_TIMESTAMP = "HTTP_X_BACKEND_INBOUND_X_TIMESTAMP"
HTTP_X_NEWEST = "HTTP_X_NEWEST"
HTTP_X_FORWARDED_FOR = "HTTP_X_FORWARDED_FOR"
HTTP_X_CLUSTER_CLIENT_IP = "HTTP_X_CLUSTER_CLIENT_IP"
HTTP_X_BACKEND_ALLOW_RESERVED_NAMES = "HTTP_X_BACKEND_ALLOW_RESERVED_NAMES"
HTTP_X_BACKEND_STORAGE_POLICY_INDEX = "HTTP_X_BACKEND_STORAGE_POLICY_INDEX"
HTTP_X_BACKEND_REPLICATION = "HTTP_X_BACKEND_REPLICATION"
HTTP_X_BACKEND_USE_REPLICATION_NETWORK = "HTTP_X_BACKEND_USE_REPLICATION_NETWORK"

# --- Who asks, and what that one may -------------------------------------------------
AUTHORIZE = "swift.authorize"
"""Callable(Request) → None when allowed, else the Response that denies."""
AUTHORIZE_OVERRIDE = "swift.authorize_override"
"""True when the request is allowed already and auth filters leave it alone."""
SLO_OVERRIDE = "swift.slo_override"
"""True when another cluster sends a manifest as it is; the slo filter keeps away."""
SYMLINK_OVERRIDE = "swift.symlink_override"
"""True when another cluster sends a link as it is; its target is not looked at."""
CLEAN_ACL = "swift.clean_acl"
"""Callable(header name, value) → the ACL in canonical form; ValueError if bad."""
OWNER = "swift_owner"
RESELLER_REQUEST = "reseller_request"
AUTH_ACCESS_USER_ID = "swift.access_user_id"

# --- What the request is part of -----------------------------------------------------
TRANS_ID = "swift.trans_id"
SOURCE = "swift.source"
"""Two- or three-letter code of the filter that made this sub-request."""
LOG_INFO = "swift.log_info"
"""List of words for the log_info field of the access log."""
ACCESS_LOG_MADE = "swift.proxy_access_log_made"
"""True when a proxy_logging to the right has written the line."""
RATELIMIT_HANDLED = "swift.ratelimit.handled"
"""True once a ratelimit filter has counted the request."""
UPDATE_FOOTERS = "swift.callback.update_footers"
"""Callable(Headers) run once the object's bytes are read, before footers are sent."""
ORIG_REQ_METHOD = "swift.orig_req_method"
BACKEND_PATH = "swift.backend_path"
"""The path that the proxy server at the end of the pipeline served."""
LEAVE_RELATIVE_LOCATION = "swift.leave_relative_location"
POSTHOOKS = "eventlet.posthooks"

# --- Facts shared along the pipeline -------------------------------------------------
CACHE = "swift.cache"
"""The memcache-like client that the cache filter provides."""
INFOCACHE = "swift.infocache"
"""dict: cache key → account or container facts, shared with sub-requests."""
INFO_FETCHER = "swift.info_fetcher"
"""Callable(environ, name) → Response with the facts, supplied by the proxy app."""
POLICY_INDEX = "swift.policy_index"
"""What the proxy found out, for the access log."""
ADDITIONAL_INFO = "swift.additional_info"

# --- Within the object server ---------------------------------------------------------
COMMIT_GROUP = "swift.object_commit_group"
"""Commits that a PUT within an SSYNC goes to the disk with."""

# --- Between wire/protocol and the applications --------------------------------------
CONNECTION_CLOSE = "swift.connection_close"
"""Set by an app: the connection must not be used again after this answer."""

_FROM_PARENT = (
    SERVER_NAME,
    SERVER_PORT,
    SERVER_PROTOCOL,
    REMOTE_ADDR,
    REMOTE_PORT,
    REMOTE_USER,
    HTTP_HOST,
    HTTP_ORIGIN,
    HTTP_REFERER,
    HTTP_USER_AGENT,
    HTTP_X_AUTH_TOKEN,
    HTTP_X_SERVICE_TOKEN,
    HTTP_X_TRANS_ID,
    HTTP_X_FORWARDED_FOR,
    HTTP_X_CLUSTER_CLIENT_IP,
    "wsgi.version",
    "wsgi.multithread",
    "wsgi.multiprocess",
    "wsgi.run_once",
    WSGI_ERRORS,
    WSGI_URL_SCHEME,
    AUTHORIZE,
    AUTHORIZE_OVERRIDE,
    CLEAN_ACL,
    OWNER,
    RESELLER_REQUEST,
    AUTH_ACCESS_USER_ID,
    TRANS_ID,
    LOG_INFO,
    CACHE,
    INFOCACHE,
    INFO_FETCHER,
)
# Filters may add what identifies their users; these families travel too (keystone).
_FROM_PARENT_FAMILIES = (
    "HTTP_X_USER_",
    "HTTP_X_PROJECT_",
    "HTTP_X_TENANT_",
    "keystone",
)


class _Names(dict[str, str]):
    """Environ key → header name, empty for a key that is no header; learns, bounded."""

    def __missing__(self, key: str) -> str:
        name = title(key[5:].replace("_", "-")) if key.startswith("HTTP_") else ""
        if len(self) < _TABLE_MAX:
            self[key] = name
        return name


_NAMES = _Names({CONTENT_TYPE: "Content-Type", CONTENT_LENGTH: "Content-Length"})
_KEYS: dict[str, str] = {"Content-Type": CONTENT_TYPE, "Content-Length": CONTENT_LENGTH}
_TABLE_MAX = 4096
_NEW_HEADERS = Headers.__new__  # without the constructor, which titles each name


def key_of(name: str) -> str:
    """The environ key of a header, its name in any case."""
    key = _KEYS.get(name)
    if key is None:
        upper = name.upper().replace("-", "_")
        key = upper if upper in (CONTENT_TYPE, CONTENT_LENGTH) else "HTTP_" + upper
        if len(_KEYS) < _TABLE_MAX:
            _KEYS[name] = key
    return key


def headers_of(environ: Mapping[str, Any]) -> Headers:
    """The headers of a request as a new mapping; changes do not reach the environ."""
    names = _NAMES
    found = {names[key]: value for key, value in environ.items()}
    found.pop("", None)
    headers = _NEW_HEADERS(Headers)
    dict.update(headers, found)
    # An absent Content-Type or -Length may stand as an empty string (PEP 3333).
    if not environ.get(CONTENT_TYPE, " "):
        del headers["Content-Type"]
    if not environ.get(CONTENT_LENGTH, " "):
        del headers["Content-Length"]
    return headers


def get_header(environ: Mapping[str, Any], name: str, default: str = "") -> str:
    """The value of one header, without building the mapping."""
    value = environ.get(key_of(name))
    return default if value is None else value


def set_header(environ: Environ, name: str, value: str) -> None:
    """Set or replace one header."""
    environ[key_of(name)] = value


def remove_header(environ: Environ, name: str) -> None:
    """Take one header away, if it is there."""
    environ.pop(key_of(name), None)


def allow(request: Any) -> None:
    """The authorisation callback of requests that are allowed already."""


class PathParts(NamedTuple):
    """The segments of a path of the public API: WSGI strings, decoded.

    container, obj: empty when the path has none.
    """

    version: str
    account: str
    container: str = ""
    obj: str = ""

    @property
    def path(self) -> str:
        """The PATH_INFO that has these parts."""
        return "/" + "/".join(part for part in self if part)

    def at(self, container: str, obj: str = "") -> PathParts:
        """Another place in the same account."""
        return PathParts(self.version, self.account, container, obj)


def path_parts(environ: Mapping[str, Any]) -> PathParts | None:
    """The parts of a request's path; None when it is not in an account.

    The version is not looked at: a wrong one is refused at the end of the pipeline.
    """
    parts = environ[PATH_INFO].split("/", 4)
    if len(parts) < 3 or parts[0] or not parts[1] or not parts[2]:
        return None
    if len(parts) == 5 and parts[4] and not parts[3]:
        return None
    return PathParts(*parts[1:])


def split_target(target: str) -> tuple[str, str]:
    """PATH_INFO (a WSGI string, decoded) and QUERY_STRING of `/quoted/path?query`."""
    path, _, query = target.partition("?")
    return unquote_to_bytes(path).decode("latin-1"), query


def quote_path(path: str) -> str:
    """A decoded path (a WSGI string) percent-encoded, slashes kept."""
    return _quote(path.encode("latin-1"), safe="/")


def path_qs(environ: Mapping[str, Any]) -> str:
    """The percent-encoded path with its query, as a client would write it."""
    path = environ.get(SCRIPT_NAME, "") + environ.get(PATH_INFO, "")
    quoted = quote_path(path)
    query = environ.get(QUERY_STRING, "")
    return f"{quoted}?{query}" if query else quoted


def sub_environ(
    environ: Mapping[str, Any],
    method: str | None = None,
    path: str | None = None,
    *,
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    body: bytes | None = None,
    source: str | None = None,
    query: str | None = None,
    preauthorised: bool = False,
) -> Environ:
    """The environ of a request that is made on behalf of another.

    method, path: the parent's when None; the path is a WSGI string, decoded, without
    query. body: the whole body; None means none. query: QUERY_STRING, empty when None.
    source: code for the access log. preauthorised: the sub-request may do anything.

    Identity, transaction id, caches and the connection's facts are inherited; other
    headers are not, so that a condition or a range of the parent does not act twice.
    """
    new: Environ = {key: environ[key] for key in _FROM_PARENT if key in environ}
    new.update(
        {key: environ[key] for key in environ if key.startswith(_FROM_PARENT_FAMILIES)}
    )
    new[REQUEST_METHOD] = method or environ[REQUEST_METHOD]
    new[SCRIPT_NAME] = ""
    if path is None:
        path = environ.get(SCRIPT_NAME, "") + environ.get(PATH_INFO, "")
    new[PATH_INFO] = path
    new[QUERY_STRING] = query or ""
    new.setdefault(INFOCACHE, {})
    if source:
        new[SOURCE] = source
    elif SOURCE in environ:
        new[SOURCE] = environ[SOURCE]
    if preauthorised:
        new[AUTHORIZE] = allow
        new[AUTHORIZE_OVERRIDE] = True
        new.pop(REMOTE_USER, None)
        new.pop(HTTP_X_AUTH_TOKEN, None)
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    for name, value in pairs:
        new[key_of(name)] = value
    new[WSGI_INPUT] = io.BytesIO(body or b"")
    if body is not None:
        new[CONTENT_LENGTH] = str(len(body))
    return new


def blank(
    path: str,
    *,
    method: str = "GET",
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    body: bytes | None = None,
    environ: Mapping[str, Any] | None = None,
) -> Environ:
    """A request out of nothing: for tests, daemons and start-up checks.

    path: percent-encoded, with or without query.
    """
    path_info, query = split_target(path)
    new: Environ = {
        REQUEST_METHOD: method,
        SCRIPT_NAME: "",
        PATH_INFO: path_info,
        QUERY_STRING: query,
        SERVER_NAME: "localhost",
        SERVER_PORT: "80",
        HTTP_HOST: "localhost:80",
        SERVER_PROTOCOL: "HTTP/1.0",
        "wsgi.version": (1, 0),
        WSGI_URL_SCHEME: "http",
        WSGI_INPUT: io.BytesIO(body or b""),
        WSGI_ERRORS: io.StringIO(),
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    if body is not None:
        new[CONTENT_LENGTH] = str(len(body))
    if environ:
        new.update(environ)
    pairs = headers.items() if isinstance(headers, Mapping) else headers
    for name, value in pairs:
        new[key_of(name)] = value
    return new
