# SPDX-License-Identifier: Apache-2.0
"""Asks all servers of a type one question over HTTP, many at a time (swift-recon)."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from swift.core.errors import PeerError
from swift.core.headers import CONTENT_LENGTH, SERVER
from swift.core.ring.devices import bracketed
from swift.runtime import green
from swift.wire.client import ConnectionPool

KINDS = ("account", "container", "object")
CONCURRENCY = 30
BODY_MAX = 16 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What one host said. content: None when it could not be had.

    began, ended: our clock around the question.
    """

    host: str
    url: str
    content: Any
    began: float
    ended: float
    failed: bool = False

    def value(self, key: str) -> Any:
        """One value of an answer that is an object; None in any other case."""
        return self.content.get(key) if isinstance(self.content, dict) else None

    def values(self, key: str) -> Mapping[str, Any]:
        """An object inside an answer that is an object; empty in any other case."""
        found = self.value(key)
        return found if isinstance(found, dict) else {}

    def devices(self) -> Iterator[Mapping[str, Any]]:
        """The entries of an answer that lists devices."""
        for entry in self.content if isinstance(self.content, list) else ():
            if isinstance(entry, dict) and "device" in entry and "mounted" in entry:
                yield entry


class Survey:
    """Asks all hosts of one type. hosts: (ip, port)."""

    def __init__(
        self,
        kind: str,
        hosts: Sequence[tuple[str, int]],
        options: argparse.Namespace,
        pool: ConnectionPool,
    ) -> None:
        self.kind = kind
        self.hosts = hosts
        self.options = options
        self._pool = pool

    def ask(self, question: str, *, each_ip_once: bool = False) -> list[Answer]:
        """The answers to `/recon/<question>`, in the order of the hosts. Yields."""
        hosts = self.hosts
        if each_ip_once:
            hosts = list({ip: (ip, port) for ip, port in reversed(hosts)}.values())
        return self._ask_all(hosts, f"/recon/{question}", self._get)

    def ask_servers(self) -> list[Answer]:
        """What each host calls itself in its Server header. Yields."""
        return self._ask_all(self.hosts, "/", self._options)

    def _ask_all(
        self,
        hosts: Sequence[tuple[str, int]],
        path: str,
        ask: Callable[[str, int, str], Any],
    ) -> list[Answer]:
        answers: dict[int, Answer] = {}

        def one(index: int, ip: str, port: int) -> None:
            host = f"{bracketed(ip)}:{port}"
            url, began, failed = f"http://{host}{path}", green.now(), False
            try:
                content = ask(ip, port, path)
            except (PeerError, ValueError) as error:
                content, failed = None, True
                if not self.options.suppress:
                    print(f"-> {url}: {error}")
            else:
                if self.options.verbose:
                    print(f"-> {url}: {json.dumps(content)}")
            answers[index] = Answer(host, url, content, began, green.now(), failed)

        pool = green.Pool(CONCURRENCY)
        for index, (ip, port) in enumerate(hosts):
            pool.spawn(one, index, ip, port)
        pool.wait_all()
        return [answers[index] for index in sorted(answers)]

    def _get(self, ip: str, port: int, path: str) -> Any:
        response = self._request(ip, port, "GET", path)
        body = response.read(BODY_MAX)
        if response.status != 200:
            raise PeerError(f"{ip}:{port}", f"HTTP status {response.status}")
        return json.loads(body)

    def _options(self, ip: str, port: int, path: str) -> Any:
        response = self._request(ip, port, "OPTIONS", path)
        response.read(BODY_MAX)
        return response.headers.get(SERVER, "")

    def _request(self, ip: str, port: int, method: str, path: str) -> Any:
        timeout_s = self.options.timeout
        return self._pool.request(
            ip,
            port,
            method,
            path,
            [(CONTENT_LENGTH, "0")] if method == "OPTIONS" else [],
            connect_timeout_s=timeout_s,
            response_timeout_s=timeout_s,
        )
