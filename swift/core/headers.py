# SPDX-License-Identifier: Apache-2.0
"""The one registry of header names, and the mapping that carries headers.

A header value is a WSGI string: the bytes of the wire seen as Latin-1. Names are
compared without regard to case and written Title-Cased by the rule of the wire (first
letter of each dash-separated word). Which headers a client may send and who stores them
is decided by the predicates below; gatekeeper, the stores and the reference page read
this table.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from swift.core.errors import InvalidInput
from swift.core.settings import TRUE_WORDS
from swift.core.timestamp import Timestamp

# HTTP (RFC 9110)
ACCEPT = "Accept"
ACCEPT_RANGES = "Accept-Ranges"
ALLOW = "Allow"
AUTHORIZATION = "Authorization"
CACHE_CONTROL = "Cache-Control"
CONNECTION = "Connection"
CONTENT_DISPOSITION = "Content-Disposition"
CONTENT_ENCODING = "Content-Encoding"
CONTENT_LANGUAGE = "Content-Language"
CONTENT_LENGTH = "Content-Length"
CONTENT_LOCATION = "Content-Location"
CONTENT_MD5 = "Content-Md5"
CONTENT_RANGE = "Content-Range"
CONTENT_TYPE = "Content-Type"
DATE = "Date"
ETAG = "Etag"
EXPECT = "Expect"
EXPIRES = "Expires"
HOST = "Host"
IF_MATCH = "If-Match"
IF_MODIFIED_SINCE = "If-Modified-Since"
IF_NONE_MATCH = "If-None-Match"
IF_UNMODIFIED_SINCE = "If-Unmodified-Since"
LAST_MODIFIED = "Last-Modified"
LOCATION = "Location"
ORIGIN = "Origin"
RANGE = "Range"
REFERER = "Referer"
RETRY_AFTER = "Retry-After"
SERVER = "Server"
TRANSFER_ENCODING = "Transfer-Encoding"
USER_AGENT = "User-Agent"
VARY = "Vary"
WWW_AUTHENTICATE = "Www-Authenticate"
X_ROBOTS_TAG = "X-Robots-Tag"

# Cross-origin requests (Fetch standard)
ACCESS_CONTROL_ALLOW_HEADERS = "Access-Control-Allow-Headers"
ACCESS_CONTROL_ALLOW_METHODS = "Access-Control-Allow-Methods"
ACCESS_CONTROL_ALLOW_ORIGIN = "Access-Control-Allow-Origin"
ACCESS_CONTROL_EXPOSE_HEADERS = "Access-Control-Expose-Headers"
ACCESS_CONTROL_MAX_AGE = "Access-Control-Max-Age"
ACCESS_CONTROL_REQUEST_HEADERS = "Access-Control-Request-Headers"
ACCESS_CONTROL_REQUEST_METHOD = "Access-Control-Request-Method"

# Identity, tracing
X_AUTH_KEY = "X-Auth-Key"
X_AUTH_TOKEN = "X-Auth-Token"  # noqa: S105 (a header name)
X_AUTH_TOKEN_EXPIRES = "X-Auth-Token-Expires"  # noqa: S105
X_AUTH_USER = "X-Auth-User"
X_CLUSTER_CLIENT_IP = "X-Cluster-Client-Ip"
X_FORWARDED_FOR = "X-Forwarded-For"
X_OPENSTACK_REQUEST_ID = "X-Openstack-Request-Id"
X_SERVICE_TOKEN = "X-Service-Token"  # noqa: S105
X_STORAGE_PASS = "X-Storage-Pass"  # noqa: S105
X_STORAGE_TOKEN = "X-Storage-Token"  # noqa: S105
X_STORAGE_URL = "X-Storage-Url"
X_SUBJECT_TOKEN = "X-Subject-Token"  # noqa: S105 (a header name)
X_STORAGE_USER = "X-Storage-User"
X_TRANS_ID = "X-Trans-Id"
X_TRANS_ID_EXTRA = "X-Trans-Id-Extra"

# The public API
DESTINATION = "Destination"
DESTINATION_ACCOUNT = "Destination-Account"
X_ACCOUNT_ACCESS_CONTROL = "X-Account-Access-Control"
X_ACCOUNT_BYTES_USED = "X-Account-Bytes-Used"
X_ACCOUNT_CONTAINER_COUNT = "X-Account-Container-Count"
X_ACCOUNT_OBJECT_COUNT = "X-Account-Object-Count"
X_ALLOW_RESERVED_NAMES = "X-Allow-Reserved-Names"
X_CONTAINER_BYTES_USED = "X-Container-Bytes-Used"
X_CONTAINER_OBJECT_COUNT = "X-Container-Object-Count"
X_CONTAINER_READ = "X-Container-Read"
X_CONTAINER_SHARDING = "X-Container-Sharding"
X_CONTAINER_SYNC_KEY = "X-Container-Sync-Key"
X_CONTAINER_SYNC_TO = "X-Container-Sync-To"
X_CONTAINER_WRITE = "X-Container-Write"
X_COPIED_FROM = "X-Copied-From"
X_COPIED_FROM_ACCOUNT = "X-Copied-From-Account"
X_COPIED_FROM_LAST_MODIFIED = "X-Copied-From-Last-Modified"
X_COPIED_FROM_VERSION_ID = "X-Copied-From-Version-Id"
X_COPY_FROM = "X-Copy-From"
X_COPY_FROM_ACCOUNT = "X-Copy-From-Account"
X_DELETE_AFTER = "X-Delete-After"
X_DELETE_AT = "X-Delete-At"
X_DETECT_CONTENT_TYPE = "X-Detect-Content-Type"
X_FRESH_METADATA = "X-Fresh-Metadata"
X_HISTORY_LOCATION = "X-History-Location"
X_IF_DELETE_AT = "X-If-Delete-At"
X_MANIFEST_ETAG = "X-Manifest-Etag"
X_NEWEST = "X-Newest"
X_OBJECT_CURRENT_VERSION_ID = "X-Object-Current-Version-Id"
X_PARTS_COUNT = "X-Parts-Count"
X_REMOVE_HISTORY_LOCATION = "X-Remove-History-Location"
X_REMOVE_VERSIONS_LOCATION = "X-Remove-Versions-Location"
X_VERSIONS_ENABLED = "X-Versions-Enabled"
X_OBJECT_MANIFEST = "X-Object-Manifest"
X_OBJECT_SYSMETA_EC_CONTENT_LENGTH = "X-Object-Sysmeta-Ec-Content-Length"
X_OBJECT_SYSMETA_EC_ETAG = "X-Object-Sysmeta-Ec-Etag"
X_OBJECT_SYSMETA_EC_FRAG_INDEX = "X-Object-Sysmeta-Ec-Frag-Index"
X_OBJECT_SYSMETA_EC_SCHEME = "X-Object-Sysmeta-Ec-Scheme"
X_OBJECT_SYSMETA_EC_SEGMENT_SIZE = "X-Object-Sysmeta-Ec-Segment-Size"
X_OBJECT_VERSION_ID = "X-Object-Version-Id"
X_OPEN_EXPIRED = "X-Open-Expired"
X_PUT_TIMESTAMP = "X-Put-Timestamp"
X_STATIC_LARGE_OBJECT = "X-Static-Large-Object"
X_STORAGE_POLICY = "X-Storage-Policy"
X_TIMESTAMP = "X-Timestamp"
X_VERSIONS_LOCATION = "X-Versions-Location"

# Filters: links, large objects, quotas, the web, other clusters
X_ACCOUNT_QUOTA = "X-Account-Quota-"
X_ACCOUNT_RFC_COMPLIANT_ETAGS = "X-Account-Rfc-Compliant-Etags"
X_CONTAINER_RFC_COMPLIANT_ETAGS = "X-Container-Rfc-Compliant-Etags"
X_CONTAINER_SYNC_AUTH = "X-Container-Sync-Auth"
X_CONTAINER_SYNC_POINT = "X-Container-Sync-Point"
X_SYMLINK_TARGET = "X-Symlink-Target"
X_SYMLINK_TARGET_ACCOUNT = "X-Symlink-Target-Account"
X_SYMLINK_TARGET_BYTES = "X-Symlink-Target-Bytes"
X_SYMLINK_TARGET_ETAG = "X-Symlink-Target-Etag"
X_WEB_MODE = "X-Web-Mode"

# Between nodes (contract backend-http)
CONTENT_TYPE_TIMESTAMP = "Content-Type-Timestamp"
X_ACCOUNT_DEVICE = "X-Account-Device"
X_ACCOUNT_HOST = "X-Account-Host"
X_ACCOUNT_OVERRIDE_DELETED = "X-Account-Override-Deleted"
X_ACCOUNT_PARTITION = "X-Account-Partition"
X_ACCOUNT_STATUS = "X-Account-Status"
X_BACKEND_ACCEPT_NO_COMMIT = "X-Backend-Accept-No-Commit"
X_BACKEND_ACCEPT_QUOTED_LOCATION = "X-Backend-Accept-Quoted-Location"
X_BACKEND_ACCEPT_REDIRECT = "X-Backend-Accept-Redirect"
X_BACKEND_ALLOW_PRIVATE_METHODS = "X-Backend-Allow-Private-Methods"
X_BACKEND_ALLOW_RESERVED_NAMES = "X-Backend-Allow-Reserved-Names"
X_BACKEND_ALLOW_OWN_PARAMETERS = "X-Backend-Allow-Own-Parameters"
X_BACKEND_AUTO_CREATE = "X-Backend-Auto-Create"
X_BACKEND_CLEAN_EXPIRING_OBJECT_QUEUE = "X-Backend-Clean-Expiring-Object-Queue"
X_BACKEND_CONTAINER_PATH = "X-Backend-Container-Path"
X_BACKEND_CONTENT_TYPE = "X-Backend-Content-Type"
X_BACKEND_DATA_TIMESTAMP = "X-Backend-Data-Timestamp"
X_BACKEND_DELETE_TIMESTAMP = "X-Backend-Delete-Timestamp"
X_BACKEND_DURABLE_TIMESTAMP = "X-Backend-Durable-Timestamp"
X_BACKEND_ETAG_IS_AT = "X-Backend-Etag-Is-At"
X_BACKEND_FRAGMENTS = "X-Backend-Fragments"
X_BACKEND_FRAGMENT_PREFERENCES = "X-Backend-Fragment-Preferences"
X_BACKEND_IGNORE_RANGE_IF_METADATA_PRESENT = (
    "X-Backend-Ignore-Range-If-Metadata-Present"
)
X_BACKEND_INBOUND_X_TIMESTAMP = "X-Backend-Inbound-X-Timestamp"
X_BACKEND_INCLUDE_DELETED = "X-Backend-Include-Deleted"
X_BACKEND_LOCATION_IS_QUOTED = "X-Backend-Location-Is-Quoted"
X_BACKEND_NEXT_PART_POWER = "X-Backend-Next-Part-Power"
X_BACKEND_NO_COMMIT = "X-Backend-No-Commit"
X_BACKEND_NO_TIMESTAMP_UPDATE = "X-Backend-No-Timestamp-Update"
X_BACKEND_OBJ_CONTENT_LENGTH = "X-Backend-Obj-Content-Length"
X_BACKEND_OBJ_METADATA_FOOTER = "X-Backend-Obj-Metadata-Footer"
X_BACKEND_OBJ_MULTIPART_MIME_BOUNDARY = "X-Backend-Obj-Multipart-Mime-Boundary"
X_BACKEND_OBJ_MULTIPHASE_COMMIT = "X-Backend-Obj-Multiphase-Commit"
X_BACKEND_OPEN_EXPIRED = "X-Backend-Open-Expired"
X_BACKEND_OVERRIDE_DELETED = "X-Backend-Override-Deleted"
X_BACKEND_OVERRIDE_SHARD_NAME_FILTER = "X-Backend-Override-Shard-Name-Filter"
X_BACKEND_PUT_TIMESTAMP = "X-Backend-Put-Timestamp"
X_BACKEND_QUOTED_CONTAINER_PATH = "X-Backend-Quoted-Container-Path"
X_BACKEND_RECORD_SHARD_FORMAT = "X-Backend-Record-Shard-Format"
X_BACKEND_RECORD_STORAGE_POLICY_INDEX = "X-Backend-Record-Storage-Policy-Index"
X_BACKEND_RECORD_TYPE = "X-Backend-Record-Type"
X_BACKEND_REDIRECT_TIMESTAMP = "X-Backend-Redirect-Timestamp"
X_BACKEND_REPLICATION = "X-Backend-Replication"
X_BACKEND_REPLICATION_HEADERS = "X-Backend-Replication-Headers"
X_BACKEND_SHARDING_STATE = "X-Backend-Sharding-State"
X_BACKEND_SSYNC_FRAG_INDEX = "X-Backend-Ssync-Frag-Index"
X_BACKEND_SSYNC_NODE_INDEX = "X-Backend-Ssync-Node-Index"
X_BACKEND_STATUS_CHANGED_AT = "X-Backend-Status-Changed-At"
X_BACKEND_STORAGE_POLICY_DEFAULT = "X-Backend-Storage-Policy-Default"
X_BACKEND_STORAGE_POLICY_INDEX = "X-Backend-Storage-Policy-Index"
X_BACKEND_TIMESTAMP = "X-Backend-Timestamp"
X_BACKEND_USE_REPLICATION_NETWORK = "X-Backend-Use-Replication-Network"
X_BYTES_USED = "X-Bytes-Used"
X_CONTAINER_DEVICE = "X-Container-Device"
X_CONTAINER_HOST = "X-Container-Host"
X_CONTAINER_PARTITION = "X-Container-Partition"
X_CONTAINER_ROOT_DB_STATE = "X-Container-Root-Db-State"
X_CONTENT_TYPE = "X-Content-Type"
X_CONTENT_TYPE_TIMESTAMP = "X-Content-Type-Timestamp"
X_DELETE_AT_CONTAINER = "X-Delete-At-Container"
X_DELETE_AT_DEVICE = "X-Delete-At-Device"
X_DELETE_AT_HOST = "X-Delete-At-Host"
X_DELETE_AT_PARTITION = "X-Delete-At-Partition"
X_DELETE_TIMESTAMP = "X-Delete-Timestamp"
X_DOCUMENT = "X-Document"
X_ETAG = "X-Etag"
X_META_TIMESTAMP = "X-Meta-Timestamp"
X_OBJECT_COUNT = "X-Object-Count"
X_OBJ_METADATA_FOOTER = "X-Obj-Metadata-Footer"
X_OBJ_MULTIPHASE_COMMIT = "X-Obj-Multiphase-Commit"
X_SIZE = "X-Size"

# Families: names that begin so
ACCESS_CONTROL = "Access-Control-"
BACKEND = "X-Backend-"
BACKEND_UPDATE_OVERRIDE = "X-Backend-Container-Update-Override-"
OBJECT_TRANSIENT_SYSMETA = "X-Object-Transient-Sysmeta-"
REMOVE = "X-Remove-"
SYSMETA_UPDATE_OVERRIDE = "X-Object-Sysmeta-Container-Update-Override-"
ACCOUNT_META = "X-Account-Meta-"
ACCOUNT_SYSMETA = "X-Account-Sysmeta-"
CONTAINER_META = "X-Container-Meta-"
CONTAINER_SYSMETA = "X-Container-Sysmeta-"
OBJECT_META = "X-Object-Meta-"
OBJECT_SYSMETA = "X-Object-Sysmeta-"
OBJECT_SYSMETA_EC = "X-Object-Sysmeta-Ec-"
ACCOUNT_STORAGE_POLICY = "X-Account-Storage-Policy-"
ACCOUNT_ACCESS_CONTROL_SYSMETA = ACCOUNT_SYSMETA + "Core-Access-Control"

# What large objects, links and versions keep with objects and containers
LISTED_ETAG = SYSMETA_UPDATE_OVERRIDE + "Etag"
LISTED_SIZE = SYSMETA_UPDATE_OVERRIDE + "Size"
LISTED_TYPE = SYSMETA_UPDATE_OVERRIDE + "Content-Type"
SLO_ETAG = OBJECT_SYSMETA + "Slo-Etag"
SLO_SIZE = OBJECT_SYSMETA + "Slo-Size"
SYMLINK_TARGET = OBJECT_SYSMETA + "Symlink-Target"
SYMLINK_TARGET_ACCOUNT = OBJECT_SYSMETA + "Symlink-Target-Account"
SYMLINK_TARGET_BYTES = OBJECT_SYSMETA + "Symlink-Target-Bytes"
SYMLINK_TARGET_ETAG = OBJECT_SYSMETA + "Symlink-Target-Etag"
SYMLOOP_EXTEND = OBJECT_SYSMETA + "Symloop-Extend"
LINK_ALLOWS_RESERVED = OBJECT_SYSMETA + "Allow-Reserved-Names"
VERSIONS_SYMLINK = OBJECT_SYSMETA + "Versions-Symlink"
VERSIONS_LOCATION_SYSMETA = CONTAINER_SYSMETA + "Versions-Location"
VERSIONS_MODE_SYSMETA = CONTAINER_SYSMETA + "Versions-Mode"
VERSIONS_ENABLED_SYSMETA = CONTAINER_SYSMETA + "Versions-Enabled"
VERSIONS_CONTAINER_SYSMETA = CONTAINER_SYSMETA + "Versions-Container"

META = {"account": ACCOUNT_META, "container": CONTAINER_META, "object": OBJECT_META}
"""Resource → prefix of its user metadata."""

SYSMETA = {
    "account": ACCOUNT_SYSMETA,
    "container": CONTAINER_SYSMETA,
    "object": OBJECT_SYSMETA,
}
"""Resource → prefix of the metadata that the cluster keeps for itself."""

# What a client can neither send nor see; gatekeeper removes these in both directions.
_INTERNAL_PREFIXES = (
    ACCOUNT_SYSMETA.lower(),
    CONTAINER_SYSMETA.lower(),
    OBJECT_SYSMETA.lower(),
    OBJECT_TRANSIENT_SYSMETA.lower(),
    BACKEND.lower(),
)
_INTERNAL_NAMES = frozenset(
    name.lower()
    for name in (
        X_ACCOUNT_DEVICE,
        X_ACCOUNT_HOST,
        X_ACCOUNT_PARTITION,
        X_CONTAINER_DEVICE,
        X_CONTAINER_HOST,
        X_CONTAINER_PARTITION,
        X_CONTAINER_ROOT_DB_STATE,
        X_DELETE_AT_CONTAINER,
        X_DELETE_AT_DEVICE,
        X_DELETE_AT_HOST,
        X_DELETE_AT_PARTITION,
    )
)

SENSITIVE = frozenset(
    (
        AUTHORIZATION,
        "Cookie",
        X_AUTH_KEY,
        X_AUTH_TOKEN,
        "X-Container-Sync-Auth",
        X_CONTAINER_SYNC_KEY,
        X_SERVICE_TOKEN,
        X_STORAGE_PASS,
        X_STORAGE_TOKEN,
        ACCOUNT_META + "Temp-Url-Key",
        ACCOUNT_META + "Temp-Url-Key-2",
        CONTAINER_META + "Temp-Url-Key",
        CONTAINER_META + "Temp-Url-Key-2",
    )
)
"""What proves or grants something; logs show its beginning only."""

ALLOWED_OBJECT_HEADERS = (
    CONTENT_DISPOSITION,
    CONTENT_ENCODING,
    X_DELETE_AT,
    X_OBJECT_MANIFEST,
    X_STATIC_LARGE_OBJECT,
    CACHE_CONTROL,
    CONTENT_LANGUAGE,
    EXPIRES,
    X_ROBOTS_TAG,
)
"""Default of `allowed_headers`: stored with an object beside its metadata."""

_TITLES: dict[str, str] = {}
_TITLES_MAX = 4096


def title(name: str) -> str:
    """The name as it is written: `x-object-META-foo` → `X-Object-Meta-Foo`.

    Only ASCII letters change. Results of the common names are remembered, up to a
    bound, so that a peer sending random names costs no memory.
    """
    known = _TITLES.get(name)
    if known is None:
        known = "-".join(_capitalised(word) for word in name.split("-"))
        if len(_TITLES) < _TITLES_MAX:
            _TITLES[name] = known
    return known


def _capitalised(word: str) -> str:
    if word.isascii():
        return word.capitalize()
    return "".join(
        (char.upper() if index == 0 else char.lower()) if char.isascii() else char
        for index, char in enumerate(word)
    )


def is_internal(name: str) -> bool:
    """True for a header that passes between the cluster's own parts only."""
    lowered = name.lower()
    return lowered.startswith(_INTERNAL_PREFIXES) or lowered in _INTERNAL_NAMES


def is_user_meta(resource: str, name: str) -> bool:
    """True for `X-<Resource>-Meta-<something>`; resource in lower case."""
    prefix = META[resource]
    return len(name) > len(prefix) and name.lower().startswith(prefix.lower())


def is_sysmeta(resource: str, name: str) -> bool:
    """True for `X-<Resource>-Sysmeta-<something>`; resource in lower case."""
    prefix = SYSMETA[resource]
    return len(name) > len(prefix) and name.lower().startswith(prefix.lower())


def is_transient_sysmeta(name: str) -> bool:
    """True for object metadata of the cluster that a POST replaces."""
    prefix = OBJECT_TRANSIENT_SYSMETA
    return len(name) > len(prefix) and name.lower().startswith(prefix.lower())


def true(value: str | None) -> bool:
    """True for the words that Swift calls true; None is False."""
    return value is not None and value.strip().lower() in TRUE_WORDS


class Headers(dict[str, str]):
    """Header names → values; names in any case, kept Title-Cased, in order."""

    __slots__ = ()

    def __init__(
        self, items: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), **more: Any
    ) -> None:
        super().__init__()
        if items or more:
            self.update(items, **more)

    @classmethod
    def titled(cls, items: Iterable[tuple[str, str]]) -> Headers:
        """From pairs whose names are Title-Cased and values are str already."""
        headers = cls.__new__(cls)  # a dict needs no __init__ to be empty
        dict.update(headers, items)
        return headers

    def __getitem__(self, name: str) -> str:
        return super().__getitem__(title(name))

    def __setitem__(self, name: str, value: Any) -> None:
        super().__setitem__(title(name), value if type(value) is str else str(value))

    def __delitem__(self, name: str) -> None:
        super().__delitem__(title(name))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and super().__contains__(title(name))

    def get(self, name: str, default: Any = None) -> Any:
        """The value, or `default`."""
        return super().get(title(name), default)

    def pop(self, name: str, *default: Any) -> Any:
        """Remove and return the value."""
        return super().pop(title(name), *default)

    def setdefault(self, name: str, default: Any = "") -> str:
        """The value; `default` becomes it when there is none."""
        return super().setdefault(title(name), str(default))

    def update(  # type: ignore[override]
        self, items: Mapping[str, Any] | Iterable[tuple[str, Any]] = (), **more: Any
    ) -> None:
        """Set many; keywords write underscores for dashes."""
        pairs = items.items() if isinstance(items, Mapping) else items
        for name, value in pairs:
            self[name] = value
        for name, value in more.items():
            self[name.replace("_", "-")] = value

    def copy(self) -> Headers:
        """A shallow copy."""
        return Headers.titled(self.items())

    def beginning(self, prefix: str) -> Iterator[tuple[str, str]]:
        """The items whose names begin with a Title-Cased prefix and go on."""
        for name, value in self.items():
            if name.startswith(prefix) and len(name) > len(prefix):
                yield name, value

    def true(self, name: str) -> bool:
        """True when the value is one of the words that Swift calls true."""
        return true(super().get(title(name)))

    def timestamp(self, name: str) -> Timestamp | None:
        """The value as a Timestamp, None when absent; raises InvalidInput."""
        text = super().get(title(name))
        if text is None:
            return None
        try:
            return Timestamp.parse(text)
        except InvalidInput as error:
            raise InvalidInput(f"bad {title(name)}: {text!r}") from error

    def integer(self, name: str) -> int | None:
        """The value as a whole number, None when absent; raises InvalidInput."""
        text = super().get(title(name))
        if text is None:
            return None
        try:
            return int(text)
        except ValueError as error:
            raise InvalidInput(f"bad {title(name)}: {text!r}") from error
