# SPDX-License-Identifier: Apache-2.0
"""The metadata column of both databases: names, values, and when each was said.

A value gives way to a newer one only. A blank value says that its name was removed, and
stays until it is older than the reclaim age, so that other copies hear of it. Nothing
here knows SQLite; the statements are the broker's. Format: databases contract 8.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Protocol

from swift.core.errors import FormatError, InvalidInput
from swift.core.headers import META

Metadata = dict[str, tuple[str, str]]
"""Name → (value, time in internal form); a blank value marks a removal."""


class MetadataLimits(Protocol):
    """The part of core.names.Limits that bounds a database's user metadata."""

    @property
    def max_meta_count(self) -> int:
        """Items."""

    @property
    def max_meta_overall_size(self) -> int:
        """Bytes of names and values."""


def parse_metadata(text: str) -> Metadata:
    """Read a metadata column; raises FormatError."""
    if not text:
        return {}
    try:
        return {
            str(name): (str(pair[0]), str(pair[1]))
            for name, pair in json.loads(text).items()
        }
    except (ValueError, AttributeError, TypeError, LookupError) as error:
        raise FormatError("database metadata", f"is {text!r:.80}") from error


def metadata_text(metadata: Mapping[str, tuple[str, str]]) -> str:
    """What `parse_metadata` reads."""
    return json.dumps({name: list(pair) for name, pair in metadata.items()})


def is_newer(update: tuple[str, str], old: tuple[str, str] | None) -> bool:
    """True when a value is later than that of its name, if there is one."""
    return old is None or update[1] > old[1]


def merged_metadata(old: Metadata, updates: Mapping[str, tuple[str, str]]) -> Metadata:
    """The newer of each name's values."""
    newer = {name: new for name, new in updates.items() if is_newer(new, old.get(name))}
    return {**old, **newer}


def without_old(metadata: Metadata, age: str) -> Metadata:
    """Metadata but for what was removed before that time."""
    return {
        name: pair for name, pair in metadata.items() if pair[0] != "" or pair[1] >= age
    }


def check_metadata(kind: str, metadata: Metadata, limits: MetadataLimits) -> None:
    """Hold the user metadata of a database to the limits; raises InvalidInput."""
    prefix = META[kind].lower()
    count = size = 0
    for name, (value, _) in metadata.items():
        if value and name.lower().startswith(prefix):
            count += 1
            size += len(name[len(prefix) :].encode()) + len(value.encode())
    if count > limits.max_meta_count:
        raise InvalidInput(f"Too many metadata items; max {limits.max_meta_count}")
    if size > limits.max_meta_overall_size:
        raise InvalidInput(
            f"Total metadata too large; max {limits.max_meta_overall_size}"
        )
