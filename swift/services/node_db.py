# SPDX-License-Identifier: Apache-2.0
"""What account and container servers share: where databases are, listings, metadata."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from swift.core import listing
from swift.core.errors import InvalidInput
from swift.core.hashing import HashSalt
from swift.core.headers import ACCEPT, Headers
from swift.core.listing import LimitTooLarge, ListingQuery, NotAcceptable
from swift.core.names import Name, text_of_wsgi, wsgi_of_text
from swift.core.settings import boolean, option
from swift.core.timestamp import Timestamp
from swift.runtime import green
from swift.runtime.cluster import Cluster
from swift.runtime.logs import Logger
from swift.services.node import NodeCall, NodeConfig
from swift.storage.db.connection import Databases, db_path
from swift.storage.devices import Devices
from swift.wire import environ as env
from swift.wire.request import Response

TMP_DIR = "tmp"
"""Where rsync puts whole databases, below a device."""


@dataclass(frozen=True)
class DatabaseConfig(NodeConfig):
    """Options of both database servers."""

    devices: str = option("/srv/node", doc="Directory in which devices are mounted.")
    mount_check: bool = option(
        True, parse=boolean, doc="Refuse devices that are no mount points."
    )
    db_query_logging: bool = option(
        False, parse=boolean, doc="Log every SQL statement, at level DEBUG."
    )
    db_preallocation: bool = option(
        False, parse=boolean, doc="Of no effect: SQLite allocates what it needs."
    )


@dataclass(frozen=True, slots=True)
class DatabaseRoom:
    """The databases of this node."""

    devices: Devices
    databases: Databases
    salt: HashSalt

    @classmethod
    def of(
        cls, config: DatabaseConfig, *, cluster: Cluster, log: Logger
    ) -> DatabaseRoom:
        """The databases below the devices of a server's configuration."""
        trace = partial(log.debug, "SQL: %s") if config.db_query_logging else None
        return cls(
            Devices(config.devices, config.mount_check),
            Databases(green.now, log.warning, trace=trace),
            cluster.salt,
        )

    def path(self, device: str, kind: str, partition: str, name: Name) -> str:
        """Where the database of a name is; kind: `accounts` or `containers`.

        Raises DeviceUnavailable. One stat; it does not wait for a healthy disk.
        """
        path_hash = self.salt.hex_of(name)
        return self.path_of_hash(device, kind, partition, path_hash)

    def path_of_hash(
        self, device: str, kind: str, partition: str, path_hash: str
    ) -> str:
        """As `path`, for a database whose hash is known."""
        self.devices.path(device)
        return db_path(self.devices.root, device, kind, partition, path_hash)

    def make_tmp(self, device: str) -> None:
        """Make the directory that rsync copies whole databases into. Blocks."""
        fs = self.devices.fs
        with suppress(FileExistsError):
            fs.make_directory(f"{self.devices.path(device)}/{TMP_DIR}")

    def check(self, device: str) -> None:
        """Raise DeviceUnavailable when the device cannot be used."""
        self.devices.path(device)


@dataclass(frozen=True, slots=True)
class ListingRequest:
    """What a GET asks a database server for.

    params: decoded. format: a media type of core.listing.
    """

    params: Mapping[str, str]
    query: ListingQuery
    format: str

    @classmethod
    def of(
        cls, call: NodeCall, limit_max: int, *, head: bool = False
    ) -> ListingRequest | Response:
        """Read the query; the answer when it cannot be served.

        head: a HEAD, whose query counts for the format only.
        """
        query_string = call.environ.get(env.QUERY_STRING, "")
        params = listing.query_params(query_string) if query_string else {}
        try:
            found = listing.listing_format(
                params.get("format"), dict.get(call.headers, ACCEPT)
            )
            query = _NO_QUERY if head else ListingQuery.from_params(params, limit_max)
        except LimitTooLarge as error:
            return Response(412, body=str(error))
        except NotAcceptable:
            return Response(406)
        return cls(params, query, found)


_NO_QUERY = ListingQuery()


def metadata_of(
    headers: Headers,
    timestamp: Timestamp,
    prefixes: tuple[str, ...],
    names: Iterable[str] = (),
) -> dict[str, tuple[str, str]]:
    """What a request says to store: name → (value, time), as native Unicode.

    Raises InvalidInput for what is not UTF-8.
    """
    stamp = timestamp.internal
    found = {}
    for name, value in headers.items():
        if name.startswith(prefixes) or name in names:
            try:
                found[text_of_wsgi(name)] = (text_of_wsgi(value), stamp)
            except InvalidInput as error:
                raise InvalidInput("Metadata must be valid UTF-8") from error
    return found


def put_metadata(headers: Headers, metadata: Mapping[str, tuple[str, str]]) -> None:
    """Add stored metadata to an answer, but what was removed (blank values)."""
    for name, (value, _) in metadata.items():
        if value:
            headers[wsgi_of_text(name)] = wsgi_of_text(value)
