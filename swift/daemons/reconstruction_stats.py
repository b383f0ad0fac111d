# SPDX-License-Identifier: Apache-2.0
"""What the reconstructor tells recon: when its passes ended and how long they took.

Recon's keys are those that operators already read (contract daemons §1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

PER_DISK = "object_reconstruction_per_disk"
"""Where each worker leaves the facts of its devices."""

TIME = "object_reconstruction_time"
LAST = "object_reconstruction_last"


def recon_entry(minutes: float, last: float) -> dict[str, Any]:
    """The keys of object.recon about a pass that ended at `last`."""
    return {TIME: minutes, LAST: last}


def aggregated(found: Any, names: Sequence[str]) -> dict[str, Any]:
    """What recon is told once each device has reported; less before.

    found: the entry of all devices, as it is on disk. names: our devices; the entries
    of others are deleted. Workers do not begin together: all took from the oldest
    beginning to the newest end.
    """
    reported = found if isinstance(found, dict) else {}
    gone: dict[str, Any] = {name: {} for name in reported if name not in names}
    updates: dict[str, Any] = {PER_DISK: gone} if gone else {}
    entries = [reported[name] for name in names if _is_report(reported.get(name))]
    if entries and len(entries) == len(names):
        last = max(entry[LAST] for entry in entries)
        began = min(entry[LAST] - 60 * entry[TIME] for entry in entries)
        updates |= recon_entry((last - began) / 60, last)
    return updates


def _is_report(entry: Any) -> bool:
    return isinstance(entry, Mapping) and all(
        isinstance(entry.get(key), (int, float)) for key in (TIME, LAST)
    )
