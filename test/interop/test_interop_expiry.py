# SPDX-License-Identifier: Apache-2.0
"""Expirer queue names equal those of OpenStack Swift."""

from __future__ import annotations

import json
from pathlib import Path

from swift.core import expiry
from swift.core.hashing import HashSalt
from swift.core.names import ObjectName

GOLDEN = Path(__file__).parent / "golden" / "hashing" / "expirer_queue.json"


def test_queue_containers_and_tasks_are_the_golden_ones():
    golden = json.loads(GOLDEN.read_text())
    salt = HashSalt(golden["hash_prefix"].encode(), golden["hash_suffix"].encode())
    for row in golden["rows"]:
        name = ObjectName(*row["path"])
        container = expiry.queue_container(row["delete_at"], name, salt)
        assert row["account"] == expiry.QUEUE_ACCOUNT
        assert container == row["container"], row
        assert expiry.task_name(row["delete_at"], name) == row["task_object"]
    assert expiry.task_content_type(1234) == golden["content_type_example"]
