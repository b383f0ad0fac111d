# SPDX-License-Identifier: Apache-2.0
"""The door to SQLite. (Interface; bodies follow.)"""

from __future__ import annotations

from collections.abc import Callable


class Databases:
    """The open databases of one process: cached connections, bounded.

    One per server; handed to every broker. now: the clock (green.now). report: called
    with one line when something is moved aside or skipped (log.warning).
    """

    def __init__(
        self,
        now: Callable[[], float],
        report: Callable[[str], None] | None = None,
        *,
        max_idle: int = 32,
    ) -> None: ...


def db_path(
    root: str, device: str, kind: str, partition: int | str, path_hash: str
) -> str:
    """`<root>/<device>/<accounts|containers>/<partition>/<suffix>/<hash>/<hash>.db`."""
