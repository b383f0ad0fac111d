# SPDX-License-Identifier: Apache-2.0
"""Facts of accounts and containers for tests of filters, without a proxy behind."""

from __future__ import annotations

from typing import Any

from swift.core.headers import Headers
from swift.core.names import AccountName
from swift.wire.infocache import InfoFetcher
from swift.wire.request import Response


class Facts:
    """The HEADs that a proxy would make: path (`/a`, `/a/c`) → status and headers."""

    def __init__(self, **known: dict[str, str]) -> None:
        self.known: dict[str, tuple[int, dict[str, str]]] = {}
        self.asked: list[str] = []

    def set(self, path: str, status: int = 204, **headers: str) -> None:
        """Headers are written with underscores."""
        self.known[path] = (
            status,
            {name.replace("_", "-"): value for name, value in headers.items()},
        )

    def fetch(self, environ: Any, name: Any) -> Response:
        self.asked.append(name.path)
        default = (204, {}) if isinstance(name, AccountName) else (404, {})
        status, headers = self.known.get(name.path, default)
        return Response(status, Headers(headers))

    def give_to(self, bench: Any) -> Facts:
        """Let the filters of a Bench ask here."""
        bench.process.info_fetcher = InfoFetcher(self.fetch)
        return self
