# SPDX-License-Identifier: Apache-2.0
"""The rows of a ring's table, made fit: other lengths, other widths, twice as many.

A row is an array of device ids, one a partition; its width and the marker of what is
unassigned follow from the highest device id (ring.row_type, ring.unassigned_marker).
Rows come in and new rows go out.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from swift.core.errors import FormatError
from swift.core.ring.ring import Row, row_type, unassigned_marker


def resized(
    rows: Sequence[Row], lengths: Sequence[int], dev_id_bytes: int
) -> list[Row]:
    """Copies of the rows, as many and as long as `lengths`; new entries: unassigned."""
    code = row_type(dev_id_bytes)
    marker = unassigned_marker(dev_id_bytes)
    made = []
    for number, length in enumerate(lengths):
        row = array(code)
        if number < len(rows):
            row = _converted(rows[number][:length], code, marker)
        if len(row) < length:
            row.extend(array(code, [marker]) * (length - len(row)))
        made.append(row)
    return made


def loaded(rows: Sequence[Sequence[int]], parts: int, dev_id_bytes: int) -> list[Row]:
    """The rows of a file. Raises FormatError for one that is longer than `parts`."""
    code = row_type(dev_id_bytes)
    marker = unassigned_marker(dev_id_bytes)
    made = []
    for row in rows:
        given = array("I", row)
        if len(given) > parts:
            raise FormatError("builder", f"row of {len(given)} partitions")
        # A row of 4-byte entries may come from a time with higher device ids.
        width = row.itemsize if isinstance(row, array) else 4
        if width == 2:
            given = array("H", given)
        made.append(_converted(given, code, marker))
    return made


def doubled(rows: Sequence[Row]) -> list[Row]:
    """Rows of twice the length: what stood at p stands at 2p and 2p + 1."""
    made = []
    for row in rows:
        wide = array(row.typecode, bytes(2 * len(row) * row.itemsize))
        wide[0::2] = row
        wide[1::2] = row
        made.append(wide)
    return made


def entries_changed(before: Sequence[Row], after: Sequence[Row]) -> int:
    """Entries of the new table that differ from, or are not in, the old one."""
    changed = 0
    for number, row in enumerate(after):
        old = before[number] if number < len(before) else array(row.typecode)
        changed += len(row) - min(len(row), len(old))
        changed += sum(map(int.__ne__, row, old))
    return changed


def _converted(row: Row, code: str, marker: int) -> Row:
    """The row with another width, the unassigned marker translated."""
    old_marker = 0xFFFF if row.itemsize == 2 else 0xFFFFFFFF
    if row.typecode == code:
        return array(code, row)
    if old_marker not in row:
        return array(code, row)
    return array(code, [marker if d == old_marker else d for d in row])
