# SPDX-License-Identifier: Apache-2.0
"""swift-account-audit: do all replicas of an account's things say the same?

Accounts, containers and objects are asked of every primary node directly, and what they
answer is compared. Nothing is repaired. Contract cli §4.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from hashlib import md5
from typing import Any

from swift.core import headers as h
from swift.core.errors import PeerError, SwiftError
from swift.core.headers import Headers
from swift.core.names import (
    AccountName,
    ContainerName,
    Name,
    ObjectName,
    quote,
    split_name,
)
from swift.core.ring.devices import Node
from swift.core.ring.ring import Ring
from swift.runtime import green
from swift.runtime.cluster import Cluster
from swift.runtime.config import DEFAULT_SWIFT_DIR
from swift.wire.client import ConnectionPool, TcpConnector
from swift.wire.direct import DirectClient, DirectError

CONCURRENCY = 50
LISTING_LIMIT = 10000

CHECKED = "{kind}s checked"
MISSING = "Missing Replicas"
EXCEPTIONS = "Exceptions"
CONTAINER_MISMATCH = "Container mismatch"
OBJECT_MISMATCH = "Object mismatch"
COUNT_MISMATCH = "Count mismatch"
MD5_MISMATCH = "MD5 Mismatch"
_COUNTERS = (
    MISSING, EXCEPTIONS, CONTAINER_MISMATCH, OBJECT_MISMATCH, COUNT_MISMATCH,
    MD5_MISMATCH,
)  # fmt: skip

Row = dict[str, Any]


def account_audit(argv: Sequence[str] | None = None) -> int:
    """Run swift-account-audit; 0 after any audit."""
    parser = argparse.ArgumentParser(
        prog="swift-account-audit",
        description="Compare what all replicas of accounts, containers and objects "
        "say. Paths are account[/container[/object]]; they are also read from "
        "standard input unless that is a terminal.",
    )
    parser.add_argument("paths", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument(
        "-c", dest="concurrency", type=int, default=CONCURRENCY, metavar="N",
        help="requests in flight (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "-r", dest="ring_dir", default=DEFAULT_SWIFT_DIR, metavar="DIR",
        help="where swift.conf and rings are (default %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "-e", dest="error_file", metavar="FILE", help="append paths of what differs"
    )
    parser.add_argument(
        "-d", dest="download", action="store_true", help="read and hash every object"
    )
    options = parser.parse_intermixed_args(argv)
    paths = list(options.paths)
    if not sys.stdin.isatty():
        paths += [line.strip() for line in sys.stdin if line.strip()]
    elif not paths:
        parser.print_help()
        return 0
    try:
        cluster = Cluster.load(options.ring_dir)
        names = [split_name(f"/{path.lstrip('/')}") for path in paths]
    except SwiftError as error:
        print(error, file=sys.stderr)
        return 1
    pool = ConnectionPool(TcpConnector())
    audit = Audit(cluster, pool, options.concurrency, download=options.download)
    try:
        audit.run(names)
    finally:
        pool.close()
    if options.error_file:
        with open(options.error_file, "a", encoding="utf-8") as out:
            out.writelines(f"{path}\n" for path in audit.bad_paths)
    audit.print_totals()
    return 0


@dataclass
class Replies:
    """What the primaries said of one thing.

    rows: of a listing, by node. missing: nodes that have none of it. failed: nodes
    that gave no answer.
    """

    nodes: list[Node] = field(default_factory=list)
    headers: list[Headers] = field(default_factory=list)
    rows: list[list[Row]] = field(default_factory=list)
    missing: int = 0
    failed: int = 0


class Audit:
    """One run; every container is looked at once, however often it is named."""

    def __init__(
        self,
        cluster: Cluster,
        pool: ConnectionPool,
        concurrency: int,
        *,
        download: bool = False,
    ) -> None:
        self._cluster = cluster
        self._client = DirectClient(
            pool, user_agent="swift-account-audit", over_replication=False
        )
        self._pool = green.Pool(max(1, concurrency))
        self._download = download
        self._containers: dict[ContainerName, int | None] = {}
        self.counts: dict[str, Counter[str]] = {
            kind: Counter() for kind in ("Account", "Container", "Object")
        }
        self.bad_paths: list[str] = []

    def run(self, names: Iterable[Name]) -> None:
        """Audit things and all that is in them. Yields."""
        for name in names:
            if isinstance(name, AccountName):
                self._account(name)
            elif isinstance(name, ContainerName):
                self._container(name)
            else:
                headers = self._container_headers(name.container_name)
                index = headers.integer(h.X_BACKEND_STORAGE_POLICY_INDEX) or 0
                self._object(name, index, None)
        self._pool.wait_all()

    # --- One thing --------------------------------------------------------------------

    def _account(self, name: AccountName) -> None:
        print(f'Auditing account "{name.account}"')
        self.counts["Account"][CHECKED.format(kind="Account")] += 1
        ring = self._cluster.account_ring()
        replies = self._replies("Account", name, ring, self._listing)
        listed = self._compare("Account", name, replies, CONTAINER_MISMATCH)
        counted = 0
        is_whole = True
        for container in listed:
            count = self._container(ContainerName(name.account, container))
            if count is None:
                is_whole = False
            else:
                counted += count
        for node, headers in zip(replies.nodes, replies.headers, strict=True):
            told = headers.integer(h.X_ACCOUNT_OBJECT_COUNT) or 0
            if is_whole and told != counted:
                self._bad(
                    "Account",
                    COUNT_MISMATCH,
                    name,
                    node,
                    f"has {counted} objects, not {told}",
                )
            if (headers.integer(h.X_ACCOUNT_CONTAINER_COUNT) or 0) != len(listed):
                self._bad(
                    "Account", COUNT_MISMATCH, name, node, "counts containers wrongly"
                )

    def _container(self, name: ContainerName) -> int | None:
        """Audit a container and its objects; how many objects it says it has."""
        if name in self._containers:
            return self._containers[name]
        print(f'Auditing container "{name.container}"')
        self.counts["Container"][CHECKED.format(kind="Container")] += 1
        ring = self._cluster.container_ring()
        replies = self._replies("Container", name, ring, self._listing)
        listed = self._compare("Container", name, replies, OBJECT_MISMATCH)
        told: int | None = None
        index = 0
        for node, headers in zip(replies.nodes, replies.headers, strict=True):
            told = headers.integer(h.X_CONTAINER_OBJECT_COUNT) or 0
            index = headers.integer(h.X_BACKEND_STORAGE_POLICY_INDEX) or 0
            # The objects of a sharded container are listed by its shards.
            sharded = headers.get(h.X_BACKEND_SHARDING_STATE, "unsharded")
            if sharded == "unsharded" and told != len(listed):
                self._bad(
                    "Container",
                    COUNT_MISMATCH,
                    name,
                    node,
                    f"lists {len(listed)} objects, not {told}",
                )
        self._containers[name] = told
        for obj, row in listed.items():
            target = ObjectName(name.account, name.container, obj)
            self._pool.spawn(self._object, target, index, row)
        return told

    def _container_headers(self, name: ContainerName) -> Headers:
        ring = self._cluster.container_ring()
        partition = ring.partition(self._cluster.salt.digest_of(name))
        for node in ring.primaries(partition):
            try:
                return self._client.head(node, partition, name)
            except PeerError:
                continue
        return Headers()

    def _object(self, name: ObjectName, index: int, row: Row | None) -> None:
        """Audit an object; row: what its container says of it."""
        self.counts["Object"][CHECKED.format(kind="Object")] += 1
        try:
            ring = self._cluster.object_ring(index)
        except SwiftError as error:
            print(f"  {error}")
            self.counts["Object"][EXCEPTIONS] += 1
            return

        def ask(node: Node, partition: int, name: Name, replies: Replies) -> Headers:
            assert isinstance(name, ObjectName), "asked for objects"
            extra = {h.X_BACKEND_STORAGE_POLICY_INDEX: str(index)}
            if not self._download:
                return self._client.head(node, partition, name, extra)
            answer = self._client.get_object(node, partition, name, extra)
            digest = md5(usedforsecurity=False)
            try:
                for block in answer:
                    digest.update(block)
            finally:
                answer.close()
            etag = answer.headers.get(h.ETAG, "").strip('"')
            if digest.hexdigest() != etag:
                self._bad("Object", MD5_MISMATCH, name, node, f"is not {etag}")
            return answer.headers

        replies = self._replies("Object", name, ring, ask)
        for node, headers in zip(replies.nodes, replies.headers, strict=True):
            etag = headers.get(h.X_OBJECT_SYSMETA_EC_ETAG) or headers.get(h.ETAG, "")
            # More than a checksum there is what encryption or manifests add.
            listed = str(row["hash"]) if row is not None else ""
            if len(listed) == 32 and etag.strip('"') != listed:
                self._bad("Object", MD5_MISMATCH, name, node, f"is listed as {listed}")

    # --- Asking and comparing ---------------------------------------------------------

    def _replies(
        self,
        kind: str,
        name: Name,
        ring: Ring,
        ask: Callable[[Node, int, Name, Replies], Headers],
    ) -> Replies:
        """What each primary says; who says nothing is printed and counted."""
        replies = Replies()
        partition = ring.partition(self._cluster.salt.digest_of(name))
        for node in ring.primaries(partition):
            try:
                headers = ask(node, partition, name, replies)
            except DirectError as error:
                replies.missing += 1
                self._bad(kind, MISSING, name, node, f"status {error.status}")
            except (PeerError, ValueError, TypeError, LookupError) as error:
                # The latter: what should be a listing is none.
                replies.failed += 1
                self._bad(
                    kind, EXCEPTIONS, name, node, f"{type(error).__name__}: {error}"
                )
            else:
                replies.nodes.append(node)
                replies.headers.append(headers)
        return replies

    def _listing(
        self, node: Node, partition: int, name: Name, replies: Replies
    ) -> Headers:
        assert not isinstance(name, ObjectName), "an object lists nothing"
        rows: list[Row] = []
        marker = ""
        while True:
            query = f"limit={LISTING_LIMIT}&marker={quote(marker)}"
            headers, page = self._client.listing(node, partition, name, query)
            rows += [{"hash": "", **row, "name": str(row["name"])} for row in page]
            if len(page) < LISTING_LIMIT:
                break
            marker = rows[-1]["name"]
        replies.rows.append(rows)
        return headers

    def _compare(
        self, kind: str, name: Name, replies: Replies, mismatch: str
    ) -> dict[str, Row]:
        """Everything that any replica lists; who lists less is printed and counted."""
        listed: dict[str, Row] = {}
        for rows in replies.rows:
            for row in rows:
                listed.setdefault(row["name"], row)
        for node, rows in zip(replies.nodes, replies.rows, strict=True):
            lacking = listed.keys() - {row["name"] for row in rows}
            if lacking:
                example = min(lacking)
                self._bad(
                    kind, mismatch, name, node,
                    f"does not list {len(lacking)}, as {example!r}",
                )  # fmt: skip
        return listed

    def _bad(self, kind: str, counter: str, name: Name, node: Node, what: str) -> None:
        self.counts[kind][counter] += 1
        print(f"  {counter}: {name.path} {what} on {node.ip}:{node.port}/{node.name}")
        if name.path not in self.bad_paths:
            self.bad_paths.append(name.path)

    def print_totals(self) -> None:
        """Three groups of counters; of problems, those that there were."""
        for kind, counts in self.counts.items():
            checked = CHECKED.format(kind=kind)
            print()
            print(f"{checked:>18}: {counts[checked]}")
            for name in _COUNTERS:
                if counts[name]:
                    print(f"{name:>18}: {counts[name]}")
        print()
