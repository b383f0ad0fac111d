# SPDX-License-Identifier: Apache-2.0
"""The queue of the container reconciler: rows whose policy is not their container's.

A queue container is named after the hour of the row's metadata time, so that no one
container takes every entry. Contract daemons §12; golden: reconciler_queue.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from swift.core.rows import ObjectRow
from swift.core.timestamp import decode_triple

QUEUE_ACCOUNT = ".misplaced_objects"
QUEUE_DIVISOR_S = 3600
PUT_TYPE = "application/x-put"
DELETE_TYPE = "application/x-delete"


def queue_container(created_at: str) -> str:
    """The container that takes the entry of a row with those times."""
    meta = decode_triple(created_at)[2]
    return str(int(meta.seconds) // QUEUE_DIVISOR_S * QUEUE_DIVISOR_S)


def queue_name(policy_index: int, path: str) -> str:
    """The name of an entry; path: `/account/container/object`."""
    return f"{policy_index}:{path}"


def queue_row(container_path: str, record: Mapping[str, Any]) -> ObjectRow:
    """The entry of a misplaced row.

    container_path: `/account/container`; of a shard, its root's. record: the row as of
    a merge_items call.
    """
    created_at = record["created_at"]
    return ObjectRow(
        name=queue_name(
            record["storage_policy_index"], f"{container_path}/{record['name']}"
        ),
        created_at=created_at,
        size=0,
        content_type=DELETE_TYPE if record["deleted"] else PUT_TYPE,
        etag=created_at,
    )
