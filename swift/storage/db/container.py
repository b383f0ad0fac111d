# SPDX-License-Identifier: Apache-2.0
"""Containers in SQLite: object rows, listings, policy, shard ranges. (Interface; bodies follow.)

Everything here is plain blocking code: call it through `green.in_thread`, but
`append_now`, which never waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from swift.core.listing import Entry, ListingQuery
from swift.core.names import ContainerName
from swift.core.rows import ObjectRow
from swift.core.shards import ShardQuery, ShardRange
from swift.core.timestamp import Timestamp
from swift.storage.db.connection import Databases


@dataclass(frozen=True, slots=True)
class ContainerStat:
    """The facts of a container; times are text in internal form."""

    account: str
    container: str
    created_at: str
    put_timestamp: str
    delete_timestamp: str
    status: str
    status_changed_at: str
    object_count: int
    bytes_used: int
    reported_put_timestamp: str
    reported_delete_timestamp: str
    reported_object_count: int
    reported_bytes_used: int
    hash: str
    id: str
    x_container_sync_point1: int
    x_container_sync_point2: int
    storage_policy_index: int
    db_state: str  # not_found, unsharded, sharding, sharded, collapsed
    metadata_text: str

    @property
    def is_deleted(self) -> bool: ...
    @property
    def metadata(self) -> dict[str, tuple[str, str]]:
        """Name → (value, timestamp), blank values too; native Unicode."""


class ContainerBroker:
    def __init__(
        self, databases: Databases, path: str, name: ContainerName | None = None
    ) -> None:
        """path: from `db_path(root, device, "containers", partition, hash)`.

        name: needed to create only."""

    # every method raises DatabaseMissing when there is no file, DatabaseCorrupt after
    # moving a malformed one aside, LockTimeout, DiskFull / DeviceUnavailable
    def exists(self) -> bool: ...
    def create(self, put_timestamp: Timestamp, policy_index: int) -> None:
        """Raises DatabaseExists when a file is there."""

    def stat(self, *, stale_ok: bool = False) -> ContainerStat:
        """Merges the pending file first; stale_ok (GET, HEAD): waits 0.1 s only and goes on."""

    def put_now(self, row: ObjectRow, *, redirect: bool = False) -> bool:
        """Append to the pending file without waiting (run inline on the hub).

        False: call `put_object` in a thread. redirect: only if no shard could want it."""

    def put_object(
        self, row: ObjectRow, *, redirect: bool = False
    ) -> ShardRange | None:
        """Append or merge the row; with `redirect`, a live updating shard range that holds
        the name is returned instead and nothing is written (301)."""

    def list_objects(
        self,
        query: ListingQuery,
        policy_index: int | None = None,
        *,
        allow_reserved: bool = False,
    ) -> list[Entry]:
        """core.listing entries; None: the container's own policy."""

    def list_shard_ranges(self, query: ShardQuery) -> list[ShardRange]: ...
    def merge_shard_ranges(self, ranges: Iterable[ShardRange]) -> bool: ...
    def own_shard_range(self) -> ShardRange | None: ...
    def is_root(self) -> bool: ...
    def update_metadata(
        self, updates: Mapping[str, tuple[str, str]], limits: Any = None
    ) -> None:
        """Raises InvalidInput when the user metadata exceeds limits (max_meta_count, max_meta_overall_size)."""

    def update_put_timestamp(self, timestamp: str) -> None: ...
    def update_status_changed_at(self, timestamp: str) -> None: ...
    def set_policy(self, policy_index: int, timestamp: str) -> None: ...
    def delete(self, timestamp: str) -> None:
        """Blank metadata, set delete_timestamp and status, when newer."""

    def is_deleted(self) -> bool: ...
    def empty(self) -> bool: ...
    def merge_rows(
        self, rows: Sequence[ObjectRow], source: str | None = None, last_rowid: int = -1
    ) -> None:
        """For UPDATE and merge_items."""

    def reported(
        self, put: str, delete: str, object_count: int, bytes_used: int
    ) -> None: ...
    def replication_info(self) -> dict[str, Any]: ...
